"""Where config/ and checkpoints/ are."""

from pathlib import Path


def share_folder() -> Path:
    """The source tree, or the installed share folder of the package."""
    source = Path(__file__).resolve().parents[1]
    if (source / "config" / "openvla.yaml").is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("openvla_ros"))
