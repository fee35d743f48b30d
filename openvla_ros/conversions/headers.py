"""Stamps and frames. Stamps are int nanoseconds of the ROS clock."""

from openvla_ros import topics


def to_ns(stamp: topics.Time) -> int:
    """The time in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_time(stamp_ns: int) -> topics.Time:
    """The time message of a count of nanoseconds."""
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return topics.Time(sec=seconds, nanosec=nanoseconds)


def stamp_ns(message) -> int:
    """The header stamp of any stamped message, in nanoseconds."""
    return to_ns(message.header.stamp)


def frame_of(message) -> str:
    """The header frame of any stamped message."""
    return message.header.frame_id


def set_header(message, stamp_ns: int, frame: str = ""):
    """Fills the header of a stamped message and returns it."""
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame
    return message
