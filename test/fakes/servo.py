#!/usr/bin/env python3
"""A pretend MoveIt Servo, of Humble or of Jazzy (parameter `api`): twists or poses in, the pose of the tool out.

As the real one it takes no command before it was started (Humble) or switched to its type (Jazzy), drops commands whose
stamp is older than 0.1 s, and as that of Jazzy cuts speeds at its scales.
"""

import sys

import numpy as np
from fake_robot import FakeRobot, declared_pose, run

from openvla_core import rotations
from openvla_ros import conversions, topics

COMMAND_TIMEOUT_S = 0.1
PERIOD_S = 0.01
HALT_FOR_COLLISION = {"humble": 4, "jazzy": 5}


class FakeServo(FakeRobot):
    """Integrates twists over time, or goes to the pose at once."""

    def __init__(self, **options) -> None:
        super().__init__("servo_node", 100.0, **options)
        self.api = self.declare_parameter("api", "jazzy").value
        self.base_frame = self.declare_parameter("base_frame", "fr3_link0").value
        self.scales = [self.declare_parameter(f"scale.{name}", value).value for name, value in _SCALES]
        self.pose = declared_pose(self, [0.45, 0.0, 0.30], [1.0, 0.0, 0.0, 0.0])
        self.received: list[tuple] = []  # (stamp_ns, frame, (linear (3,), angular (3,)) or pose)
        self.stale = 0
        self.command_type: int | None = None
        self.started = self.api == "jazzy"
        self.requests: list[str] = []
        self._twist = np.zeros(6)
        self._twist_ns = 0
        self._poses = self.create_publisher(topics.PoseStamped, "current_pose", topics.COMMAND)
        self.listen(topics.TwistStamped, "~/delta_twist_cmds", self.on_twist, topics.COMMAND)
        if self.api == "humble":
            self.create_service(topics.Trigger, "~/start_servo", self.on_start)
            self._statuses = self.create_publisher(topics.Int8, "~/status", topics.COMMAND)
        else:
            from moveit_msgs.msg import ServoStatus
            from moveit_msgs.srv import ServoCommandType

            self.kind = ServoCommandType
            self.create_service(ServoCommandType, "~/switch_command_type", self.on_switch)
            self.create_service(topics.SetBool, "~/pause_servo", self.on_pause)
            self._statuses = self.create_publisher(ServoStatus, "~/status", topics.COMMAND)
            self.listen(topics.PoseStamped, "~/pose_target_cmds", self.on_pose, topics.COMMAND)
        self.create_timer(PERIOD_S, self.advance)

    # Services ---------------------------------------------------------------------------------------------------

    def on_start(self, request, response):
        """Humble: commands are taken from now on."""
        self.requests.append("start_servo")
        self.started = self.fault != "rejecting"
        return conversions.reply(response, self.started, "" if self.started else "in a fault")

    def on_switch(self, request, response):
        """Jazzy: only this type of command is taken from now on."""
        self.requests.append("switch_command_type")
        response.success = self.fault != "rejecting"
        if response.success:
            self.command_type = request.command_type
        return response

    def on_pause(self, request, response):
        """Jazzy: pauses or goes on."""
        self.requests.append("pause_servo")
        self.started = not request.data
        return conversions.reply(response, self.fault != "rejecting", "")

    # Commands ---------------------------------------------------------------------------------------------------

    def on_twist(self, message) -> None:
        """One velocity, kept until it is older than the timeout."""
        if not self._takes("TWIST", message):
            return
        twist = message.twist
        values = [np.array([part.x, part.y, part.z]) for part in (twist.linear, twist.angular)]
        self.received.append((conversions.stamp_ns(message), conversions.frame_of(message), tuple(values)))
        if self.api == "jazzy":
            values = [_cut(value, scale) for value, scale in zip(values, self.scales, strict=True)]
        self._twist, self._twist_ns = np.concatenate(values), conversions.stamp_ns(message)

    def on_pose(self, message) -> None:
        """One pose; the real one goes there at its scales, this one at once."""
        if self._takes("POSE", message):
            pose = conversions.to_pose(message)
            self.received.append((conversions.stamp_ns(message), conversions.frame_of(message), pose))
            if self.obeys:
                self.pose = pose

    def _takes(self, name: str, message) -> bool:
        if self._is_stale(conversions.stamp_ns(message)):
            self.stale += 1
            return False
        return self.started and (self.api == "humble" or self.command_type == getattr(self.kind.Request, name))

    def _is_stale(self, stamp_ns: int) -> bool:
        return self.now_ns() - stamp_ns >= COMMAND_TIMEOUT_S * 1e9

    def advance(self) -> None:
        """One period of the velocity that is in force."""
        if self.obeys and not self._is_stale(self._twist_ns):
            self.pose = rotations.moved(self.pose, self._twist[:3] * PERIOD_S, self._twist[3:] * PERIOD_S)

    def publish_state(self) -> None:
        """The pose of the tool and the status code."""
        pose = self.shown_pose(self.pose)
        self.emit(self._poses, conversions.pose_message(pose, self.now_ns(), self.base_frame))
        status = self._statuses.msg_type()
        setattr(status, "data" if self.api == "humble" else "code", self._code())
        self._statuses.publish(status)

    def _code(self) -> int:
        return HALT_FOR_COLLISION[self.api] if self.fault == "reflex" else 0


_SCALES = (("linear", 0.4), ("rotational", 0.8))


def _cut(vector: np.ndarray, longest: float) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    return vector * (longest / norm) if norm > longest else vector


if __name__ == "__main__":
    sys.exit(run(FakeServo))
