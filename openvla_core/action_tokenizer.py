"""Numbers in [-1, 1] to the 256 token ids that stand for them, and back."""

import numpy as np

from openvla_core.errors import ActionError, ActionTokenError

BINS = 256


class ActionTokenizer:
    """256 equally spaced edges on [-1, 1]; the ids are the last 256 below `vocab_size`, counted downwards."""

    def __init__(self, vocab_size: int) -> None:
        """vocab_size: first id above the action ids, 32000 for the 7B model."""
        self.vocab_size = vocab_size
        self.first_id = vocab_size - BINS
        self.edges = np.linspace(-1.0, 1.0, BINS)
        self.centers = (self.edges[:-1] + self.edges[1:]) / 2.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape, clipped to [-1, 1] -> ids, same shape, int64. Raises ActionError on NaN."""
        values = np.asarray(values)
        if np.isnan(values).any():
            # NaN would fall into the last bin: full speed.
            raise ActionError("the normalized action contains NaN; every value must be a number in [-1, 1].")
        return self.vocab_size - np.digitize(np.clip(values, -1.0, 1.0), self.edges)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Ids of any shape -> bin centres, same shape, float64. Raises ActionTokenError on any other token id."""
        ids = np.asarray(ids)
        wrong = ids[(ids < self.first_id) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ActionTokenError(
                f"token ids {wrong.tolist()} are not action tokens, "
                f"which are {self.first_id} to {self.vocab_size - 1}. "
                "The model answered with text: hold the robot, and check the instruction and the checkpoint."
            )
        # 256 edges enclose 255 bins; the top edge belongs to the last bin.
        return self.centers[np.minimum(self.vocab_size - ids - 1, len(self.centers) - 1)]
