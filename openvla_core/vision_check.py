"""Whether a model looks at the picture: one whose image path is broken still answers, always with the same action."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from openvla_core.errors import CheckpointError, InstructionError

if TYPE_CHECKING:
    from openvla_core.policy import Policy

# The self-test asks about these; the last is made of words that every prompt contains.
ANY_SENTENCE = ("pick up the cup", "take the robot")
LEAST_CHANGE = 1e-5


def check_vision(policy: "Policy") -> float:
    """See `Policy.check_vision`."""
    size = policy.config.towers[0].image_size
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    black, white = np.zeros_like(noise), np.full_like(noise, 255)
    sentence = next(text for text in (*policy.training_instructions[:100], *ANY_SENTENCE) if _understands(policy, text))
    logits = [policy.first_logits(image, sentence) for image in (black, white, noise)]
    if not all(bool(torch.isfinite(row).all()) for row in logits):
        raise CheckpointError(
            "the model's output is not finite (NaN or infinity). The weights are damaged, or too large for this "
            "dtype: try bfloat16 or float32, or copy the checkpoint again."
        )
    changes = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        changes.append(float((logits[first] - logits[second]).abs().max()))
        if not changes[-1] > LEAST_CHANGE:
            raise CheckpointError(
                f"the answer does not depend on the image (largest change of a logit: {changes[-1]:.1e}). "
                "The vision weights of this checkpoint are damaged; copy or train it again."
            )
    return min(changes)


def _understands(policy: "Policy", instruction: str) -> bool:
    try:
        policy.processor.prompt_ids(instruction)
    except InstructionError:
        return False
    return True
