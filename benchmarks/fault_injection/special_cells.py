"""Cells with more than a robot: a clock of their own, an e-stop that must beat, a camera and the real policy."""

import threading
import time
from contextlib import suppress

import numpy as np
from rosgraph_msgs.msg import Clock

from fault_injection.cell import CARD, RobotCell
from fault_injection.measured import KNOWN_S
from fault_injection.processes import ROOT
from fault_injection.spy import Timeout
from openvla_ros import conversions, topics

CHECKPOINT = ROOT / "checkpoints" / "openvla-tiny-sim"
KNOWN = "move to the red cube"


class Beating(threading.Thread):
    """Calls something at a rate until it is told to end."""

    def __init__(self, period_s: float, act) -> None:
        super().__init__(daemon=True)
        self.period_s, self.act, self.ended = period_s, act, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(self.period_s):
            self.act()


class SimTimeCell(RobotCell):
    """Every process lives by /clock, which is ours."""

    sim_time = True

    def __init__(self) -> None:
        super().__init__()
        self.offset_s = 1000.0 - time.monotonic()
        self.frozen = False
        self._publisher = self.spy.node.create_publisher(Clock, "/clock", topics.COMMAND)
        self._beat = Beating(0.005, self._tick)

    def _tick(self) -> None:
        if not self.frozen:
            now_ns = round((time.monotonic() + self.offset_s) * 1e9)
            self._publisher.publish(Clock(clock=conversions.headers.to_time(now_ns)))

    def jump(self, by_s: float) -> float:
        """Sets the clock; returns the monotonic time just before."""
        now_s = time.monotonic()
        if now_s + self.offset_s + by_s < 10.0:
            by_s = 60.0
        self.offset_s += by_s
        return now_s

    def freeze(self) -> float:
        """Stops the clock; returns the monotonic time just before."""
        now_s = time.monotonic()
        self.frozen = True
        self._frozen_s = now_s
        return now_s

    def reset_clock(self) -> float:
        """Starts the clock at 1 s; returns the monotonic time just before."""
        now_s = time.monotonic()
        self.offset_s = 1.0 - now_s
        return now_s

    def heal(self) -> None:
        super().heal()
        if self.frozen:
            self.offset_s -= time.monotonic() - self._frozen_s
            self.frozen = False

    def close(self) -> None:
        self._beat.ended.set()
        self._beat.join()
        super().close()


class EstopCell(RobotCell):
    """The arm moves only while an e-stop source repeats that it is not pressed."""

    controller_arguments = (*RobotCell.controller_arguments, "-p", "estop_required:=true")

    def __init__(self) -> None:
        super().__init__()
        self._publisher = self.spy.node.create_publisher(topics.Bool, topics.ESTOP, topics.RECORD)
        self._said_s = 0.0
        self.beat()

    def beat(self) -> None:
        """The source speaks ten times a second."""
        self._beat = Beating(0.1, self._say)

    def _say(self) -> None:
        self._publisher.publish(topics.Bool(data=False))

    def silence_estop(self) -> float:
        """The source falls silent; returns the time of it, at most a period after its last word."""
        self._beat.ended.set()
        self._beat.join()
        return time.monotonic()

    def close(self) -> None:
        self.silence_estop()
        super().close()


class PolicyCell(RobotCell):
    """The real policy_node with the shipped checkpoint, a camera of noise pictures, the settings of the simulation."""

    robot = "sim"
    command_topic = topics.TARGET_POSE
    fake_arguments = (
        *RobotCell.fake_arguments, "-r", "target_pose:=robot/target_pose", "-p", "base_frame:=panda_link0",
    )  # fmt: skip
    controller_arguments = ("-p", f"convention:={CHECKPOINT / 'action_convention.json'}")
    policy_program = "faulty_policy.py"
    policy_arguments = ("-p", f"checkpoint:={CHECKPOINT}", "-p", "camera_frame_id:=camera", "-p", "rate_hz:=7.5")

    def __init__(self) -> None:
        super().__init__()
        self.camera = Camera(self.spy.node)
        self.instructions = self.spy.node.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
        self._said_s = 0.0

    def calm(self) -> None:
        super().calm()
        self.camera.behave()

    def is_well(self) -> bool:
        # An untrained eye: what matters is that actions flow, the arm may stand at the border of its box.
        report, policy = self.spy.report, self.spy.policy_report
        return report is not None and policy is not None and report.code == "OK" and policy.state.name == "ACTIVE"

    def nudge(self) -> None:
        super().nudge()
        if self.spy.report is not None and self.spy.report.code == "WORKSPACE":
            self.put_back()
        policy = self.spy.policy_report
        now_s = time.monotonic()
        if policy is None or now_s - self._said_s < 0.5:
            return
        self._said_s = now_s
        if policy.state.name == "FAULT":
            with suppress(Timeout):  # it may have been started only now
                self.spy.call(topics.Trigger, "policy_node/reset", timeout_s=2.0)
        if policy.state.name in ("STANDBY", "FAULT"):
            self.say(KNOWN)

    def put_back(self) -> None:
        """Noise leads the arm out of its box in the end: all but the policy begins anew, the arm in the middle."""
        self.processes.kill("controller")
        self.processes.kill("robot")
        time.sleep(KNOWN_S + 0.1)  # what was measured before says nothing about the new beginning
        self.spy.measured.clear()
        self.spy.reports.clear()
        self.start_robot()
        self.meet_robot()
        self.start_controller()

    def say(self, text: str) -> float:
        """Publishes an instruction; returns the time just before."""
        now_s = time.monotonic()
        self.instructions.publish(conversions.text_message(text))
        return now_s

    def close(self) -> None:
        self.camera.close()
        super().close()


class Camera:
    """Noise pictures at 15 Hz, and everything a camera can do wrong."""

    def __init__(self, node) -> None:
        self.node = node
        self.random = np.random.default_rng(0)
        self.pictures = [self.random.integers(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(8)]
        self.count = 0
        self.behave()
        self.publisher = node.create_publisher(topics.Image, topics.CAMERA_IMAGE, topics.SENSOR)
        self._beat = Beating(1 / 15, self._show)

    def behave(self) -> None:
        """Everything right again."""
        self.on, self.offset_s, self.frame, self.encoding = True, 0.0, "camera", "rgb8"
        self.same_stamp = self.frozen = False
        self.picture: np.ndarray | None = None
        self.cut = 0  # bytes that are missing
        self._stamp_ns = 0

    def _show(self) -> None:
        if not self.on:
            return
        self.count += 1
        if not self.same_stamp or not self._stamp_ns:
            self._stamp_ns = self.node.get_clock().now().nanoseconds + round(self.offset_s * 1e9)
        rgb = self.pictures[0 if self.frozen else self.count % len(self.pictures)]
        message = conversions.image_message(rgb if self.picture is None else self.picture, self._stamp_ns, self.frame)
        message.encoding = self.encoding
        if self.cut:
            message.data = message.data[: -self.cut]
        self.publisher.publish(message)

    def close(self) -> None:
        """Falls silent."""
        self._beat.ended.set()
        self._beat.join()


CELLS = {"simtime": SimTimeCell, "estop": EstopCell, "policy": PolicyCell}
__all__ = ["CARD", "CELLS", "KNOWN", "Camera", "PolicyCell"]
