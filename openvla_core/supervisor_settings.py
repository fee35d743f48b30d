"""Settings of the supervisor: when the arm may move, on top of how fast and how far."""

from dataclasses import dataclass

from openvla_core.config import setting
from openvla_core.safety import SafetySettings


@dataclass(frozen=True, kw_only=True)
class SupervisorSettings(SafetySettings):
    """When the arm may move, on top of how: ages, frames, tolerances and the emergency stop."""

    base_frame: str = setting("panda_link0", "Frame of the measured pose and of every command")
    tool_link: str = setting("panda_hand_tcp", "Link that the measured pose describes and commands move")
    max_observation_age_s: float = setting(
        0.5, "Oldest image an action may come from, when it arrives and while it is carried out", unit="s",
        minimum=0.05, maximum=1.0,
    )  # fmt: skip
    max_pose_age_s: float = setting(0.1, "Longest silence of the measured pose", unit="s", minimum=0.02, maximum=0.5)
    max_pose_delay_s: float = setting(
        0.5, "Longest time from the stamp of a measured pose to its arrival; stamps may be as far ahead", unit="s",
        minimum=0.05, maximum=1.0,
    )  # fmt: skip
    max_steps: int = setting(
        1, "Actions of one chunk that are carried out, until its image is older than allowed", minimum=1, maximum=16
    )
    interpolation: float = setting(
        0.5, "Share of the action period over which the target glides to a new goal; 0 jumps", minimum=0.0, maximum=1.0
    )
    max_tracking_error: float = setting(
        0.03, "Distance between commanded and measured position that ends in a hold after 0.3 s", unit="m",
        minimum=0.005, maximum=0.3,
    )  # fmt: skip
    max_tracking_rotation: float = setting(
        0.2, "Angle between commanded and measured rotation that ends in a hold after 0.3 s", unit="rad",
        minimum=0.02, maximum=1.0,
    )  # fmt: skip
    estop_required: bool = setting(
        False, "Move only while a source on the estop topic repeats false; its silence counts as pressed"
    )
    estop_timeout_s: float = setting(
        0.5, "Longest silence of the estop topic when estop_required is true", unit="s", minimum=0.05, maximum=0.5
    )
