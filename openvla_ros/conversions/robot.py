"""What robots measure and are told: poses, joints, velocities, trajectories. Metres, radians, seconds."""

from collections.abc import Sequence

import numpy as np

from openvla_core.errors import ActionError
from openvla_core.types import Pose
from openvla_ros import topics
from openvla_ros.conversions.headers import set_header


def to_pose(message: topics.PoseStamped) -> Pose:
    """The pose in the frame of its header. Raises ActionError unless it is finite with a unit quaternion (1 %)."""
    pose = read_pose(message.pose)
    norm = np.linalg.norm(pose.quaternion)
    if not (np.isfinite(pose.position).all() and abs(norm - 1.0) < 0.01):
        raise ActionError(
            f"pose in frame {message.header.frame_id!r} has position {pose.position.tolist()} and quaternion "
            f"{pose.quaternion.tolist()}; expected finite metres and a unit quaternion (x, y, z, w). "
            "Check the publisher of this pose."
        )
    return Pose(pose.position, pose.quaternion / norm)


def pose_message(pose: Pose, stamp_ns: int, frame: str) -> topics.PoseStamped:
    """A PoseStamped of a pose given in `frame`."""
    message = topics.PoseStamped()
    write_pose(message.pose, pose)
    return set_header(message, stamp_ns, frame)


def read_pose(message: topics.PoseMessage) -> Pose:
    """The pose of a Pose message, unchecked."""
    position, orientation = message.position, message.orientation
    return Pose(
        np.array([position.x, position.y, position.z]),
        np.array([orientation.x, orientation.y, orientation.z, orientation.w]),
    )


def write_pose(message: topics.PoseMessage, pose: Pose) -> None:
    """Fills a Pose message."""
    position, orientation = message.position, message.orientation
    position.x, position.y, position.z = (float(value) for value in pose.position)
    orientation.x, orientation.y, orientation.z, orientation.w = (float(value) for value in pose.quaternion)


def joint_state_message(
    names: Sequence[str], positions: np.ndarray, velocities: np.ndarray, stamp_ns: int
) -> topics.JointState:
    """A JointState; positions (J,) in rad or m, velocities (J,) in rad/s or m/s."""
    message = topics.JointState(name=list(names))
    message.position = [float(value) for value in positions]
    message.velocity = [float(value) for value in velocities]
    return set_header(message, stamp_ns)


def joints(message: topics.JointState) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and positions (J,) float64 of all joints, rad or m."""
    return tuple(message.name), np.array(message.position, dtype=np.float64)


def names_joints(message: topics.JointState, names: Sequence[str]) -> bool:
    """Whether the message is about all of these joints, each with a position."""
    return set(names) <= set(message.name) and len(message.position) == len(message.name)


def to_joint_positions(message: topics.JointState, names: Sequence[str]) -> np.ndarray | None:
    """The positions (n,) float64 of the named joints, rad or m; None when one is missing or not finite."""
    known = dict(zip(message.name, message.position, strict=False))
    positions = np.array([known.get(name, np.nan) for name in names], dtype=np.float64)
    return positions if np.isfinite(positions).all() else None


def twist_message(velocity: np.ndarray, angular_velocity: np.ndarray, stamp_ns: int, frame: str) -> topics.TwistStamped:
    """A TwistStamped of a velocity (3,) m/s and an angular velocity (3,) rad/s, both along the axes of `frame`."""
    message = topics.TwistStamped()
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z = (float(value) for value in velocity)
    angular.x, angular.y, angular.z = (float(value) for value in angular_velocity)
    return set_header(message, stamp_ns, frame)


def trajectory_message(names: Sequence[str], positions: np.ndarray, duration_ns: int) -> topics.JointTrajectory:
    """A JointTrajectory of one point: positions (n,) rad, to be reached `duration_ns` after it arrives.

    The stamp is 0, which means at once: with a time of ours, a robot whose clock is ahead would refuse it as past.
    """
    seconds, nanoseconds = divmod(int(duration_ns), 1_000_000_000)
    point = topics.JointTrajectoryPoint(time_from_start=topics.Duration(sec=seconds, nanosec=nanoseconds))
    point.positions = [float(value) for value in positions]
    return topics.JointTrajectory(joint_names=list(names), points=[point])
