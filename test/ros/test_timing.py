"""Two clocks that are read as one, on a machine that may let a process wait between two lines."""

import pytest

from openvla_ros.timing import READINGS, one_moment

OFFSET_NS = 1_700_000_000_000_000_000


class Clocks:
    """A steady clock and a ROS clock that runs with it. waits: how long each reading of the ROS clock is held up."""

    def __init__(self, *waits: float) -> None:
        self.s = 100.0
        self.waits = list(waits)
        self.readings = 0

    def ros_now_ns(self) -> int:
        self.readings += 1
        wait_s = self.waits.pop(0) if self.waits else 0.0
        self.s += wait_s  # held up before the clock is read
        return OFFSET_NS + round(self.s * 1e9)

    def steady_s(self) -> float:
        self.s += 1e-6
        return self.s


@pytest.mark.parametrize("waits", [(), (0.03,), (0.03, 0.2, 0.005)])
def test_both_readings_are_of_one_moment(waits):
    clocks = Clocks(*waits)
    stamp_ns, now_s = one_moment(clocks.ros_now_ns, clocks.steady_s)
    assert (stamp_ns - OFFSET_NS) * 1e-9 == pytest.approx(now_s, abs=1e-5)
    assert clocks.readings == len(waits) + 1


def test_on_a_machine_that_always_waits_the_closest_readings_are_taken():
    clocks = Clocks(0.03, 0.004, 0.02, 0.01, 0.05, 0.001)
    stamp_ns, now_s = one_moment(clocks.ros_now_ns, clocks.steady_s)
    assert clocks.readings == READINGS == 5
    assert (stamp_ns - OFFSET_NS) * 1e-9 == pytest.approx(now_s, abs=0.0021)
    assert now_s < 100.04  # not the last of them
