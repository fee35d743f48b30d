"""Parameters of the controller node."""

from dataclasses import dataclass

from openvla_core.config import setting
from openvla_core.supervisor import SupervisorSettings
from openvla_ros import backends


@dataclass(frozen=True, kw_only=True)
class ControllerSettings(SupervisorSettings):
    """Parameters of controller_node: the limits of the robot and how it is reached. Fixed while the node runs."""

    convention: str = setting("", "Path of the convention card that gives the actions their meaning; required")
    backend: str = setting("sim", "How commands reach the robot", choices=backends.NAMES)
    dry_run: bool = setting(
        True, "At the start, publish everything except commands to the robot; ~/set_dry_run changes it later"
    )
    rate_hz: float = setting(50.0, "Commands per second", unit="Hz", minimum=20.0, maximum=200.0)
    autostart: bool = setting(True, "Configure and activate without being asked")
    start_when_active: bool = setting(
        False, "Follow actions as soon as the node is active; false waits for ~/start, also after a restart"
    )
    pose_source: str = setting(
        "topic", "Where the measured pose comes from: robot/current_pose, or joint_states and the arm's geometry",
        choices=("topic", "joints"),
    )  # fmt: skip
    arm: str = setting("", "Arm whose geometry is used, where one is: fr3, panda or wx250s")
    realtime_priority: int = setting(
        20, "Real-time priority of the process where the system permits it (SCHED_FIFO), 0 for none", minimum=0,
        maximum=90,
    )  # fmt: skip
