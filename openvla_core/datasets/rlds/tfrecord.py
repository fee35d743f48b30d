"""TFRecord files without TensorFlow: each record is its length, the check sum of that, the data, and its check sum.

All numbers are little-endian. Check sums are CRC-32C, turned and shifted, so that data may contain check sums too.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from openvla_core.errors import DatasetError

HEADER = struct.Struct("<QI")  # length, check sum of the eight bytes of the length
FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def masked_crc(data: bytes) -> int:
    """The check sum a TFRecord file carries for `data`."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, each checked. Raises DatasetError where one is damaged or cut off."""
    with _opened(path) as file:
        size, offset = path.stat().st_size, 0
        while offset < size:
            data = _record(file, path, offset, size)
            yield data
            offset += HEADER.size + len(data) + FOOTER.size


def record_offsets(path: Path) -> np.ndarray:
    """(N,) int64: where each record begins. Lengths are checked, the data are not read."""
    with _opened(path) as file:
        size, offset, offsets = path.stat().st_size, 0, []
        while offset < size:
            offsets.append(offset)
            offset += HEADER.size + _length(file, path, offset, size) + FOOTER.size
    return np.array(offsets, dtype=np.int64)


def read_record(path: Path, offset: int) -> bytes:
    """The record that begins at `offset`, checked. Raises DatasetError when it is damaged or cut off."""
    with _opened(path) as file:
        return _record(file, path, offset, path.stat().st_size)


class RecordWriter:
    """Writes records one after the other."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def add(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._file.write(length + FOOTER.pack(masked_crc(length)) + data + FOOTER.pack(masked_crc(data)))

    def close(self) -> None:
        self._file.close()


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened ({error}). Copy the data set again.") from error


def _length(file: Any, path: Path, offset: int, size: int) -> int:
    file.seek(offset)
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise DatasetError(f"{path} ends in the middle of a record, at byte {offset}. Copy it again.")
    length, crc = HEADER.unpack(header)
    if masked_crc(header[:8]) != crc:
        raise DatasetError(f"{path} is damaged at byte {offset}: the length of a record has a wrong check sum.")
    if length > size - offset - HEADER.size - FOOTER.size:
        raise DatasetError(f"{path} is cut off: the record at byte {offset} has {length} bytes, the file {size}.")
    return length


def _record(file: Any, path: Path, offset: int, size: int) -> bytes:
    length = _length(file, path, offset, size)
    data = file.read(length)
    footer = file.read(FOOTER.size)
    if len(data) < length or len(footer) < FOOTER.size:
        raise DatasetError(f"{path} ends in the middle of a record, at byte {offset}. Copy it again.")
    if masked_crc(data) != FOOTER.unpack(footer)[0]:
        raise DatasetError(f"{path} is damaged: the record at byte {offset} has a wrong check sum. Copy it again.")
    return data
