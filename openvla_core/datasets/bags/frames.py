"""The pictures of a bag: chosen ones, read when they are asked for, or all of them one after the other."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.datasets.bags.file import explained, message_reader, open_bag
from openvla_core.datasets.bags.messages import IMAGE_TYPES, MessageReader
from openvla_core.datasets.bags.recording import Recording
from openvla_core.datasets.bags.stream import Stream
from openvla_core.datasets.per_process import PerProcess
from openvla_core.errors import DatasetError, OpenVLAError


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
        with explained(self._path):
            for count, (_, _, data) in enumerate(bag.messages(wanted, start=arrival, stop=arrival + 1)):
                if count == before:
                    return data
        raise DatasetError(f"{self._path} has changed since it was opened: a picture is no longer there.")

    def close(self) -> None:
        """Closes the file; the next picture opens it again."""
        self._open.close()


def _open_with_reader(path: Path) -> tuple[Any, MessageReader]:
    bag = open_bag(path)
    return bag, message_reader(bag)


def _close_bag(opened: tuple[Any, MessageReader]) -> None:
    opened[0].close()


def frames_of(recording: Recording, role: str, indices: Sequence[int] | np.ndarray) -> BagFrames:
    """The pictures of a camera at these message indices (K,)."""
    stream = recording.streams[role]
    arrivals = stream.arrivals_ns
    first = np.searchsorted(arrivals, arrivals[indices])
    places = [(int(arrivals[i]), int(i - f)) for i, f in zip(indices, first, strict=True)]
    return BagFrames(recording.path, stream.topic, stream.kind, places)


def pictures_of(bag: Any, stream: Stream) -> Iterator[np.ndarray | Exception]:
    """Every picture of a camera in the order of arrival, one in memory at a time; what does not decode as its error.

    bag: open. Raises DatasetError when the file is damaged.
    """
    reader = message_reader(bag)
    wanted = [connection for connection in bag.connections if connection.topic == stream.topic]
    with explained(bag.path):
        for _, _, data in bag.messages(wanted):
            try:
                yield reader.picture(data, stream.kind)
            except OpenVLAError as error:
                yield error
