"""Shuffled orders that are computed instead of stored: which number comes at place k is a function of k and a key.

So nothing has to be kept in memory, any place can be started from, and every number comes exactly once.
"""

from functools import lru_cache

_MASK = (1 << 64) - 1
_ROUNDS = 6


def mixed(*values: int) -> int:
    """A number from 0 to 2**64 - 1 that looks random, from whole numbers; another for every other list of them."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        # The finalizer of splitmix64: every bit of the sum reaches every bit of the result.
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def permuted(place: int, count: int, key: int) -> int:
    """The number at `place` of a shuffled 0 ... count - 1; another key is another order.

    A Feistel network shuffles the next larger power of four; from a number that is too large the walk goes on, and
    since the network is a permutation it comes back below `count` at a number no other place has.
    """
    assert 0 <= place < count, (place, count)
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    while True:
        place = _feistel(place, half, key)
        if place < count:
            return place


def _feistel(value: int, half: int, key: int) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for round_key in _round_keys(key):
        left, right = right, left ^ (mixed(round_key, right) & mask)
    return left << half | right


@lru_cache(maxsize=4096)
def _round_keys(key: int) -> tuple[int, ...]:
    return tuple(mixed(key, number) for number in range(_ROUNDS))
