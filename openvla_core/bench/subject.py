"""What is measured: one set of weights, a sentence, and images that no mode has seen before."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from openvla_core.action_statistics import ActionStatistics, choose_unnorm_key, statistics_of
from openvla_core.bench.random_weights import checksum, random_model
from openvla_core.checkpoint import Checkpoint, load_checkpoint
from openvla_core.decoding import Decoder
from openvla_core.errors import ConfigError
from openvla_core.image_processor import ImageProcessor, preprocessor_config
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.policy import Policy
from openvla_core.prompt import SPACE, build_prompt
from openvla_core.weights import parse_dtype

SIZES = ("tiny", "7b")
SHIPPED = Path("checkpoints") / "openvla-tiny-sim"
HEIGHT, WIDTH = 480, 640
# With the stand-in tokenizer its prompt has as many tokens as a typical one of the published model, 23 and the space.
SENTENCE = "put the red cube on the blue plate beside it"
FULL_SIZE: dict[str, Any] = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
}
RANGE: dict[str, Any] = {"action": {"q01": [-0.05] * 7, "q99": [0.05] * 7, "mask": [True] * 6 + [False]}}


@dataclass
class Subject:
    """A loaded model with one sentence. `policy` is the product's own way from an image to what the model takes."""

    checkpoint: Checkpoint
    policy: Policy
    instruction: str
    source: str

    @property
    def model(self) -> OpenVLA:
        return self.checkpoint.model

    @property
    def config(self) -> OpenVLAConfig:
        return self.checkpoint.config

    @property
    def device(self) -> torch.device:
        return self.policy.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.language_model.lm_head.weight.dtype

    @property
    def unnorm_key(self) -> str:
        """The only, or the first, data set of the checkpoint."""
        statistics = self.policy.statistics
        return choose_unnorm_key(statistics, next(iter(sorted(statistics)), None))

    @cached_property
    def statistics(self) -> ActionStatistics:
        return statistics_of(self.policy.statistics, self.unnorm_key)

    @property
    def count(self) -> int:
        """D, tokens per action."""
        return self.statistics.dimensions

    @cached_property
    def decoder(self) -> Decoder:
        """The best of the whole vocabulary, as `generate` chooses."""
        tokens = self.policy.action_tokenizer
        return Decoder("reference", first_id=tokens.first_id, end_id=tokens.vocab_size)

    @cached_property
    def tokens(self) -> int:
        """T, patches and prompt."""
        return self.config.patches + len(self.policy.processor.generation_ids(self.instruction))

    @property
    def prompt(self) -> str:
        return build_prompt(self.instruction, self.config.prompt_style)

    def inputs(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """input_ids (1, L) and pixel_values (1, 3 per tower, S, S) on the device, made as the policy makes them."""
        return self.policy._inputs(image, self.instruction)

    def action(self, ids: np.ndarray) -> np.ndarray:
        """ids (D,) -> (D,) float64 in the units of the data set."""
        return self.statistics.unnormalize(self.policy.action_tokenizer.decode(ids))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the weights are, as JSON has it."""
        return {
            "source": self.source,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "checksum": checksum(self.model),
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def open_subject(size: str, checkpoint: Path | None, device: str, dtype: str) -> Subject:
    """The model of a size: "tiny", the shipped checkpoint or the one that is given, or "7b", random weights.

    Raises an OpenVLAError when it cannot be loaded.
    """
    if size not in SIZES:
        raise ConfigError(f"size is {size!r}; choose one of {', '.join(SIZES)}.")
    if checkpoint is None and size == "7b":
        return random_subject(FULL_SIZE, device, dtype)
    directory = checkpoint or shipped_checkpoint()
    loaded = load_checkpoint(directory, device, dtype)
    loaded.model.requires_grad_(False)
    policy = Policy(loaded, decoding="reference", engine="eager")
    sentence = next(iter(policy.training_instructions), "pick up the cup")
    return Subject(loaded, policy, sentence, directory.name)


def random_subject(config_json: dict[str, Any], device: str, dtype: str, seed: int = 0) -> Subject:
    """Random weights in the shapes of a config.json, with a stand-in tokenizer; everything else as published."""
    config = OpenVLAConfig.from_dict(config_json)
    preprocessor = preprocessor_config(config.towers[0].image_size, len(config.towers))
    checkpoint = Checkpoint(
        directory=Path(),
        model=random_model(config, torch.device(device), parse_dtype(dtype), seed),
        config=config,
        config_json=config_json,
        tokenizer=stand_in_tokenizer(),
        image_processor=ImageProcessor.from_dict(preprocessor),
        preprocessor_config=preprocessor,
        statistics={"random": RANGE},
        convention=None,
        training_card=None,
    )
    return Subject(
        checkpoint, Policy(checkpoint, decoding="reference", engine="eager"), SENTENCE, f"random weights, seed {seed}"
    )


def shipped_checkpoint() -> Path:
    """The tiny checkpoint that comes with the project."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / SHIPPED).is_dir():
            return root / SHIPPED
    raise ConfigError(f"{SHIPPED} is not here; start in the folder of the project or give the path of a checkpoint.")


def stand_in_tokenizer() -> Tokenizer:
    """One token per word and mark of the prompt around SENTENCE."""
    splitting = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    words = dict.fromkeys(word for word, _ in splitting.pre_tokenize_str(build_prompt(SENTENCE).lower()))
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", SPACE, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitting
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def image(number: int) -> np.ndarray:
    """(480, 640, 3) uint8 RGB: soft random patches of colour under a little noise, the same for the same number."""
    rng = np.random.default_rng([number, 20])
    coarse = rng.integers(0, 256, (rng.integers(2, 9), rng.integers(2, 9), 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).astype(np.int16)
    noise = rng.integers(-12, 13, (HEIGHT, WIDTH, 1), dtype=np.int16)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)
