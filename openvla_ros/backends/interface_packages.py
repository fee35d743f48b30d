"""Message packages of one robot's driver, imported when a backend needs them and named when they are missing."""

import importlib
import os
from typing import Any

from openvla_core.errors import ConfigError

_FROM_APT = "sudo apt install ros-{distro}-{package}"
HOW_TO_INSTALL = {
    "control_msgs": _FROM_APT,
    "franka_msgs": _FROM_APT,
    "moveit_msgs": _FROM_APT,
    "interbotix_xs_msgs": "build interbotix_ros_core (branch humble) from source in your colcon workspace",
}


def load(name: str) -> Any:
    """The type of this full name, such as "moveit_msgs.srv.ServoCommandType".

    Raises ConfigError, naming what to install, when its package is missing or is a version without this type.
    """
    module, _, kind = name.rpartition(".")
    package = module.split(".")[0]
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        how = HOW_TO_INSTALL[package].format(
            distro=os.environ.get("ROS_DISTRO") or "<distro>", package=package.replace("_", "-")
        )
        raise ConfigError(
            f"this backend needs {name.replace('.', '/')}, which is not installed ({error}). "
            f"Install it ({how}), source the workspace again, or choose another backend."
        ) from error
