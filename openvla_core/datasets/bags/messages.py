"""What a recorded ROS message says, as numbers, text or a picture. ROS itself is not needed."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.errors import DatasetError
from openvla_core.images import to_rgb

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TEXT_TYPE = "std_msgs/msg/String"
JOINT_TYPE = "sensor_msgs/msg/JointState"
APPLIED_TYPE = "openvla_ros/msg/AppliedAction"
NS_PER_S = 1_000_000_000


def _pose(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def _transform(message: Any) -> np.ndarray:
    p, q = message.transform.translation, message.transform.rotation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def _applied(message: Any) -> np.ndarray:
    return np.array([*message.translation, *message.rotation, message.gripper])


def _number(message: Any) -> np.ndarray:
    return np.array([float(message.data)])


# type → the numbers in one message. Poses are (7,): metres and x, y, z, w; an applied action is (7,) in base axes.
NUMBERS: dict[str, Callable[[Any], np.ndarray]] = {
    "geometry_msgs/msg/Pose": _pose,
    "geometry_msgs/msg/PoseStamped": lambda message: _pose(message.pose),
    "geometry_msgs/msg/PoseWithCovarianceStamped": lambda message: _pose(message.pose.pose),
    "geometry_msgs/msg/TransformStamped": _transform,
    "nav_msgs/msg/Odometry": lambda message: _pose(message.pose.pose),
    JOINT_TYPE: lambda message: np.array(message.position, dtype=np.float64),
    APPLIED_TYPE: _applied,
    **{f"std_msgs/msg/{kind}": _number for kind in ("Float64", "Float32", "Int8", "Int32", "Int64", "UInt8", "Bool")},
}
POSE_TYPES = tuple(name for name in NUMBERS if name.startswith(("geometry_msgs", "nav_msgs")))


class MessageReader:
    """Decodes the messages of one bag: by the definitions the bag carries, else by well-known ones and our own.

    Args:
        definitions: (type name, text, is_idl) of the definitions found in the bag; text may be empty.
    """

    def __init__(self, definitions: Iterable[tuple[str, str, bool]]) -> None:
        from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
        from rosbags.typesys.base import TypesysError

        self._store = get_typestore(Stores.ROS2_JAZZY)
        texts = [*_own_definitions(), *definitions]
        for name, text, is_idl in texts:
            if name in self._store.fielddefs or not text:
                continue
            try:
                found = get_types_from_idl(text) if is_idl else get_types_from_msg(text, name)
                unknown = {key: value for key, value in found.items() if key not in self._store.fielddefs}
                self._store.register(unknown)
            except (TypesysError, KeyError, ValueError):
                continue  # a type nobody can read matters only when one of its messages is asked for

    def has_header(self, kind: str) -> bool:
        """True when messages of this type begin with a std_msgs/Header."""
        fields = self._store.fielddefs.get(kind, ([], []))[1]
        return bool(fields) and fields[0][0] == "header" and fields[0][1][1] == "std_msgs/msg/Header"

    def decode(self, data: bytes, kind: str) -> Any:
        """The message as an object with its fields. Raises DatasetError when it does not have this type."""
        from rosbags.serde import SerdeError

        try:
            return self._store.deserialize_cdr(data, kind)
        except (SerdeError, KeyError, ValueError, IndexError, AssertionError) as error:
            raise DatasetError(
                f"a message of type {kind} cannot be read ({str(error)[:200]}). The bag is damaged, or it was recorded "
                "with another definition of this type."
            ) from error

    def picture(self, data: bytes, kind: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB that may be written into. Raises DatasetError or ImageError."""
        return np.require(to_rgb(self.decode(data, kind)), requirements=["W"])

    def picture_file(self, data: bytes, kind: str) -> bytes | None:
        """The JPEG or PNG file in a CompressedImage; None for raw pixels."""
        return bytes(self.decode(data, kind).data) if kind == IMAGE_TYPES[1] else None


def header_stamp_ns(data: bytes) -> int | None:
    """The stamp of a message that begins with a header, without decoding the rest; None when it is cut off."""
    if len(data) < 12:
        return None
    order: Any = "little" if data[1] & 1 else "big"
    seconds = int.from_bytes(data[4:8], order, signed=True)
    return seconds * NS_PER_S + int.from_bytes(data[8:12], order)


def stamp_ns(time: Any) -> int:
    """A builtin_interfaces/Time in nanoseconds."""
    return int(time.sec) * NS_PER_S + int(time.nanosec)


def _own_definitions() -> list[tuple[str, str, bool]]:
    """The messages of this project, for bags that do not carry their definitions (sqlite3 of ROS 2 Humble)."""
    prefixes = [Path(prefix) / "share" / "openvla_ros" for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":")]
    for folder in (Path(__file__).resolve().parents[3], *prefixes):
        files = sorted((folder / "msg").glob("*.msg"))
        if files:
            return [(f"openvla_ros/msg/{path.stem}", path.read_text(encoding="utf-8"), False) for path in files]
    return []
