"""A controller with an arm that follows its commands exactly and a policy that says what the test wants."""

import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.controller_node import ControllerNode
from openvla_ros.conversions import Chunk

REPOSITORY = Path(__file__).resolve().parents[2]
CARD = REPOSITORY / "config" / "conventions" / "sim_tabletop.yaml"
HOME = Pose(np.array([0.45, 0.0, 0.30]), np.array([1.0, 0.0, 0.0, 0.0]))
FORWARD = (0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
PATIENCE_S = 60.0
# Ages are generous, so that a busy machine does not add holds of its own to the one under test.
PARAMETERS = {
    "convention": str(CARD),
    "dry_run": False,
    "start_when_active": True,
    "max_speed": 0.4,
    "max_acceleration": 3.0,
    "gripper_decisions": 1,
    "max_observation_age_s": 1.0,
    "max_pose_age_s": 0.5,
    "max_tracking_error": 0.3,
}


class Bench:
    """A fake arm and a fake policy, and unless another process runs it the controller, spun by one executor."""

    def __init__(self, *, with_controller: bool = True, **parameters) -> None:
        self.executor = SingleThreadedExecutor()
        self.controller = None
        if with_controller:
            values = {**PARAMETERS, **parameters}
            overrides = [Parameter(name, value=value) for name, value in values.items()]
            self.controller = ControllerNode(parameter_overrides=overrides)
            self.executor.add_node(self.controller)
        self.node = rclpy.create_node("bench")
        self.executor.add_node(self.node)
        self.arm = HOME
        self.arm_follows = True
        self.commands: list[tuple[int, Pose]] = []  # (stamp_ns, pose) as the robot gets them
        self.grippers: list[float] = []
        self.previews: list[Pose] = []
        self.applied: list[conversions.Applied] = []
        self.reports: list[conversions.StatusReport] = []
        self.sequence = -1

        node = self.node
        self._pose = node.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
        self._chunk = node.create_publisher(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.COMMAND)
        self._estop = node.create_publisher(topics.Bool, topics.ESTOP, topics.RECORD)
        self.target = node.create_subscription(topics.PoseStamped, topics.TARGET_POSE, self._on_target, topics.RECORD)
        node.create_subscription(
            topics.Float64, topics.GRIPPER_COMMAND, lambda m: self.grippers.append(m.data), topics.RECORD
        )
        self._listen("applied_action", topics.AppliedAction, lambda m: self.applied.append(conversions.to_applied(m)))
        self._listen("status", topics.Status, lambda m: self.reports.append(conversions.to_status(m)))
        self._listen("commanded_pose", topics.PoseStamped, lambda m: self.previews.append(conversions.to_pose(m)))
        node.create_timer(0.02, self._publish_pose)

    def _listen(self, name, kind, callback) -> None:
        qos = topics.LATCHED if name == "status" else topics.RECORD
        self.node.create_subscription(kind, f"controller_node/{name}", callback, qos)

    def close(self) -> None:
        self.executor.shutdown()
        if self.controller is not None:
            self.controller.destroy_node()
        self.node.destroy_node()

    @property
    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def _publish_pose(self) -> None:
        self._pose.publish(conversions.pose_message(self.arm, self.now_ns, "panda_link0"))

    def _on_target(self, message) -> None:
        pose = conversions.to_pose(message)
        assert conversions.frame_of(message) == "panda_link0"
        self.commands.append((conversions.stamp_ns(message), pose))
        if self.arm_follows:
            self.arm = pose

    def until(self, fact, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not fact():
            assert time.monotonic() < deadline, f"{what}; last status: {self.reports[-1:]}"
            self.executor.spin_once(timeout_sec=0.05)

    def until_code(self, code: str) -> conversions.StatusReport:
        self.until(lambda: self.reports and self.reports[-1].code == code, f"status {code} did not come")
        return self.reports[-1]

    def ready(self) -> "Bench":
        """Waits until the arm is held and the controller has measured it long enough to look back at an image."""
        self.until_code("WAITING")
        self.until(lambda: self._chunk.get_subscription_count() >= 1, "the controller does not listen")
        start_ns = self.now_ns
        self.until(lambda: self.now_ns - start_ns > 700_000_000 and self.commands, "no commands")
        return self

    def act(self, row=FORWARD, age_s=0.1, convention="sim_tabletop") -> None:
        self.sequence += 1
        actions = np.atleast_2d(np.array(row, dtype=np.float64))
        chunk = Chunk(
            stamp_ns=self.now_ns - round(age_s * 1e9),
            frame="base",
            session_id="bench",
            sequence=self.sequence,
            instruction="pick up the red cube",
            convention=convention,
            rate_hz=5.0,
            actions=actions,
            token_ids=np.zeros(actions.shape, dtype=np.int64),
            token_probabilities=np.ones(actions.shape),
        )
        self._chunk.publish(conversions.chunk_message(chunk))

    def press_estop(self, pressed: bool) -> None:
        self._estop.publish(topics.Bool(data=pressed))

    def call(self, name: str, kind=topics.Trigger, **request) -> tuple[bool, str]:
        client = self.node.create_client(kind, f"controller_node/{name}")
        self.until(client.service_is_ready, f"no service {name}")
        future = client.call_async(kind.Request(**request))
        self.until(future.done, f"{name} did not answer")
        return conversions.replied(future.result())

    def more_commands(self, count: int) -> list[Pose]:
        """The poses of the next commands."""
        have = len(self.commands)
        self.until(lambda: len(self.commands) >= have + count, "the stream of commands stopped")
        return [pose for _, pose in self.commands[have:]]

    def stands_still(self) -> bool:
        return len({pose.position.tobytes() + pose.quaternion.tobytes() for pose in self.more_commands(25)}) == 1

    def quiet_for(self, seconds: float) -> None:
        """Returns once no command has come for so long."""
        self._last = (len(self.commands), time.monotonic())

        def quiet() -> bool:
            if len(self.commands) != self._last[0]:
                self._last = (len(self.commands), time.monotonic())
            return time.monotonic() - self._last[1] > seconds

        self.until(quiet, "the commands go on")
