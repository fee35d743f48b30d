"""Vision, language and action without ROS: a camera frame and a sentence become an end-effector step.

Importing this package needs numpy only; `load_policy` brings in torch when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvla_core.policy import load_policy

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        from openvla_core.policy import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
