"""A few rows of benchmarks/faults.py: real processes, and a spy that checks every command.

How soon the arm stops is measured by the benchmark; here only what a fault ends in counts, however busy the machine is.
A trial in which the machine itself made the arm hold is done again.
"""

import os

import pytest
import rclpy

from openvla_ros import preflight
from openvla_ros.demo import free_domain

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATIENCE = 20  # trials that may be disturbed


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
    outcome = rows.run_row(row, cell, 2, lambda: None, PATIENCE)
    told = {name: outcome.to_json()[name] for name in ("seen", "failed", "unsafe_examples", "disturbed", "tracebacks")}
    assert len(outcome.trials) == 2, told
    assert outcome.commands > 10, "the spy heard the stream"
    assert outcome.verdict in ("ok", "late"), f"{outcome.verdict}: {told}"
