"""A few rows of benchmarks/faults.py: real processes, and a spy that checks every command."""

import os

import pytest
import rclpy

from openvla_ros import preflight
from openvla_ros.demo import free_domain

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def cell():
    """A controller, a stub of a policy and a pretend robot, its arm moving."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.path.join(ROOT, "benchmarks"))
        for name, value in {**os.environ, "ROS_DOMAIN_ID": str(free_domain())}.items():
            patch.setenv(name, value)  # so that what the network mode adds is taken back
        preflight.enter([])
        rclpy.init()
        from fault_injection.cell import RobotCell

        cell = RobotCell()
        try:
            yield cell.open()
        finally:
            cell.close()
            rclpy.try_shutdown()


@pytest.mark.parametrize("name", ["policy_stopped", "not_finite", "second_controller", "pose_nan", "estop_service"])
def test_fault_ends_as_the_table_says_and_no_command_is_unsafe(cell, name):
    from fault_injection import authority_faults, robot_faults, rows, stream_faults

    inject = next(getattr(m, name) for m in (stream_faults, robot_faults, authority_faults) if hasattr(m, name))
    row = next(row for row in rows.ROWS if row.inject is inject)
    outcome = rows.run_row(row, cell, 2, lambda: None)
    assert outcome.commands > 10, "the spy heard the stream"
    # How soon is measured by the benchmark; a busy machine must not fail a test.
    assert outcome.verdict in ("ok", "late"), outcome.to_json()


def test_the_spy_sees_a_stream_that_breaks_a_limit(cell):
    """A spy that never complains proves nothing."""
    import numpy as np
    from fault_injection.stream_check import StreamCheck

    from openvla_core.types import Pose

    limits = cell.spy.stream.limits
    for steps, complaint in (
        ([0.0, 0.02], "speed"),
        ([0.0, 0.003, 0.006, 0.0], "acceleration"),
        ([0.0, float("nan")], "not finite"),
    ):
        check = StreamCheck(limits)
        x = 0.5
        check.on_status(0.0, True)
        for tick, step in enumerate(steps):
            x += step
            check.on_command(10.0 + 0.02 * tick, Pose(np.array([x, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0])))
        assert complaint in check.violations, (complaint, check.violations)
