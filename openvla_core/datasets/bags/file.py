"""Opens bags through the rosbags library, with errors in words."""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from openvla_core.datasets.bags.messages import MessageReader
from openvla_core.errors import DatasetError


def open_bag(path: Path) -> Any:
    """An open rosbags Reader of a folder, .mcap or .db3. Raises DatasetError when it is missing or damaged."""
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise DatasetError("reading bags needs the package rosbags: pip install 'rosbags>=0.10'.") from error
    with explained(path):
        bag = Reader(path)
        bag.open()
    return bag


@contextmanager
def explained(path: Path) -> Iterator[None]:
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


def message_reader(bag: Any) -> MessageReader:
    """A reader for the messages of an open bag; bags with the same definitions share one, as making it takes time."""
    return _reader_of(tuple(dict.fromkeys((c.msgtype, c.msgdef.data, c.msgdef.format.name) for c in bag.connections)))


@lru_cache(maxsize=16)
def _reader_of(definitions: tuple[tuple[str, str, str], ...]) -> MessageReader:
    return MessageReader((name, text, form == "IDL") for name, text, form in definitions)
