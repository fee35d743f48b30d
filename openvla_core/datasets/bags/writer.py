"""Writes one rosbag2 bag (MCAP, metadata version 9) such that a killed process loses a fraction of a second.

Every tenth of a second what has arrived becomes a finished chunk in the file, and three times a second the file is
synced. It is locked while it is written; the lock goes with the process, so that a dead recorder can be told from a
live one.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvla_core.datasets.bags.metadata import TopicFacts, bag_metadata, to_yaml, write_metadata
from openvla_core.durable import sync
from openvla_core.errors import DatasetError

CHUNK_BYTES = 1 << 20
FLUSH_S = 0.1
SYNC_S = 0.3


class StorageError(DatasetError):
    """The disk is full or cannot be written; what was committed before is intact."""


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error in words for the person who records."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk of {path} is full. Recording has stopped; committed episodes are intact. Free some space, then "
            "run `openvla record repair` on the folder to get back what was recorded of this episode."
        )
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}). Recording has stopped; committed episodes are intact. "
        "Check the disk, then run `openvla record repair` on the folder."
    )


class _Output:
    """An unbuffered file: what was written is with the operating system and survives the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._position = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        while view:
            written = os.write(self.descriptor, view)
            self._position += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        os.fdatasync(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


class BagWriter:
    """One bag in a new folder. Not thread-safe. Every method may raise StorageError; after that only `abandon`."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder and its MCAP file. Raises DatasetError when the folder is there already."""
        from mcap.writer import CompressionType, Writer

        self.folder = folder
        self.path = folder / f"{folder.name}_0.mcap"
        self.topics: dict[str, TopicFacts] = {}
        self.counts: dict[str, int] = {}
        self.start_ns, self.end_ns = 2**63 - 1, 0
        self._channels: dict[str, int] = {}
        self._schemas: dict[tuple[str, str], int] = {}
        self._flushed_s = self._synced_s = time.monotonic()
        self._dirty = self._unsynced = False
        try:
            folder.mkdir(parents=True)
            self._output = _Output(self.path)
        except FileExistsError:
            raise DatasetError(f"{folder} is there already; an episode is never written over another one.") from None
        except OSError as error:
            raise storage_error(folder, error) from error
        self._writer = Writer(self._output, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)  # type: ignore[arg-type]
        with self._storing():
            self._writer.start(profile="ros2", library="openvla")
            sync(folder)

    def add_topic(self, topic: TopicFacts) -> None:
        """Announces a topic; doing it again changes nothing."""
        if topic.name in self.topics:
            return
        key = (topic.type, topic.definition)
        with self._storing():
            if key not in self._schemas:
                self._schemas[key] = self._writer.register_schema(topic.type, "ros2msg", topic.definition.encode())
            metadata = {
                "offered_qos_profiles": to_yaml([dict(profile) for profile in topic.qos]) if topic.qos else "",
                "topic_type_hash": topic.type_hash,
            }
            self._channels[topic.name] = self._writer.register_channel(topic.name, "cdr", self._schemas[key], metadata)
        self.topics[topic.name] = topic
        self.counts[topic.name] = 0

    def write(self, topic: str, log_ns: int, data: bytes, publish_ns: int | None = None) -> None:
        """Adds one serialized message (CDR with its four bytes of header); times in nanoseconds since 1970."""
        with self._storing():
            self._writer.add_message(
                self._channels[topic],
                log_time=log_ns,
                data=data,
                publish_time=log_ns if publish_ns is None else publish_ns,
                sequence=self.counts[topic],
            )
        self.counts[topic] += 1
        self.start_ns, self.end_ns = min(self.start_ns, log_ns), max(self.end_ns, log_ns)
        self._dirty = True
        self.tick()

    def tick(self) -> None:
        """Brings what has arrived to the disk when it is time; call it at least ten times a second."""
        now_s = time.monotonic()
        if now_s - self._flushed_s >= FLUSH_S:
            self.flush()
        if self._unsynced and now_s - self._synced_s >= SYNC_S:
            with self._storing():
                self._output.sync()
            self._unsynced = False
            self._synced_s = time.monotonic()

    def flush(self) -> None:
        """Brings what has arrived into the file, where it survives the end of the process."""
        if self._dirty:
            with self._storing():
                self._writer.flush()
            self._dirty, self._unsynced = False, True
            self._flushed_s = time.monotonic()

    def finish(self, custom_data: Mapping[str, str]) -> None:
        """Completes the bag: index, metadata.yaml with these facts, everything synced. The lock is kept until close."""
        counted = [(topic, self.counts[name]) for name, topic in self.topics.items()]
        metadata = bag_metadata(self.path.name, counted, self.start_ns, self.end_ns, custom_data)
        with self._storing():
            self._writer.add_metadata("rosbag2", {"serialized_metadata": to_yaml(metadata)})
            self._writer.finish()
            self._output.sync()
            write_metadata(self.folder, metadata)
            sync(self.folder)

    def close(self) -> None:
        """Lets go of the file and its lock, complete or not; doing it again changes nothing."""
        if self._output.descriptor >= 0:
            self._output.close()
            self._output.descriptor = -1

    def _storing(self) -> "_Storing":
        return _Storing(self.folder)


class _Storing:
    """Turns errors of the disk into a StorageError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise storage_error(self._folder, error) from error


def facts_as_custom_data(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts of an episode as the bag's custom_data: "openvla." before each name, text as it is, the rest as JSON."""
    return {
        f"openvla.{name}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in facts.items()
        if value is not None
    }
