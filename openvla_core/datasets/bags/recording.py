"""One bag as it was recorded: every stream with its stamps, pictures left in the file until they are asked for."""

import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.datasets.bags.messages import (
    APPLIED_TYPE,
    IMAGE_TYPES,
    JOINT_TYPE,
    NUMBERS,
    POSE_TYPES,
    TEXT_TYPE,
    MessageReader,
    header_stamp_ns,
    stamp_ns,
)
from openvla_core.datasets.per_process import PerProcess
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
class Stream:
    """N messages of one topic in the order of their arrival.

    stamps_ns (N,) int64: header stamps; arrival times where the type has no header or no stamp was ever set.
    arrivals_ns (N,) int64: when each was recorded. values (N, n) float64, empty for pictures and text; rows of NaN
    where a message could not be used. texts: for text. frames: frame ids. names: of the columns of joint states.
    stamped: true when stamps_ns are header stamps.
    """

    topic: str
    kind: str
    stamps_ns: np.ndarray
    arrivals_ns: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    texts: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    stamped: bool = True

    def __len__(self) -> int:
        return len(self.stamps_ns)


@dataclass(frozen=True)
class Recording:
    """A bag: its streams by role, its facts (custom_data without "openvla.", JSON read), and every topic in it."""

    path: Path
    name: str
    streams: Mapping[str, Stream]
    facts: Mapping[str, Any]
    topics: Mapping[str, tuple[str, int]]  # name -> type, messages


class BagFrames:
    """The pictures of chosen messages of a bag, read from the file one at a time; each process opens the file itself.

    places: (arrival in ns, how many messages of the topic arrived at that very time before it), one per frame.
    """

    def __init__(self, path: Path, topic: str, kind: str, places: Sequence[tuple[int, int]]) -> None:
        self._path, self._topic, self._kind = path, topic, kind
        self._places = list(places)
        self._open = PerProcess(partial(_open_with_reader, path), _close_bag)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._open()[1].picture(self._message(index), self._kind)

    def encoded(self, index: int) -> bytes | None:
        """The JPEG or PNG file of a compressed picture as it was recorded; None for raw pixels."""
        if self._kind != IMAGE_TYPES[1]:
            return None
        return self._open()[1].picture_file(self._message(index), self._kind)

    def _message(self, index: int) -> bytes:
        arrival, before = self._places[index]
        bag, _ = self._open()
        wanted = [connection for connection in bag.connections if connection.topic == self._topic]
        with _explained(self._path):
            for count, (_, _, data) in enumerate(bag.messages(wanted, start=arrival, stop=arrival + 1)):
                if count == before:
                    return data
        raise DatasetError(f"{self._path} has changed since it was opened: a picture is no longer there.")

    def close(self) -> None:
        """Closes the file; the next picture opens it again."""
        self._open.close()


def _open_with_reader(path: Path) -> tuple[Any, MessageReader]:
    bag = open_bag(path)
    return bag, MessageReader(_definitions(bag))


def _close_bag(opened: tuple[Any, MessageReader]) -> None:
    opened[0].close()


def open_bag(path: Path) -> Any:
    """An open rosbags Reader of a folder, .mcap or .db3. Raises DatasetError when it is missing or damaged."""
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise DatasetError("reading bags needs the package rosbags: pip install 'rosbags>=0.10'.") from error
    with _explained(path):
        bag = Reader(path)
        bag.open()
    return bag


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    from rosbags.rosbag2 import ReaderError

    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is not a finished bag: {error}. A recording that was interrupted can be completed with "
            "`openvla record repair`; a single .mcap or .db3 file can be given by its own name."
        ) from error
    except (ReaderError, AssertionError, EOFError, IndexError, KeyError, OSError, TypeError, ValueError,
            sqlite3.Error, struct.error) as error:  # fmt: skip
        raise DatasetError(
            f"{path} is damaged ({str(error)[:200] or type(error).__name__}). Try `openvla record repair`."
        ) from error


def _definitions(bag: Any) -> list[tuple[str, str, bool]]:
    return [(c.msgtype, c.msgdef.data, c.msgdef.format.name == "IDL") for c in bag.connections]


def read_recording(path: str | Path, topics: Mapping[str, str] | None = None) -> Recording:
    """Reads every stream of a bag but the pictures.

    Args:
        path: the folder of a rosbag2 bag, or one .mcap or .db3 file.
        topics: role -> topic name, for the roles whose topic is neither the one in TOPICS nor what our recorder noted.

    Raises:
        DatasetError: the bag is damaged, or a topic has a type that cannot play its role.
    """
    path = Path(path)
    with closing(open_bag(path)) as bag:
        counts = {c.topic: (c.msgtype, int(c.msgcount)) for c in bag.connections}
        facts = custom_facts(_custom_data(bag))
        chosen = choose_topics(counts, {**TOPICS, **_renamed(facts), **(topics or {})})
        reader = MessageReader(_definitions(bag))
        collectors = {topic: _Collector(topic, counts[topic][0], reader) for topic in set(chosen.values())}
        wanted = [connection for connection in bag.connections if connection.topic in collectors]
        with _explained(path):
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


class _Collector:
    """Gathers the messages of one topic."""

    def __init__(self, topic: str, kind: str, reader: MessageReader) -> None:
        self.topic, self.kind, self.reader = topic, kind, reader
        self.has_header = reader.has_header(kind)
        self.arrivals: list[int] = []
        self.stamps: list[int] = []
        self.rows: list[np.ndarray | None] = []
        self.texts: list[str] = []
        self.frames: dict[str, None] = {}
        self.names: tuple[str, ...] = ()

    def add(self, arrival: int, data: bytes) -> None:
        stamp = header_stamp_ns(data) if self.has_header else arrival
        self.arrivals.append(arrival)
        self.stamps.append(arrival if stamp is None else stamp)
        if self.kind in IMAGE_TYPES:
            return
        message = self.reader.decode(data, self.kind)
        if self.has_header:
            self.frames.setdefault(str(message.header.frame_id))
        if self.kind == TEXT_TYPE:
            self.texts.append(str(message.data))
        elif self.kind in NUMBERS:
            if self.kind == APPLIED_TYPE:
                self.stamps[-1] = stamp_ns(message.image_stamp)
            self.rows.append(self._row(message))

    def _row(self, message: Any) -> np.ndarray | None:
        row = NUMBERS[self.kind](message)
        if self.kind != JOINT_TYPE:
            return row
        names = tuple(message.name)
        self.names = self.names or names
        if names != self.names:
            by_name = dict(zip(names, row, strict=False))
            # Several drivers may share joint_states: a message about other joints says nothing about these.
            return np.array([by_name[n] for n in self.names]) if set(self.names) <= set(by_name) else None
        return row if len(row) == len(names) else None

    def stream(self) -> Stream:
        keep = [i for i, row in enumerate(self.rows) if row is not None] if self.rows else range(len(self.arrivals))
        stamps, arrivals = (
            np.array([times[i] for i in keep], dtype=np.int64) for times in (self.stamps, self.arrivals)
        )
        stamped = self.has_header and bool(stamps.any())
        rows = [row for row in self.rows if row is not None]
        width = max((len(row) for row in rows), default=0)
        values = [row if len(row) == width else np.full(width, np.nan) for row in rows]
        return Stream(
            self.topic,
            self.kind,
            stamps if stamped else arrivals,
            arrivals,
            np.array(values).reshape(len(rows), width),
            tuple(self.texts),
            tuple(self.frames),
            self.names,
            stamped,
        )


def frames_of(recording: Recording, role: str, indices: Sequence[int] | np.ndarray) -> BagFrames:
    """The pictures of a camera at these message indices (K,)."""
    stream = recording.streams[role]
    arrivals = stream.arrivals_ns
    first = np.searchsorted(arrivals, arrivals[indices])
    places = [(int(arrivals[i]), int(i - f)) for i, f in zip(indices, first, strict=True)]
    return BagFrames(recording.path, stream.topic, stream.kind, places)


def iterate_pictures(recording: Recording, role: str) -> Iterator[np.ndarray | Exception]:
    """Every picture of a camera in the order of arrival, one in memory at a time; what does not decode as its error."""
    from openvla_core.errors import OpenVLAError

    stream = recording.streams[role]
    with closing(open_bag(recording.path)) as bag:
        reader = MessageReader(_definitions(bag))
        wanted = [connection for connection in bag.connections if connection.topic == stream.topic]
        with _explained(recording.path):
            for _, _, data in bag.messages(wanted):
                try:
                    yield reader.picture(data, stream.kind)
                except OpenVLAError as error:
                    yield error
