"""Does the model look at the camera at all? Checked before every start, because a blind model still emits actions."""

import time
from contextlib import suppress
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from openvla_core.errors import ActionTokenError, CheckpointError, InstructionError

if TYPE_CHECKING:
    from openvla_core.policy import Policy

SMALLEST_CHANGE = 1e-4  # of the spread of the logits; float noise between two equal inputs is far below


def vision_self_test(policy: "Policy", size: tuple[int, int] = (224, 224)) -> float:
    """Shows the model a black, a white and a noise picture; their first-step logits must differ.

    Args:
        size: height and width of the pictures, pixels.

    Returns:
        The smallest change of any logit between two pictures, as a share of the logits' standard deviation.

    Raises:
        CheckpointError: the logits are not finite or do not depend on the picture.
    """
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pictures = {"black": np.zeros_like(noise), "white": np.full_like(noise, 255), "noise": noise}
    logits = {name: first_step_logits(policy, picture) for name, picture in pictures.items()}
    for name, values in logits.items():
        if not np.isfinite(values).all():
            raise CheckpointError(f"the model gives non-finite logits for a {name} picture. Try dtype float32.")
    spread = max(float(np.std(logits["noise"])), 1e-12)
    changes = {
        (first, second): float(np.abs(logits[first] - logits[second]).max()) / spread
        for first, second in combinations(logits, 2)
    }
    pair, change = min(changes.items(), key=lambda item: item[1])
    if change < SMALLEST_CHANGE:
        raise CheckpointError(
            f"the model does not see: a {pair[0]} and a {pair[1]} picture give the same logits (change {change:.1e} "
            f"of their spread, expected at least {SMALLEST_CHANGE:.0e}). The checkpoint's vision weights are wrong."
        )
    return change


def warm_up(policy: "Policy") -> float:
    """Runs two predictions and returns how long the second took, seconds; the first one pays for lazy set-up."""
    picture = np.full((224, 224, 3), 128, np.uint8)
    instruction = (*policy.training_instructions, "pick up the object")[0]
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        # What comes out does not matter here; a checkpoint may also not know these words.
        with suppress(ActionTokenError, InstructionError):
            policy.predict(picture, instruction)
        seconds = time.monotonic() - started
    return seconds


def first_step_logits(policy: "Policy", picture: np.ndarray, instruction: str = "move") -> np.ndarray:
    """Logits (V,) float32 of the first action token for one picture (H, W, 3) uint8."""
    import torch

    parameter = next(policy.model.parameters())
    inputs = {key: torch.as_tensor(value).to(parameter.device) for key, value in policy.processor(picture, instruction).items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(parameter.dtype)
    with torch.inference_mode():
        return policy.model(**inputs).logits[0, -1].float().cpu().numpy()
