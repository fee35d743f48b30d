"""Writes an open episode in a thread of its own, so that a slow disk delays nobody who listens to topics."""

import contextlib
import queue
import threading

from openvla_core.datasets.bags.metadata import TopicFacts
from openvla_core.datasets.bags.store import OpenEpisode
from openvla_core.datasets.bags.writer import StorageError

IDLE_S = 0.05
WAITING_BYTES = 512_000_000  # more than this waiting for the disk is dropped, and counted


class EpisodeThread:
    """Takes messages from one thread and writes them in another; after an error of the disk it takes no more."""

    def __init__(self, episode: OpenEpisode) -> None:
        self.episode = episode
        self.error: StorageError | None = None
        self.dropped = 0
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
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

    def stop(self) -> None:
        """Returns when everything handed over is written. Raises the StorageError that stopped the writing, if any."""
        self._queue.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        writer = self.episode.writer
        try:
            while True:
                entry = None
                with contextlib.suppress(queue.Empty):
                    entry = self._queue.get(timeout=IDLE_S)
                    if entry is None:
                        return
                if entry is not None:
                    topic, log_ns, data, publish_ns = entry
                    writer.add_topic(topic)
                    writer.write(topic.name, log_ns, data, publish_ns)
                    with self._lock:
                        self._waiting_bytes -= len(data)
                writer.tick()
        except StorageError as error:
            self.error = error
