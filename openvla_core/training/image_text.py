"""Images with a question and an answer, trained on beside actions, so that a model does not forget what things are.

A folder with one or more .jsonl files; each line is {"image": "a.jpg", "question": "...", "answer": "..."}. The image
is a path inside the folder; "prompt" may stand for "question", and without either the picture is to be described.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvla_core.checkpoint import Checkpoint
from openvla_core.datasets.examples import Example
from openvla_core.datasets.streaming.sources import Step
from openvla_core.errors import DatasetError, OpenVLAError
from openvla_core.model.config import ACTION_BINS
from openvla_core.processor import UNKNOWN, Processor
from openvla_core.prompt import IGNORE_INDEX
from openvla_core.training.data import ExtraSource

NAME = "image_text"
DESCRIBE = "Describe the image."
KEYS = {"image", "question", "prompt", "answer"}
# As the language model was tuned on pictures before it was given actions.
PROMPTS = {
    "openvla": "In: {question}\nOut:",
    "openvla-v01": "USER: {question} ASSISTANT:",
}
MAX_CHARACTERS = 4000


@dataclass(frozen=True)
class TextStep(Step):
    """One picture: instruction is the question; there are no actions."""

    answer: str = ""


@dataclass(frozen=True)
class Pair:
    """One line of a file. where: file and line, for messages."""

    image: Path
    question: str
    answer: str
    where: str


class ImageTextSteps:
    """The pairs of a folder, in the order of file names and lines; pictures are read when they are asked for."""

    def __init__(self, folder: str | Path, name: str = NAME) -> None:
        """Raises DatasetError, naming the line, for one that is not understood or whose picture is not there."""
        self.name = name
        self.pairs = read_pairs(Path(folder))

    @property
    def block_ends(self) -> np.ndarray:
        return np.arange(1, len(self.pairs) + 1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> TextStep:
        pair = self.pairs[index]
        try:
            image = pair.image.read_bytes()
        except OSError as error:
            raise DatasetError(f"{pair.where}: {pair.image} cannot be read ({error}).") from error
        return TextStep(
            dataset=self.name,
            episode=index,
            index=0,
            image=image,
            instruction=pair.question,
            actions=np.zeros((0, 0), dtype=np.float32),
            answer=pair.answer,
        )


class TextExampleBuilder:
    """TextStep -> {"pixels" (S, S, 3) uint8, "input_ids" (T,), "labels" (T,) int64, "dataset" str}.

    Labels are on the answer and the end of sequence only.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._prompt = PROMPTS[processor.config.prompt_style]
        self._eos_id = processor.config.language.eos_token_id
        last = processor.config.action_vocab_size
        special = processor.tokenizer.get_added_tokens_decoder()
        self._forbidden = {i for i, token in special.items() if token.special} | set(range(last - ACTION_BINS, last))
        unknown = processor.tokenizer.token_to_id(UNKNOWN)
        self._forbidden |= set() if unknown is None else {unknown}

    def __call__(self, step: Step, rng: np.random.Generator) -> Example:
        """Raises DatasetError naming the pair when it cannot be used. rng: nothing is drawn; pairs stay as they are."""
        assert isinstance(step, TextStep)
        try:
            pixels = self._processor.image_processor.resized(step.pixels())
            ids, labels = self.tokens(step.instruction, step.answer)
        except OpenVLAError as error:
            raise DatasetError(f"{step.dataset}, pair {step.episode}: {error}") from error
        return {
            "pixels": torch.from_numpy(np.require(pixels, requirements=["C", "W"])),
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "dataset": step.dataset,
        }

    def tokens(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """input_ids and labels (T,): question and answer are tokenized apart, as in the published tuning on pictures.

        Raises DatasetError for texts that hold special words, characters that stand for actions, or unknown words.
        """
        tokenizer = self._processor.tokenizer
        prompt = tokenizer.encode(self._prompt.format(question=question)).ids
        spoken = tokenizer.encode(answer, add_special_tokens=False).ids
        if self._forbidden & {*prompt[1:], *spoken}:
            raise DatasetError(
                f"{question[:80]!r} or {answer[:80]!r} holds a special word, a character that stands for an action, or "
                "a word that this checkpoint does not know."
            )
        config = self._processor.config
        room = config.language.max_position_embeddings - config.patches
        if len(prompt) + len(spoken) + 1 > room:
            raise DatasetError(f"question and answer make {len(prompt) + len(spoken) + 1} tokens; {room} fit.")
        return [*prompt, *spoken, self._eos_id], [IGNORE_INDEX] * len(prompt) + [*spoken, self._eos_id]


def image_text_source(folder: str | Path, base: Checkpoint, share: float) -> ExtraSource:
    """The pairs of a folder, made ready for this checkpoint, as `share` of all samples of a training.

    Raises DatasetError; every text is looked at now, so that none ends the training later.
    """
    steps = ImageTextSteps(folder)
    builder = TextExampleBuilder(Processor(base.tokenizer, base.image_processor, base.config))
    for pair in steps.pairs:
        try:
            builder.tokens(pair.question, pair.answer)
        except DatasetError as error:
            raise DatasetError(f"{pair.where}: {error}") from error
    return ExtraSource(steps, builder, share)


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs of a folder. Errors as in `ImageTextSteps`."""
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise DatasetError(
            f"{folder} has no .jsonl files. Expected lines such as "
            '{"image": "a.jpg", "question": "what is on the table?", "answer": "a red cup"}.'
        )
    pairs = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{file} cannot be read: {error}") from error
        pairs += [_pair(folder, f"{file}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise DatasetError(f"the .jsonl files in {folder} are empty.")
    return pairs


def _pair(folder: Path, where: str, line: str) -> Pair:
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{where} is not JSON: {error}") from error
    texts = isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
    if not texts or set(values) - KEYS or not values.get("image") or not values.get("answer", "").strip():
        raise DatasetError(
            f"{where} is not understood; expected texts called image, answer and, if you like, question: {line[:120]}"
        )
    image = (folder / values["image"]).resolve()
    if not image.is_relative_to(folder.resolve()):
        raise DatasetError(f"{where}: the image {values['image']!r} lies outside {folder}.")
    if not image.is_file():
        raise DatasetError(f"{where}: the image {image} does not exist.")
    question = (values.get("question") or values.get("prompt") or DESCRIBE).strip()
    pair = Pair(image, question, values["answer"].strip(), where)
    if max(len(question), len(pair.answer)) > MAX_CHARACTERS:
        raise DatasetError(f"{where}: question and answer may have {MAX_CHARACTERS} characters each.")
    return pair
