"""From image and prompt to D action tokens, one at a time, with a key-value cache."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openvla_core.errors import ActionTokenError, ConfigError
from openvla_core.model import OpenVLA
from openvla_core.model.language_model import new_cache
from openvla_core.types import ActionTokens

DECODINGS = ("constrained", "reference")


@dataclass(frozen=True)
class Decoder:
    """How the next token is chosen.

    "reference" takes the best of the whole vocabulary, as the published code does. "constrained" takes the best of the
    256 action ids; with a temperature above 0 it draws from them instead, with its own seeded generator.
    """

    decoding: str
    first_id: int
    end_id: int
    temperature: float = 0.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.decoding not in DECODINGS:
            raise ConfigError(f"decoding is {self.decoding!r}; choose one of {', '.join(DECODINGS)}.")
        if not 0.0 <= self.temperature <= 10.0:
            raise ConfigError(f"temperature is {self.temperature}; it must lie between 0 (greedy) and 10.")
        if self.temperature and self.decoding == "reference":
            raise ConfigError("decoding 'reference' is greedy; set temperature to 0 or decoding to 'constrained'.")

    def choose(self, logits: Tensor) -> Tensor:
        """logits (..., vocabulary) -> the chosen ids (...), int64, on the same device."""
        if self.decoding == "reference":
            return logits.argmax(dim=-1)
        action_logits = logits[..., self.first_id : self.end_id]
        if self.temperature:
            # Gumbel-max draws from the softmax without waiting for the device.
            noise = torch.empty_like(action_logits).exponential_(generator=self.generator).clamp_min_(1e-30)
            action_logits = action_logits / self.temperature - noise.log()
        return action_logits.argmax(dim=-1) + self.first_id


def generate(
    model: OpenVLA, decoder: Decoder, input_ids: Tensor, pixel_values: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Chooses `count` tokens after the prompt.

    Args:
        input_ids: (1, L) int64 prompt ids ending in the space token, on the device of the model.
        pixel_values: (1, 3 per tower, S, S).

    Returns:
        ids (count,) int64 and the float32 logits they were chosen from (count, vocabulary), on the device of the model.
    """
    cache = new_cache(model.language_model)
    step = {"inputs_embeds": model.embed(input_ids, pixel_values)}
    ids, rows = [], []
    for _ in range(count):
        output = model.language_model(**step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        rows.append(output.logits[0, -1].float())
        ids.append(decoder.choose(rows[-1]))
        step = {"input_ids": ids[-1].view(1, 1)}
    return torch.stack(ids), torch.stack(rows)


def read_answer(ids: Tensor, logits: Tensor) -> ActionTokens:
    """An answer as numbers of the host, fetched from the device in one copy.

    The probability of each chosen id and the entropy of each choice, nats, are over the whole vocabulary.

    Args:
        ids: (D,) int64.
        logits: (D, vocabulary) float32 that they were chosen from.

    Raises ActionTokenError when a logit is not a finite number: no choice made from it means anything.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    entropies = -(probabilities * log_probabilities).sum(dim=-1)
    chosen = probabilities.gather(-1, ids[:, None])[:, 0]
    # float64 holds every id and every float32 exactly.
    numbers = torch.stack([ids.double(), chosen.double(), entropies.double()]).cpu().numpy()
    # One question for all steps: a logit of NaN or infinity makes its row's entropy NaN.
    if not np.isfinite(numbers[2]).all():
        raise ActionTokenError(
            "the model's output is not finite (NaN or infinity). Hold the robot; check the weights and the dtype, "
            "float16 overflows where bfloat16 does not."
        )
    return ActionTokens(numbers[0].astype(np.int64), numbers[1].astype(np.float32), numbers[2].astype(np.float32))


def refuse_early_end(ids: np.ndarray, eos_id: int) -> None:
    """Raises ActionTokenError when the ids (D,) contain the end of the answer: what follows it means nothing."""
    ended = np.flatnonzero(ids == eos_id)
    if ended.size:
        raise ActionTokenError(
            f"the model ended its answer after {ended[0]} of {len(ids)} action tokens. Hold the robot; check that "
            "unnorm_key, instruction and checkpoint belong together, or set decoding to 'constrained'."
        )
