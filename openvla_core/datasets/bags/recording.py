"""One bag as it was recorded: every stream with its stamps, pictures left in the file until they are asked for."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_core.datasets.bags.file import explained, message_reader, open_bag
from openvla_core.datasets.bags.messages import APPLIED_TYPE, IMAGE_TYPES, NUMBERS, POSE_TYPES, TEXT_TYPE
from openvla_core.datasets.bags.stream import Collector, Stream
from openvla_core.errors import DatasetError

CUSTOM_PREFIX = "openvla."
METADATA_FILE = "metadata.yaml"
CAMERAS = ("primary", "secondary", "wrist")
# Role → the topic our recorder writes it from; the namespace of the robot goes in front of it.
TOPICS = {
    "primary": "camera/image_raw",
    "secondary": "secondary_camera/image_raw",
    "wrist": "wrist_camera/image_raw",
    "instruction": "instruction",
    "pose": "robot/current_pose",
    "joints": "joint_states",
    "target": "robot/target_pose",
    "gripper": "robot/gripper_state",
    "gripper_command": "robot/gripper_command",
    "applied": "controller_node/applied_action",
}


@dataclass(frozen=True)
class Recording:
    """A bag: its streams by role, its facts (custom_data without "openvla.", JSON read), and every topic in it."""

    path: Path
    name: str
    streams: Mapping[str, Stream]
    facts: Mapping[str, Any]
    topics: Mapping[str, tuple[str, int]]  # name -> type, messages


def read_recording(path: str | Path, topics: Mapping[str, str] | None = None) -> Recording:
    """Reads every stream of a bag but the pictures.

    Args:
        path: the folder of a rosbag2 bag, or one .mcap or .db3 file.
        topics: role -> topic name, for the roles whose topic is neither the one in TOPICS nor what our recorder noted.

    Raises:
        DatasetError: the bag is damaged, or a topic has a type that cannot play its role.
    """
    with closing(open_bag(Path(path))) as bag:
        return recording_in(bag, topics)


def recording_in(bag: Any, topics: Mapping[str, str] | None = None) -> Recording:
    """The same of a bag that is open."""
    path = Path(bag.path)
    counts = {c.topic: (c.msgtype, int(c.msgcount)) for c in bag.connections}
    facts = custom_facts(_custom_data(bag))
    chosen = choose_topics(counts, {**TOPICS, **_renamed(facts), **(topics or {})})
    reader = message_reader(bag)
    collectors = {topic: Collector(topic, counts[topic][0], reader) for topic in set(chosen.values())}
    wanted = [connection for connection in bag.connections if connection.topic in collectors]
    with explained(path):
        for connection, arrival, data in bag.messages(wanted) if wanted else ():
            collectors[connection.topic].add(arrival, data)
    streams = {role: collectors[topic].stream() for role, topic in chosen.items()}
    return Recording(path, path.stem if path.is_file() else path.name, streams, facts, counts)


def _renamed(facts: Mapping[str, Any]) -> dict[str, str]:
    """Role -> topic, as our recorder noted where a robot or an argument gives a topic another name."""
    names = facts.get("topics")
    if not isinstance(names, dict):
        return {}
    return {role: names[name] for role, name in TOPICS.items() if isinstance(names.get(name), str)}


def choose_topics(recorded: Mapping[str, tuple[str, int]], wanted: Mapping[str, str]) -> dict[str, str]:
    """Role -> topic of the bag. A name matches itself, with any namespace in front, or its compressed variant.

    Raises DatasetError when two topics match one role, or the type of one cannot play the role.
    """
    chosen = {}
    for role, name in wanted.items():
        found = _matches(recorded, name) or (_matches(recorded, f"{name}/compressed") if role in CAMERAS else [])
        if len(found) > 1:
            raise DatasetError(
                f"{role} could be any of {', '.join(found)}; name one of them, such as {role}:={found[0]}."
            )
        if found and recorded[found[0]][1]:
            kind = recorded[found[0]][0]
            allowed = _allowed_types(role)
            if kind not in allowed:
                raise DatasetError(
                    f"the topic {found[0]} for {role} has the type {kind}; expected one of {', '.join(allowed)}."
                )
            chosen[role] = found[0]
    return chosen


def _allowed_types(role: str) -> tuple[str, ...]:
    if role in CAMERAS:
        return IMAGE_TYPES
    special = {"instruction": (TEXT_TYPE,), "pose": POSE_TYPES, "target": POSE_TYPES, "applied": (APPLIED_TYPE,)}
    return special.get(role, tuple(NUMBERS))


def _matches(recorded: Mapping[str, Any], name: str) -> list[str]:
    if not name:
        return []
    if f"/{name.lstrip('/')}" in recorded:
        return [f"/{name.lstrip('/')}"]
    return [] if name.startswith("/") else sorted(topic for topic in recorded if topic.endswith(f"/{name}"))


def _custom_data(bag: Any) -> Mapping[str, str]:
    storage = bag.storage
    return getattr(storage.metadata, "custom", None) or {}


def custom_facts(custom: Mapping[str, str]) -> dict[str, Any]:
    """The facts of an episode from a bag's custom_data: "openvla." removed, JSON read where a value is JSON."""
    facts: dict[str, Any] = {}
    for key, value in custom.items():
        name = key.removeprefix(CUSTOM_PREFIX)
        facts[name] = value
        if key.startswith(CUSTOM_PREFIX) and isinstance(value, str) and value[:1] in ("{", "["):
            try:
                facts[name] = json.loads(value)
            except ValueError:
                pass  # a sentence that begins with a bracket
    return facts
