"""What the policy sees: the newest camera frame that may be acted on, and whether the camera can be believed."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node

from openvla_core.camera_watch import CameraWatch
from openvla_core.errors import ActionError
from openvla_core.journey import Journey
from openvla_core.types import Problem
from openvla_ros import conversions, topics
from openvla_ros.policy_setup import PolicySettings
from openvla_ros.taken_messages import TakenMessages


@dataclass(frozen=True)
class Sight:
    """What may be acted on: a picture (H, W, 3) uint8 RGB, when it was taken, ns, and what became of it since."""

    rgb: np.ndarray
    stamp_ns: int
    journey: Journey


class PolicyEyes:
    """Subscribes to the camera, and to the robot's motion to notice a picture that stands still while the robot moves.

    Args:
        on_frame: called when a frame has come that may be acted on.
    """

    def __init__(self, node: Node, settings: PolicySettings, on_frame: Callable[[], None]) -> None:
        self._node = node
        self._on_frame = on_frame
        self._max_age_s = settings.max_observation_age_s
        self._watch = CameraWatch(
            settings.max_observation_age_s, settings.camera_frame_id, node.resolve_topic_name(topics.CAMERA_IMAGE)
        )
        self._newest: tuple[Any, Journey] | None = None  # the message, and its way so far
        self.frames = 0
        kind = topics.Image if settings.image_transport == "raw" else topics.CompressedImage
        self._images = node.create_subscription(kind, topics.CAMERA_IMAGE, self._on_image, topics.SENSOR)
        # Read when a picture is judged: a robot may publish them a thousand times per second.
        self._poses = TakenMessages(node, topics.PoseStamped, topics.CURRENT_POSE, topics.MEASURED)
        self._joints = TakenMessages(node, topics.JointState, topics.JOINT_STATES, topics.MEASURED)

    def take(self) -> Sight | None:
        """The newest frame, once; None when there is none. Raises ImageError when it is no picture."""
        newest, self._newest = self._newest, None
        if newest is None:
            return None
        message, journey = newest
        journey.reached("waiting")
        stamp_ns = conversions.stamp_ns(message)
        if self._node.get_clock().now().nanoseconds - stamp_ns > self._max_age_s * 1e9:
            return None  # it waited for too long; the next one is on its way
        rgb = conversions.to_rgb(message)
        journey.reached("conversion")
        return Sight(rgb, stamp_ns, journey)

    def forget(self) -> None:
        """Forgets the frame: what it shows may be over."""
        self._newest = None

    def problem(self) -> Problem | None:
        """Why no frame may be acted on now."""
        self._look_at_the_robot()
        return self._watch.problem(time.monotonic())

    def counts(self) -> dict[str, int]:
        """How many frames came, and how many were dropped for which reason."""
        return {"frames": self.frames, **{f"dropped: {why}": count for why, count in self._watch.dropped.items()}}

    def close(self) -> None:
        """Lets go of the topics."""
        self._node.destroy_subscription(self._images)
        self._poses.close()
        self._joints.close()

    def _on_image(self, message) -> None:
        self.frames += 1
        stamp_ns, now_ns = conversions.stamp_ns(message), self._node.get_clock().now().nanoseconds
        journey = Journey("age", (now_ns - stamp_ns) * 1e-9)
        self._look_at_the_robot()
        good = self._watch.on_frame(
            stamp_ns,
            conversions.frame_of(message),
            conversions.image_bytes(message),
            now_ns,
            time.monotonic(),
        )
        if good:
            self._newest = (message, journey)
            self._on_frame()

    def _look_at_the_robot(self) -> None:
        for message, _ in self._poses.take():
            with suppress(ActionError):
                self._watch.on_motion("position", conversions.to_pose(message).position)
        for message, _ in self._joints.take():
            names, positions = conversions.joints(message)
            self._watch.on_motion(",".join(names), positions)
