"""Finds the .msg file of a message type, where ROS packages install it or in our source tree."""

from pathlib import Path

from openvla_ros.share import share_folder


def find_definition(name: str) -> str | None:
    """The text of the .msg file of a type such as "openvla_ros/msg/Status"; None when no package has it."""
    package, _, rest = name.partition("/")
    file_name = f"{rest.rpartition('/')[2]}.msg"
    folders = [share_folder() / "msg"] if package == "openvla_ros" else []
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

        folders.append(Path(get_package_share_directory(package)) / "msg")
    except (ImportError, PackageNotFoundError, ValueError):
        pass
    return next((path.read_text(encoding="utf-8") for f in folders if (path := f / file_name).is_file()), None)
