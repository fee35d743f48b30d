"""The public face: load a checkpoint, then turn a camera frame and a sentence into an action."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openvla_core.action_statistics import ActionStatistics, choose_unnorm_key, statistics_of
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.checkpoint import Checkpoint, load_checkpoint
from openvla_core.checksums import Verify
from openvla_core.decoding import Decoder, read_answer, refuse_early_end
from openvla_core.engine.gpu_images import fast_processor
from openvla_core.errors import CheckpointError, InstructionError, OpenVLAError
from openvla_core.generation import Generation
from openvla_core.image_preparation import ImagePreparation
from openvla_core.processor import Processor
from openvla_core.prompt import check_style, clean_instruction
from openvla_core.quantization import check_quantization, quantize_language_model
from openvla_core.types import ActionTokens, NormalizedAction
from openvla_core.vision_check import check_vision

logger = logging.getLogger(__name__)

KEPT_PROMPTS = 64


@dataclass(frozen=True)
class Prediction:
    """What one frame led to. action (D,) float64 is in the units of the data set `unnorm_key`.

    The probabilities and entropies in `tokens` are over the whole vocabulary, under constrained decoding too: a model
    that would rather have answered with text shows it by a low probability. stages: seconds of the parts of the work
    that were timed by themselves, "preprocessing".
    """

    tokens: ActionTokens
    normalized: NormalizedAction
    action: np.ndarray
    unnorm_key: str
    stages: dict[str, float] = field(default_factory=dict)


def load_policy(
    path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    unnorm_key: str | None = None,
    decoding: str = "constrained",
    temperature: float = 0.0,
    seed: int | None = None,
    adapter: str | Path | None = None,
    quantization: str = "none",
    image_preparation: str | None = None,
    prompt_style: str | None = None,
    verify: Verify = "auto",
    engine: str = "auto",
    drafts: bool = False,
    largest_batch: int = 16,
) -> "Policy":
    """Loads a checkpoint directory as OpenVLA publishes it. Nothing is downloaded or executed.

    Args:
        path: directory with config.json, safetensors, preprocessor_config.json and tokenizer.json.
        device: "cpu", "cuda", "cuda:1", ...
        dtype: "float32", "bfloat16" or "float16".
        unnorm_key: data set whose units actions have; needed here or per call when the checkpoint has several.
        decoding: "constrained" to the 256 action ids, or "reference" for the published unconstrained greedy choice.
        temperature: 0 for the most likely action; above, actions are drawn at random.
        seed: of the random draws; None for a different sequence each time.
        adapter: directory of a LoRA adapter in PEFT format; attached, or merged first when the model is quantized.
            None takes the one in the checkpoint's own directory, where a training may have left it.
        quantization: "none", or "int8", "int4" or "nf4" for the weights of the language model's decoder. The checkpoint
            is then read into main memory and goes to the device layer by layer; bfloat16 is the dtype to choose.
        image_preparation: what is done to frames before the image processor, "none", "bridge", "center_crop" or
            "libero"; None takes what the convention card in the directory names, and "none" without a card.
        prompt_style: "openvla" or "openvla-v01"; None takes the one that config.json implies.
        verify: "auto" compares files with SHA256SUMS where the directory has one, also the adapter's; True insists on
            the checkpoint's and on an entry for every file that is read; False does not look at it.
        engine: "auto" for `openvla_core.engine`, "eager" for the plain loop over transformers' Llama that it is
            compared with.
        drafts: guess each action to be the one before, which saves passes of the engine where that is right and changes
            no bit of the answer. Of use with temperature 0.
        largest_batch: pictures that `Policy.predict_batch` computes at once.

    Raises:
        CheckpointError, StatisticsError, ConventionError, ConfigError: what is wrong and what to do.
    """
    check_quantization(quantization)
    full_size = quantization == "none"
    checkpoint = load_checkpoint(path, device=device if full_size else "cpu", dtype=dtype, verify=verify)
    if adapter is None and (Path(path) / "adapter_config.json").is_file():
        adapter = path
    if adapter is not None:
        from openvla_core.adapter import attach_adapter, merge_adapter

        (attach_adapter if full_size else merge_adapter)(checkpoint.model, adapter, verify is not False)
    if not full_size:
        quantize_language_model(checkpoint.model, quantization, device)
    return Policy(
        checkpoint,
        unnorm_key,
        decoding,
        temperature,
        seed,
        image_preparation,
        prompt_style,
        engine,
        drafts,
        largest_batch,
    )


class Policy:
    """A loaded checkpoint with the choices that make its answers reproducible. Use it from one thread at a time."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        unnorm_key: str | None = None,
        decoding: str = "constrained",
        temperature: float = 0.0,
        seed: int | None = None,
        image_preparation: str | None = None,
        prompt_style: str | None = None,
        engine: str = "auto",
        drafts: bool = False,
        largest_batch: int = 16,
    ) -> None:
        """See `load_policy`."""
        self.model = checkpoint.model
        self.config = checkpoint.config
        if prompt_style is not None:
            self.config = replace(self.config, prompt_style=check_style(prompt_style))
        self.statistics: dict[str, Any] = checkpoint.statistics
        self.convention = checkpoint.convention
        self.training_instructions = _instructions(checkpoint.training_card)
        self.processor = Processor(checkpoint.tokenizer, checkpoint.image_processor, self.config)
        self.prepare_images(_named_preparation(self.convention) if image_preparation is None else image_preparation)
        self.action_tokenizer = ActionTokenizer(self.config.action_vocab_size)
        self.device = next(self.model.parameters()).device
        self.decoder = Decoder(
            decoding,
            first_id=self.action_tokenizer.first_id,
            end_id=self.action_tokenizer.vocab_size,
            temperature=temperature,
            generator=_generator(self.device, seed),
        )
        self._fast_images = fast_processor(checkpoint.image_processor, self.device) if engine == "auto" else None
        self._prompts: dict[str, Tensor] = {}
        self.generation = Generation(self.model, self.decoder, engine, drafts, largest_batch)
        self._action_statistics: dict[str, ActionStatistics] = {}
        self.unnorm_key = choose_unnorm_key(self.statistics, unnorm_key) if unnorm_key is not None else None

    def predict(self, image: np.ndarray, instruction: str, unnorm_key: str | None = None) -> Prediction:
        """One camera frame (H, W, 3) uint8 RGB and a sentence to one action.

        Raises:
            ImageError, InstructionError: the input cannot be used.
            StatisticsError: unnorm_key is unknown, or missing while the checkpoint has several data sets.
            ActionTokenError: the model did not answer with an action, or its output is not finite.
        """
        key, statistics = self._statistics(unnorm_key)
        started_s = time.monotonic()
        inputs = self._inputs(image, instruction)
        stages = {"preprocessing": time.monotonic() - started_s}
        prediction = self._prediction(*self.generation.one(inputs, statistics.dimensions), key, stages)
        self.generation.observe(prediction.tokens.ids)
        return prediction

    def predict_batch(
        self, requests: Sequence[tuple[np.ndarray, str]], unnorm_key: str | None = None
    ) -> list[Prediction | OpenVLAError]:
        """Several frames and sentences at once, of several robots for instance.

        Returns:
            For each of them what `predict` would return, or the error that it would raise; the others are not affected.

        Raises StatisticsError as `predict` does.
        """
        key, statistics = self._statistics(unnorm_key)
        outcomes: list[Prediction | OpenVLAError | None] = [None] * len(requests)
        ready: dict[int, tuple[Tensor, Tensor]] = {}
        started_s = time.monotonic()
        for i, request in enumerate(requests):
            try:
                ready[i] = self._inputs(*request)
            except OpenVLAError as error:
                outcomes[i] = error
        stages = {"preprocessing": time.monotonic() - started_s}  # of all, since each waits for all
        answers = self.generation.many(list(ready.values()), statistics.dimensions)
        for i, answer in zip(ready, answers, strict=True):
            try:
                outcomes[i] = self._prediction(*answer, key, dict(stages))
            except OpenVLAError as error:
                outcomes[i] = error
        return [outcome for outcome in outcomes if outcome is not None]

    def warm_up(self, progress: Callable[[str], None] = logger.info) -> None:
        """Lets the engine make what it will use, telling `progress` in sentences. The draws of a seed are not touched.

        Raises StatisticsError as `predict` does.
        """
        self.generation.warm_up(self._statistics(None)[1].dimensions, progress)

    def predict_action(self, image: np.ndarray, instruction: str, unnorm_key: str | None = None) -> np.ndarray:
        """(D,) float64 in the units of the data set: metres, radians, gripper as trained. Errors as in `predict`."""
        return self.predict(image, instruction, unnorm_key).action

    def predict_action_tokens(self, image: np.ndarray, instruction: str, unnorm_key: str | None = None) -> np.ndarray:
        """(D,) int64 vocabulary ids. Errors as in `predict`."""
        return self.predict(image, instruction, unnorm_key).tokens.ids

    def check_instruction(self, text: str) -> str:
        """The instruction without surrounding blanks, if the model can understand it.

        Raises InstructionError when it is empty, longer than 512 characters, carries control characters or uses words
        that the checkpoint's tokenizer does not know.
        """
        cleaned = clean_instruction(text)
        unknown = self.processor.unknown_words(cleaned)
        if unknown:
            known = "; ".join(self.training_instructions[:8])
            hint = f" It was trained on sentences such as: {known}." if known else " Use other words."
            raise InstructionError(f"this checkpoint does not know: {', '.join(unknown)}.{hint}")
        self.processor.prompt_ids(cleaned)
        return cleaned

    def prepare_images(self, preset: str) -> None:
        """Chooses what is done to frames before the image processor, by the name a convention card gives it.

        Raises ConventionError, listing the choices, for any other name.
        """
        self.processor.preparation = ImagePreparation.from_card(preset, self.config.towers[0].image_size)

    def check_vision(self) -> float:
        """Raises CheckpointError unless a black, a white and a noise image lead to different first-step logits.

        A model whose image path is broken still answers, with one and the same action for everything it sees.

        Returns:
            By how much the logits changed between the two images that the model tells apart least.
        """
        return check_vision(self)

    def first_logits(self, image: np.ndarray, instruction: str) -> Tensor:
        """(vocabulary,) float32 that the first token is chosen from, by transformers' Llama. Errors as in `predict`."""
        return self.generation.first_logits(self._inputs(image, instruction))

    @torch.inference_mode()
    def _prediction(self, ids: Tensor, logits: Tensor, key: str, stages: dict[str, float]) -> Prediction:
        """What the answer means. Raises ActionTokenError when it means nothing."""
        tokens = read_answer(ids, logits)
        refuse_early_end(tokens.ids, self.config.language.eos_token_id)
        normalized = self.action_tokenizer.decode(tokens.ids)
        action = self._statistics(key)[1].unnormalize(normalized)
        return Prediction(tokens, NormalizedAction(normalized), action, key, stages)

    def _inputs(self, image: np.ndarray, instruction: str) -> tuple[Tensor, Tensor]:
        if self._fast_images is not None:
            pixel_values = self._fast_images(self.processor.preparation(image))
        else:
            pixel_values = self.processor.pixel_values(image).to(self.device)
        return self._input_ids(instruction), pixel_values

    def _input_ids(self, instruction: str) -> Tensor:
        """(1, L) int64 on the device; the instruction changes seldom."""
        if instruction not in self._prompts:
            if len(self._prompts) >= KEPT_PROMPTS:
                self._prompts.clear()
            ids = self.processor.generation_ids(instruction)
            self._prompts[instruction] = torch.tensor([ids], device=self.device)
        return self._prompts[instruction]

    def _statistics(self, unnorm_key: str | None) -> tuple[str, ActionStatistics]:
        key = choose_unnorm_key(self.statistics, self.unnorm_key if unnorm_key is None else unnorm_key)
        if key not in self._action_statistics:
            self._action_statistics[key] = statistics_of(self.statistics, key)
        return key, self._action_statistics[key]


def _named_preparation(convention: dict[str, Any] | None) -> str:
    image = (convention or {}).get("image")
    return str(image.get("preprocessing", "none")) if isinstance(image, dict) else "none"


def _instructions(training_card: dict[str, Any] | None) -> tuple[str, ...]:
    instructions = (training_card or {}).get("instructions", [])
    if not isinstance(instructions, list) or not all(isinstance(text, str) for text in instructions):
        raise CheckpointError("training_card.json has instructions that are not a list of sentences.")
    return tuple(instructions)


def _generator(device: torch.device, seed: int | None) -> torch.Generator:
    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
