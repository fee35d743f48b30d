"""Writes an open episode in a thread of its own, so that a slow disk delays nobody who listens to topics."""

import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from openvla_core.datasets.bags.metadata import TopicFacts
from openvla_core.datasets.bags.store import OpenEpisode
from openvla_core.datasets.bags.writer import StorageError
from openvla_core.errors import DatasetError

IDLE_S = 0.05
NOTE_S = 1.0  # facts are noted no more often
WAITING_BYTES = 512_000_000  # more than this waiting for the disk is dropped, and counted


class EpisodeThread:
    """Takes messages from one thread and writes them in another; after an error of the disk it takes no more."""

    def __init__(self, episode: OpenEpisode) -> None:
        self.episode = episode
        self.error: DatasetError | None = None
        self.dropped = 0
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {}  # to be noted
        self._noted_s = float("-inf")
        self._thread = threading.Thread(target=self._run, name="episode writer", daemon=True)
        self._thread.start()

    def write(self, topic: TopicFacts, log_ns: int, data: bytes, publish_ns: int) -> None:
        """Hands over one serialized message. When the disk does not keep up, messages are dropped and counted."""
        with self._lock:
            fits = self._waiting_bytes + len(data) <= WAITING_BYTES
            self._waiting_bytes += len(data) if fits else 0
        if fits and self.error is None:
            self._queue.put((topic, log_ns, data, publish_ns))
        else:
            self.dropped += 1

    def note(self, facts: Mapping[str, Any]) -> None:
        """Hands over facts that a repair should find; they are on the disk within about a second."""
        self._queue.put(dict(facts))

    def stop(self) -> None:
        """Returns when everything handed over is written. Raises the DatasetError that stopped the writing, if any."""
        self._queue.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while True:
                entry: Any = ()
                with contextlib.suppress(queue.Empty):
                    entry = self._queue.get(timeout=IDLE_S)
                if entry is None:
                    return
                if isinstance(entry, dict):
                    self._facts |= entry
                elif entry:
                    self._write(*entry)
                self.episode.writer.tick()
                self._note()
        except StorageError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - nobody would see it here, and an episode cut short would be committed
            self.error = DatasetError(f"{self.episode.name} cannot be written ({type(error).__name__}: {error}).")

    def _write(self, topic: TopicFacts, log_ns: int, data: bytes, publish_ns: int) -> None:
        self.episode.writer.add_topic(topic)
        self.episode.writer.write(topic.name, log_ns, data, publish_ns)
        with self._lock:
            self._waiting_bytes -= len(data)

    def _note(self) -> None:
        if self._facts and time.monotonic() - self._noted_s >= NOTE_S:
            self.episode.writer.flush()  # the note waits for the disk
            self.episode.note(self._facts)
            self._facts, self._noted_s = {}, time.monotonic()
