"""One image and one sentence become the tensors the model takes."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from openvla_core.errors import InstructionError
from openvla_core.image_preparation import ImagePreparation
from openvla_core.image_processor import ImageProcessor
from openvla_core.model import OpenVLAConfig
from openvla_core.model.config import ACTION_BINS
from openvla_core.prompt import SPACE, build_prompt, clean_instruction, with_trailing_space

UNKNOWN = "<unk>"


class Processor:
    """Shared by inference, training and evaluation, so that all of them show the model the same thing.

    preparation: what is done to every image before the image processor; nothing unless a convention card asks for it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_processor: ImageProcessor,
        config: OpenVLAConfig,
        preparation: ImagePreparation | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.preparation = ImagePreparation() if preparation is None else preparation
        self.config = config
        space_id = tokenizer.token_to_id(SPACE)
        assert space_id is not None, "load_tokenizer checks this"
        self.space_id: int = space_id
        self._forbidden = _special_ids(tokenizer, config)
        # The instruction changes seldom, the image at every call.
        self._cached_ids = lru_cache(maxsize=64)(self._encode)

    def __call__(self, image: Any, instruction: str) -> dict[str, Tensor]:
        """image (H, W, 3) uint8 RGB and a sentence -> input_ids (1, L) int64, attention_mask (1, L) int64 and
        pixel_values (1, 3 per tower, S, S) float32. Raises ImageError or InstructionError."""
        input_ids = torch.tensor([self.prompt_ids(instruction)])
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": self.pixel_values(image),
        }

    def pixel_values(self, image: Any) -> Tensor:
        """image (H, W, 3) uint8 RGB -> (1, 3 per tower, S, S) float32, prepared and normalised."""
        return torch.from_numpy(self.image_processor(self.preparation(image)))[None]

    def prompt_ids(self, instruction: str) -> tuple[int, ...]:
        """Ids of the prompt around the instruction, beginning-of-sequence first.

        Raises InstructionError when the instruction would become anything but ordinary text: special words such as
        "</s>", characters that stand for action tokens, words the tokenizer does not know.
        """
        clean_instruction(instruction)  # checked only: the model sees the sentence as it was given
        return self._cached_ids(instruction)

    def generation_ids(self, instruction: str) -> list[int]:
        """Ids after which the model answers with the action: the prompt and the space token."""
        return with_trailing_space(self.prompt_ids(instruction), self.space_id)

    def unknown_words(self, instruction: str) -> list[str]:
        """The words of the instruction that this tokenizer does not know, in order."""
        unknown_id = self.tokenizer.token_to_id(UNKNOWN)
        words = self._words_that_become(instruction, frozenset() if unknown_id is None else frozenset({unknown_id}))
        return [word for word in words if word != UNKNOWN]

    def _encode(self, instruction: str) -> tuple[int, ...]:
        words = self._words_that_become(instruction, self._forbidden)
        if words:
            raise InstructionError(
                f"the instruction contains {', '.join(map(repr, words))}, which this checkpoint does not read as text: "
                "a special word, a character that stands for an action, or a word it does not know. Use other words."
            )
        ids = self.tokenizer.encode(build_prompt(instruction, self.config.prompt_style)).ids
        room = self.config.language.max_position_embeddings - self.config.patches - 64
        if len(ids) > room:
            raise InstructionError(f"the instruction makes {len(ids)} tokens and {room} fit; send a shorter sentence.")
        return tuple(ids)

    def _words_that_become(self, instruction: str, forbidden: frozenset[int]) -> list[str]:
        """The parts of the instruction that the tokenizer turns into one of these ids, in order."""
        prompt = build_prompt(instruction, self.config.prompt_style)
        first = build_prompt("\0", self.config.prompt_style).index("\0")
        last = first + len(instruction.lower())
        encoding = self.tokenizer.encode(prompt)
        spans = [
            (start, end)
            for (start, end), i in zip(encoding.offsets, encoding.ids, strict=True)
            if i in forbidden and start < last and end > first
        ]
        return list(dict.fromkeys(prompt[start:end].strip() for start, end in spans))


def _special_ids(tokenizer: Tokenizer, config: OpenVLAConfig) -> frozenset[int]:
    """Ids that no instruction may contain: special tokens, action tokens and the padding above them."""
    language = config.language
    named = {i for i in map(tokenizer.token_to_id, (UNKNOWN, "<s>", "</s>")) if i is not None}
    added = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    own = {language.bos_token_id, language.eos_token_id, config.pad_token_id}
    return frozenset(named | added | own | set(range(config.action_vocab_size - ACTION_BINS, language.vocab_size)))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copies a tensor of any device to a numpy array of the same shape."""
    return tensor.cpu().numpy()
