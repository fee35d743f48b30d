"""A backend and the pretend robot it talks to over real topics, in lockstep: one command, then it has arrived."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from rclpy.parameter import Parameter

from openvla_core.types import Pose, SafeAction

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "fakes"))

HOME = Pose(np.array([0.45, 0.0, 0.30]), np.array([1.0, 0.0, 0.0, 0.0]))  # a gripper that points down
# 1 % and 99 % quantiles of the actions of bridge_orig: metres and radians.
BRIDGE_LOW = np.array([-0.028727, -0.041703, -0.026094, -0.080921, -0.092887, -0.207183, 0.0])
BRIDGE_HIGH = np.array([0.028310, 0.040855, 0.040162, 0.081920, 0.077929, 0.203826, 1.0])


def bridge_actions(count: int, seed: int = 0) -> np.ndarray:
    """Random rows (count, 7) in the range of BridgeV2."""
    return np.random.default_rng(seed).uniform(BRIDGE_LOW, BRIDGE_HIGH, (count, 7))


@dataclass(frozen=True)
class Settings:
    """What a backend asks of the controller's settings."""

    base_frame: str = "fr3_link0"
    rate_hz: float = 50.0
    max_speed: float = 0.25
    max_angular_speed: float = 0.8
    arm: str = "fr3"


def parameters(values: dict) -> list[Parameter]:
    """Parameter overrides of a node."""
    return [Parameter(name, value=value) for name, value in values.items()]


class Bench:
    """One backend on a node of its own. Stamps are virtual: a command every period, far ahead of the wall clock."""

    def __init__(self, world, name: str, settings: Settings | None = None, **own) -> None:
        from openvla_ros.backends import make_backend

        self.world = world
        self.settings = settings or Settings()
        overrides = parameters({f"{name}.{key}" if "." not in key else key: value for key, value in own.items()})
        self.node = world.add(rclpy.create_node("controller_node", parameter_overrides=overrides))
        self.backend = make_backend(name, self.node, self.settings)
        self.stamp_ns = self.node.get_clock().now().nanoseconds + 60_000_000_000

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def send(self, command: SafeAction, period_s: float | None = None) -> int:
        """One command; returns its stamp."""
        self.stamp_ns += round((period_s or 1.0 / self.settings.rate_hz) * 1e9)
        self.backend.send(command, self.stamp_ns)
        return self.stamp_ns

    def deliver(self, command: SafeAction, received: list, period_s: float | None = None):
        """One command, and what the robot received of it."""
        count = len(received)
        stamp_ns = self.send(command, period_s)
        self.world.wait_for(lambda: len(received) > count, f"the command arrives; {self.backend.problem()}")
        assert len(received) == count + 1
        return stamp_ns, received[-1]

    def connect(self, command: SafeAction, received: list) -> None:
        """Sends the command until it arrives, as discovery takes its time, and then forgets what arrived."""

        def arrived() -> bool:
            if not received:
                self.send(command)
            return bool(received)

        self.world.wait_for(arrived, "the robot hears the backend")
        self.world.wait_for(lambda: self.settled(received), "no more commands are on their way")
        received.clear()

    def settled(self, received: list) -> bool:
        count = len(received)
        for _ in range(20):
            self.world.executor.spin_once(timeout_sec=0.01)
        return len(received) == count

    def until_problem(self, code: str, command: SafeAction | None = None, patience_s: float = 60.0):
        """Ticks at about the control rate until the backend reports this problem; returns it."""

        def reported():
            if command is not None:
                self.backend.send(command, self.now_ns())
            self.world.executor.spin_once(timeout_sec=0.01)
            problem = self.backend.problem()
            return problem if problem and problem.code == code else None

        return self.world.wait_for(reported, f"problem {code}; it is {self.backend.problem()}", patience_s)

    def until_healthy(self, command: SafeAction | None = None) -> None:
        def healthy() -> bool:
            if command is not None:
                self.backend.send(command, self.now_ns())
            self.world.executor.spin_once(timeout_sec=0.01)
            return self.backend.problem() is None

        self.world.wait_for(healthy, f"no problem; it is {self.backend.problem()}")


# Independent arithmetic: 4 x 4 matrices, no code of ours --------------------------------------------------------------


def rodrigues(vector: np.ndarray) -> np.ndarray:
    """The rotation matrix (3, 3) of a rotation vector (3,)."""
    angle = np.linalg.norm(vector)
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def matrix_of(pose: Pose) -> np.ndarray:
    """The pose as a matrix (4, 4)."""
    x, y, z, w = pose.quaternion / np.linalg.norm(pose.quaternion)
    matrix = np.eye(4)
    matrix[:3, 3] = pose.position
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return matrix


def euler_matrix(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rz Ry Rx (3, 3)."""
    axes = np.eye(3)
    return rodrigues(yaw * axes[2]) @ rodrigues(pitch * axes[1]) @ rodrigues(roll * axes[0])


def euler_angles(matrix: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw (3,) of Rz Ry Rx."""
    pitch = np.arctan2(-matrix[2, 0], np.hypot(matrix[0, 0], matrix[1, 0]))
    return np.array([np.arctan2(matrix[2, 1], matrix[2, 2]), pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The larger of metres and radians between two matrices (4, 4)."""
    turn = a[:3, :3].T @ b[:3, :3]
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    angle = np.arctan2(np.linalg.norm(skew), (np.trace(turn) - 1) / 2)
    return float(max(np.linalg.norm(a[:3, 3] - b[:3, 3]), angle))
