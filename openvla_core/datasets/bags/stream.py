"""The messages of one topic as numbers, texts and times."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openvla_core.datasets.bags.messages import (
    APPLIED_TYPE,
    IMAGE_TYPES,
    JOINT_TYPE,
    NUMBERS,
    TEXT_TYPE,
    MessageReader,
    header_stamp_ns,
    stamp_ns,
)


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


class Collector:
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
