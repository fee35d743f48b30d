"""metadata.yaml of a rosbag2 bag, version 9: what rosbag2 of ROS 2 Jazzy writes and `ros2 bag` reads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from openvla_core.durable import replace_file
from openvla_core.errors import DatasetError

METADATA_FILE = "metadata.yaml"
ROOT_KEY = "rosbag2_bagfile_information"
VERSION = 9
MAX_METADATA_BYTES = 16_000_000


@dataclass(frozen=True)
class TopicFacts:
    """What a bag says about a topic.

    type: such as "sensor_msgs/msg/Image". definition: its .msg text with the types it is made of. type_hash: RIHS01.
    qos: one mapping per publisher, in the form of metadata version 9 (see `qos_profile`).
    """

    name: str
    type: str
    definition: str
    type_hash: str
    qos: tuple[Mapping[str, Any], ...] = field(default=())


def qos_profile(
    *,
    reliability: str,
    durability: str,
    history: str = "keep_last",
    depth: int = 10,
    liveliness: str = "automatic",
    deadline_ns: int = 2**63 - 1,
    lifespan_ns: int = 2**63 - 1,
    lease_ns: int = 2**63 - 1,
) -> dict[str, Any]:
    """A quality of service as version 9 spells it; words in lower case, 2**63 - 1 nanoseconds for no limit."""
    return {
        "history": history,
        "depth": depth,
        "reliability": reliability,
        "durability": durability,
        "deadline": _duration(deadline_ns),
        "lifespan": _duration(lifespan_ns),
        "liveliness": liveliness,
        "liveliness_lease_duration": _duration(lease_ns),
        "avoid_ros_namespace_conventions": False,
    }


def _duration(nanoseconds: int) -> dict[str, int]:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return {"sec": seconds, "nsec": rest}


def bag_metadata(
    file_name: str,
    topics: Sequence[tuple[TopicFacts, int]],
    start_ns: int,
    end_ns: int,
    custom_data: Mapping[str, str],
) -> dict[str, Any]:
    """The content of metadata.yaml for a bag of one MCAP file; each topic with its count of messages."""
    count = sum(count for _, count in topics)
    start = {"nanoseconds_since_epoch": start_ns if count else 0}
    duration = {"nanoseconds": max(0, end_ns - start_ns) if count else 0}
    described = [
        {
            "topic_metadata": {
                "name": topic.name,
                "type": topic.type,
                "serialization_format": "cdr",
                "offered_qos_profiles": [dict(profile) for profile in topic.qos],
                "type_description_hash": topic.type_hash,
            },
            "message_count": messages,
        }
        for topic, messages in topics
    ]
    return {
        "version": VERSION,
        "storage_identifier": "mcap",
        "duration": duration,
        "starting_time": start,
        "message_count": count,
        "topics_with_message_count": described,
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file_name],
        "files": [{"path": file_name, "starting_time": start, "duration": duration, "message_count": count}],
        "custom_data": dict(custom_data) or None,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }


def to_yaml(values: Any) -> str:
    """Plain data as YAML; never with anchors, which rosbag2 would have to follow."""
    return yaml.dump(values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=10**6)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Writes metadata.yaml so that after a power cut it is there in full or as it was before."""
    replace_file(folder / METADATA_FILE, to_yaml({ROOT_KEY: dict(metadata)}).encode())


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of a bag's metadata.yaml. Raises DatasetError when it is missing or not a bag's metadata."""
    path = folder / METADATA_FILE
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise DatasetError(f"{path} is too large for the metadata of a bag.")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path} cannot be read ({str(error)[:300]}). `openvla record repair` may help.") from error
    if not isinstance(values, dict) or not isinstance(values.get(ROOT_KEY), dict):
        raise DatasetError(f"{path} is not the metadata of a rosbag2 bag: it has no {ROOT_KEY}.")
    return values[ROOT_KEY]
