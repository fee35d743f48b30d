"""Where a number becomes a finding."""

from dataclasses import dataclass

from openvla_core.config import setting


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Limits of the checks. The defaults suit table-top arms at 3 to 15 steps per second."""

    shortest_s: float = setting(0.5, "Shortest episode", unit="s", minimum=0.0)
    longest_s: float = setting(120.0, "Longest episode", unit="s", minimum=1.0)
    fewest_steps: int = setting(4, "Fewest steps of an episode", minimum=1)
    dropped_share: float = setting(0.2, "Largest share of steps that may be unusable", minimum=0.0, maximum=1.0)
    gap_s: float = setting(0.15, "A hole between two messages has at least this length", unit="s", minimum=0.0)
    gap_periods: float = setting(2.5, "and is this many usual intervals long", minimum=1.0)
    clock_s: float = setting(0.3, "Largest difference between the clocks of two streams", unit="s", minimum=0.01)
    jump_s: float = setting(
        0.2, "Largest change of a stream's delay from one message to the next", unit="s", minimum=0.01
    )
    offset_s: float = setting(0.2, "Largest time between motion in the picture and of the tool", unit="s", minimum=0.01)
    idle_share: float = setting(0.5, "Largest share of steps without motion", minimum=0.0, maximum=1.0)
    pause_s: float = setting(2.0, "Longest pause on the way", unit="s", minimum=0.1)
    fastest: float = setting(2.0, "Fastest tool motion that is no jump", unit="m/s", minimum=0.1)
    fastest_turn: float = setting(12.0, "Fastest tool rotation that is no jump", unit="rad/s", minimum=0.1)
    workspace_low: tuple[float, ...] = setting((0.10, -0.70, -0.05), "Lower corner of the workspace", unit="m")
    workspace_high: tuple[float, ...] = setting((0.90, 0.70, 1.00), "Upper corner of the workspace", unit="m")
    outlier: float = setting(4.0, "How many times the 99 % quantile a step may be long", minimum=1.0)
    bridge_ratio: float = setting(3.0, "How many times the quantiles of bridge_orig", minimum=1.0)
    chatter_s: float = setting(
        1.0, "Three changes of the gripper within this time are a flutter", unit="s", minimum=0.1
    )
    black: float = setting(8.0, "Mean brightness of 255 below which a picture is black", minimum=0.0)
    bright_share: float = setting(0.5, "Share of white pixels above which it is overexposed", minimum=0.0, maximum=1.0)
    sharpness_ratio: float = setting(0.25, "Sharpness against the median of the set", minimum=0.0, maximum=1.0)
    frozen_frames: int = setting(5, "Equal pictures in a row, while the arm moves, that are a frozen camera", minimum=2)
