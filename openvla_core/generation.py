"""From prompts and pictures to action tokens, through the engine or through the loop that it is compared with."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from openvla_core.decoding import Decoder, generate
from openvla_core.engine.drafts import DraftFigures, PreviousAction, Proposer
from openvla_core.engine.engine import Engine
from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA

logger = logging.getLogger(__name__)

ENGINES = ("auto", "eager")

# input_ids (1, L) int64 and pixel_values (1, 3 per tower, S, S), on the device of the model.
Inputs = tuple[Tensor, Tensor]
# ids (count,) int64 and the float32 logits (count, vocabulary) that they were chosen from, on the device of the model.
Answer = tuple[Tensor, Tensor]


class Generation:
    """A model with a way to choose its tokens. Use it from one thread at a time."""

    def __init__(
        self, model: OpenVLA, decoder: Decoder, engine: str = "auto", drafts: bool = False, largest_batch: int = 16
    ) -> None:
        """engine, drafts and largest_batch: see `policy.load_policy`. Raises ConfigError for another engine."""
        if engine not in ENGINES:
            raise ConfigError(f"engine is {engine!r}; choose one of {', '.join(ENGINES)}.")
        self.model, self.decoder = model, decoder
        self.engine = Engine(model, most=largest_batch, drafts=drafts) if engine == "auto" else None
        self.proposer: Proposer = PreviousAction()

    @property
    def figures(self) -> DraftFigures:
        """What came of the drafts so far."""
        return self.engine.figures if self.engine is not None else DraftFigures()

    def warm_up(self, count: int, progress: Callable[[str], None] = logger.info) -> None:
        """Makes what later answers of `count` tokens use, telling `progress` in sentences."""
        if self.engine is not None:
            self.engine.warm_up(self.decoder, count, progress)

    @torch.inference_mode()
    def first_logits(self, inputs: Inputs) -> Tensor:
        """(vocabulary,) float32 that the first token is chosen from, by transformers' Llama."""
        return generate(self.model, self.decoder, *inputs, 1)[1][0]

    @torch.inference_mode()
    def one(self, inputs: Inputs, count: int) -> Answer:
        """An answer of `count` tokens."""
        if self.engine is None:
            return generate(self.model, self.decoder, *inputs, count)
        draft = self.proposer.propose(count) if self.engine.drafts else None
        generated = self.engine.generate(self.decoder, *inputs, count, draft)
        return generated.ids, generated.logits

    @torch.inference_mode()
    def many(self, inputs: Sequence[Inputs], count: int) -> list[Answer]:
        """An answer to each."""
        if self.engine is None or not inputs:
            return [self.one(given, count) for given in inputs]
        pixel_values = torch.cat([pixels for _, pixels in inputs])
        answers = self.engine.generate_batch(self.decoder, [ids for ids, _ in inputs], pixel_values, count)
        return [(answer.ids, answer.logits) for answer in answers]

    def observe(self, ids: np.ndarray) -> None:
        """Told an answer (D,) int64 that could be used; the next may be like it."""
        self.proposer.observe(torch.from_numpy(ids))
