"""Numbers about a track of points: its derivatives, and how far a place is from it."""

import math

import numpy as np

ORDERS = ("speed", "acceleration", "jerk")
LONGEST_SEGMENT_M = 0.05  # measured poses further apart than this are no track


def derivative_weights(times: np.ndarray) -> np.ndarray:
    """Weights (n,) that turn positions at these times (n,), seconds, into their (n - 1)-th derivative."""
    order = len(times) - 1
    return np.array(
        [
            math.factorial(order) / math.prod(times[i] - times[j] for j in range(order + 1) if j != i)
            for i in range(order + 1)
        ]
    )


def distance_to_track(place: np.ndarray, track: np.ndarray) -> float:
    """Distance in metres of a place (3,) from the nearest straight piece between two neighbours of a track (n, 3).

    Between two neighbours that are far apart there is no way; a point without a near neighbour does not count.
    """
    starts, ways = track[:-1], np.diff(track, axis=0)
    squares = (ways**2).sum(axis=1)
    near = squares <= LONGEST_SEGMENT_M**2
    if not near.any():
        return math.inf
    starts, ways, squares = starts[near], ways[near], np.maximum(squares[near], 1e-30)
    shares = np.clip(((place - starts) * ways).sum(axis=1) / squares, 0.0, 1.0)
    return float(np.linalg.norm(starts + shares[:, None] * ways - place, axis=1).min())
