"""The limits of a robot as settings, and the caps that no setting can exceed."""

import math
from dataclasses import dataclass

from openvla_core.config import check_setting, setting
from openvla_core.errors import ConfigError

# No parameter goes beyond these; they are also the upper ends of the ranges below.
CAP_SPEED = 0.5  # m/s
CAP_ACCELERATION = 4.0  # m/s^2
CAP_JERK = 500.0  # m/s^3
CAP_ANGULAR_SPEED = 2.0  # rad/s
CAP_ANGULAR_ACCELERATION = 16.0  # rad/s^2
CAP_ANGULAR_JERK = 2000.0  # rad/s^3
CAP_TRANSLATION = 0.075  # m per action
CAP_ROTATION = 0.30  # rad per action
CAP_REACH = 2.0  # m from the base


@dataclass(frozen=True, kw_only=True)
class SafetySettings:
    """Limits of one robot; the defaults are a slow profile for a table-top arm."""

    max_speed: float = setting(0.25, "Fastest tool motion", unit="m/s", minimum=0.001, maximum=CAP_SPEED)
    max_acceleration: float = setting(
        1.0, "Strongest tool acceleration while following", unit="m/s^2", minimum=0.1, maximum=CAP_ACCELERATION
    )
    stop_acceleration: float = setting(
        2.0, "Tool deceleration when holding; never below max_acceleration", unit="m/s^2", minimum=0.1,
        maximum=CAP_ACCELERATION,
    )  # fmt: skip
    max_jerk: float = setting(
        50.0, "Fastest change of the tool acceleration while following", unit="m/s^3", minimum=1.0, maximum=CAP_JERK
    )
    stop_jerk: float = setting(
        200.0, "The same when holding; never below max_jerk", unit="m/s^3", minimum=1.0, maximum=CAP_JERK
    )
    max_angular_speed: float = setting(
        1.0, "Fastest tool rotation", unit="rad/s", minimum=0.001, maximum=CAP_ANGULAR_SPEED
    )
    max_angular_acceleration: float = setting(
        4.0, "Strongest angular acceleration while following", unit="rad/s^2", minimum=1.0,
        maximum=CAP_ANGULAR_ACCELERATION,
    )  # fmt: skip
    stop_angular_acceleration: float = setting(
        8.0, "Angular deceleration when holding; never below max_angular_acceleration", unit="rad/s^2", minimum=1.0,
        maximum=CAP_ANGULAR_ACCELERATION,
    )  # fmt: skip
    # The angular jerks give the same times from zero to full acceleration as the linear ones: 20 ms and 10 ms.
    max_angular_jerk: float = setting(
        200.0, "Fastest change of the angular acceleration while following", unit="rad/s^3", minimum=10.0,
        maximum=CAP_ANGULAR_JERK,
    )  # fmt: skip
    stop_angular_jerk: float = setting(
        800.0, "The same when holding; never below max_angular_jerk", unit="rad/s^3", minimum=10.0,
        maximum=CAP_ANGULAR_JERK,
    )  # fmt: skip
    start_ramp_s: float = setting(
        0.5, "Time in which the speed limits grow from a fifth to all of their value after a start or reset",
        unit="s", minimum=0.0, maximum=5.0,
    )  # fmt: skip
    max_translation: float = setting(
        0.05, "Longest step of one action", unit="m", minimum=0.001, maximum=CAP_TRANSLATION
    )
    max_rotation: float = setting(0.25, "Largest turn of one action", unit="rad", minimum=0.001, maximum=CAP_ROTATION)
    workspace_low: tuple[float, ...] = setting(
        (0.28, -0.45, 0.02), "Lower corner of the box the tool stays in, base frame", unit="m", minimum=-CAP_REACH,
        maximum=CAP_REACH,
    )  # fmt: skip
    workspace_high: tuple[float, ...] = setting(
        (0.75, 0.45, 0.75), "Upper corner of the box the tool stays in, base frame", unit="m", minimum=-CAP_REACH,
        maximum=CAP_REACH,
    )  # fmt: skip
    tool_axis: tuple[float, ...] = setting(
        (0.0, 0.0, 1.0), "Direction in the tool frame that the orientation cone is about", minimum=-1.0, maximum=1.0
    )
    cone_axis: tuple[float, ...] = setting(
        (0.0, 0.0, -1.0), "Middle of the orientation cone, base frame", minimum=-1.0, maximum=1.0
    )
    max_tilt: float = setting(
        math.pi, "Largest angle between tool_axis and cone_axis; pi allows every orientation", unit="rad", minimum=0.0,
        maximum=3.15,
    )  # fmt: skip
    gripper_hysteresis: float = setting(
        0.1, "Opening beyond the threshold that makes the gripper toggle", minimum=0.0, maximum=0.45
    )
    gripper_interval_s: float = setting(0.3, "Shortest time between two toggles", unit="s", minimum=0.3, maximum=5.0)
    gripper_decisions: int = setting(
        2, "Actions in a row that must agree before the gripper toggles", minimum=1, maximum=5
    )


def check_safety_settings(settings: SafetySettings) -> None:
    """Raises ConfigError when a limit is beyond its cap, not a number, or the workspace box is not a box."""
    for field in SafetySettings.__dataclass_fields__.values():
        check_setting(field, getattr(settings, field.name))
    low, high = settings.workspace_low, settings.workspace_high
    if len(low) != 3 or len(high) != 3 or not all(a < b for a, b in zip(low, high, strict=True)):
        raise ConfigError(
            f"workspace_low {list(low)} and workspace_high {list(high)} do not make a box; "
            "give x, y, z in metres for both, every low below its high."
        )
    for name in ("tool_axis", "cone_axis"):
        axis = getattr(settings, name)
        if len(axis) != 3 or math.hypot(*axis) < 0.1:
            raise ConfigError(f"{name} is {list(axis)}, which has no direction; give x, y, z, such as [0, 0, 1].")
