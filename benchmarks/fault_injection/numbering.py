"""What a listener missed of a stream, by the numbers of its messages, and what can be put in its place.

A listener that discovers a new topic late, or is not scheduled for long, misses messages: what it hears first is then
not where a stream began. The middleware numbers the messages of every publisher from 1 on, so that what is missing is
known and not guessed.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np

from openvla_core.types import Pose

REMEMBERED = 1500  # commands that were shown: 30 s


@dataclass(frozen=True)
class Heard:
    """One command: its stamp (seconds), its frame ("" when that is not of interest), its number (None: unknown)."""

    stamp_s: float
    pose: Pose
    frame: str = ""
    number: int | None = None


class Numbers:
    """Counts what is missing before each message of a publisher that may be another one after `restart`."""

    def __init__(self) -> None:
        self._last = 0

    def restart(self) -> None:
        """The next message is of a new publisher."""
        self._last = 0

    def missed(self, number: int | None) -> int:
        """How many messages were not heard before this one; 0 when that is not known."""
        if number is None:
            return 0
        return number - 1 - self._last if number > self._last else number - 1

    def note(self, number: int | None) -> None:
        """This one was heard."""
        self._last = self._last if number is None else number


class Shown:
    """The commands that the controller shows beside the robot's topic, on one that exists before the first of them."""

    def __init__(self) -> None:
        self._by_stamp: OrderedDict[float, Heard] = OrderedDict()

    def add(self, command: Heard) -> None:
        """Remembers one."""
        self._by_stamp[command.stamp_s] = command
        if len(self._by_stamp) > REMEMBERED:
            self._by_stamp.popitem(last=False)

    def disagrees(self, command: Heard) -> bool:
        """Whether something else was shown for that moment than was sent."""
        shown = self._by_stamp.get(command.stamp_s)
        return shown is not None and not same(shown.pose, command.pose)

    def before(self, command: Heard, count: int) -> list[Heard]:
        """The `count` commands before this one, numbered as they were sent; [] when one was not heard here either."""
        shown = list(self._by_stamp.values())
        end = next((i for i, one in enumerate(shown) if one.stamp_s == command.stamp_s), -1)
        if command.number is None or end < count or not same(shown[end].pose, command.pose):
            return []
        numbers = [one.number for one in shown[end - count : end + 1]]
        if None in numbers or any(b - a != 1 for a, b in zip(numbers, numbers[1:], strict=False)):
            return []
        first = command.number - count
        return [replace(one, frame="", number=first + i) for i, one in enumerate(shown[end - count : end])]


def same(a: Pose, b: Pose) -> bool:
    """Whether two poses are the same numbers."""
    pairs = ((a.position, b.position), (a.quaternion, b.quaternion))
    return all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)
