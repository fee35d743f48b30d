"""Sequence lengths that are prepared for: a new instruction changes how full one is, never a shape."""

from collections.abc import Sequence

from openvla_core.errors import ConfigError, InstructionError

CPU_STEP = 8
FIRST_ROOM = 32


def default_buckets(patches: int, longest: int, on_cuda: bool) -> tuple[int, ...]:
    """Rising lengths up to `longest`, all of them multiples of 8 but the last.

    A bucket is the image patches, the words and the answer together. On CUDA each one costs a recording and there are
    few: room for 32, 64, 128, ... words and action tokens. On a CPU it costs nothing and the padding does: steps of 8.
    """
    if on_cuda:
        rooms = [FIRST_ROOM << i for i in range(16)]
        lengths = [_rounded(patches + room) for room in rooms]
    else:
        lengths = list(range(_rounded(patches + CPU_STEP), longest + CPU_STEP, CPU_STEP))
    return (*(length for length in lengths if length < longest), longest)


def checked_buckets(buckets: Sequence[int], patches: int, longest: int) -> tuple[int, ...]:
    """The buckets in rising order. Raises ConfigError when one leaves no room for a word or is too long."""
    wrong = [bucket for bucket in buckets if not patches + 2 < bucket <= longest]
    if not buckets or wrong:
        raise ConfigError(
            f"buckets are {list(buckets)}; the image alone has {patches} patches: give lengths from {patches + 3} to "
            f"{longest}."
        )
    return tuple(sorted(set(buckets)))


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` positions. Raises InstructionError when none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise InstructionError(
        f"image, instruction and answer take {length} positions and {max(buckets)} fit; send a shorter sentence."
    )


def _rounded(length: int) -> int:
    return -(-length // CPU_STEP) * CPU_STEP
