"""The controller as a process: how it ends, and how it comes back."""

import signal
import time

import numpy as np
import pytest
import rclpy
from controller_bench import HOME, PARAMETERS, Bench
from std_msgs.msg import Empty

from openvla_ros import bringup
from openvla_ros.topics import State


@pytest.fixture
def bench():
    rclpy.init(args=[])
    bench = Bench(with_controller=False)
    yield bench
    bench.close()
    rclpy.try_shutdown()


@pytest.fixture
def controller(start):
    def run(**parameters):
        values = {**PARAMETERS, **parameters}
        pairs = [("-p", f"{name}:={bringup.parameter_text(value)}") for name, value in values.items()]
        return start("openvla_ros.controller_node", *(word for pair in pairs for word in pair))

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_arm_stands_still_before_the_process_ends(bench, controller, number):
    """The process once ended in the middle of a motion; the arm then ran on to its last target."""
    process = controller()
    bench.ready()
    bench.act((0.05, 0, 0, 0, 0, 0, 1.0), age_s=0.02)
    bench.until(lambda: bench.arm.position[0] > HOME.position[0] + 0.01, "motion")
    assert bench.grippers == [1.0] * len(bench.grippers)
    process.send_signal(number)
    process.send_signal(signal.SIGINT)  # a launcher relays what the terminal has sent already
    asked_s = time.monotonic()
    bench.until(lambda: process.poll() is not None, "the end of the process")
    assert time.monotonic() - asked_s < 2.0
    assert process.returncode == 0
    assert "Traceback" not in process.log.read_text()

    def positions() -> np.ndarray:
        return np.array([pose.position for _, pose in bench.commands])

    at_rest = "three commands at rest are the last that the robot hears"
    bench.until(lambda: (positions()[-3:] == positions()[-1]).all(), at_rest)
    bench.quiet_for(0.2)
    assert (positions()[-3:] == positions()[-1]).all(), at_rest
    # By their stamps: on a busy machine not every command is heard.
    passed_s = np.diff([stamp_ns for stamp_ns, _ in bench.commands]) * 1e-9
    steps = np.linalg.norm(np.diff(positions(), axis=0), axis=1)
    assert (steps <= 0.4 * passed_s * 1.05 + 1e-4).all() and set(bench.grippers) == {1.0}


def test_a_controller_that_comes_back_waits_to_be_started(bench, controller):
    first = controller(start_when_active=False)
    bench.until_code("STOPPED")
    assert bench.call("start")[0]
    bench.until_code("WAITING")
    first.kill()
    first.wait()
    bench.reports.clear()
    controller(start_when_active=False)
    assert bench.until_code("STOPPED").state == State.STANDBY
    assert bench.reports[-1].code == "STOPPED"


def test_it_holds_while_stopped_and_goes_on_where_the_arm_is(bench, controller):
    process = controller()
    bench.ready()
    bench.act((0.05, 0, 0, 0, 0, 0, 1.0), age_s=0.02)
    bench.until(lambda: bench.arm.position[0] > HOME.position[0] + 0.005, "motion")
    process.send_signal(signal.SIGSTOP)
    bench.quiet_for(0.6)
    before = bench.arm.position
    heard = len(bench.commands)
    process.send_signal(signal.SIGCONT)
    bench.until(lambda: len(bench.commands) > heard + 10, "commands")
    assert all(np.array_equal(pose.position, before) for _, pose in bench.commands[heard:])


BROKEN = """
import sys
from openvla_ros import controller_node, node_support
from std_msgs.msg import Empty

class Broken(controller_node.ControllerNode):
    def __init__(self, **options):
        super().__init__(**options)
        self.create_subscription(Empty, "break", lambda message: 1 / 0, 1)  # as a backend's own may

sys.exit(node_support.run(Broken, None))
"""


def test_an_error_outside_the_guarded_callbacks_ends_the_process_after_braking(bench, start, tmp_path, monkeypatch):
    (tmp_path / "broken_controller.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    pairs = [("-p", f"{name}:={bringup.parameter_text(value)}") for name, value in PARAMETERS.items()]
    process = start("broken_controller", *(word for pair in pairs for word in pair))
    bench.ready()
    publisher = bench.node.create_publisher(Empty, "break", 1)
    bench.until(lambda: publisher.get_subscription_count() == 1, "the broken callback")
    bench.act((0.05, 0, 0, 0, 0, 0, 1.0), age_s=0.02)
    bench.until(lambda: bench.arm.position[0] > HOME.position[0] + 0.01, "motion")
    for _ in range(3):  # again while it brakes
        publisher.publish(Empty())
    bench.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 1
    assert "ZeroDivisionError" in process.log.read_text()
    bench.quiet_for(0.2)
    positions = np.array([pose.position for _, pose in bench.commands])
    assert (positions[-3:] == positions[-1]).all(), "three commands at rest are the last that the robot hears"
