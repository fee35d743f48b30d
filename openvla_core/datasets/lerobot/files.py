"""The files of a LeRobot data set: where they are, JSON and parquet that may be damaged, parquet cut by size."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openvla_core.errors import DatasetError

INFO = "meta/info.json"
FILES_PER_CHUNK = 1000
MAX_JSON_BYTES = 256 * 1024 * 1024
_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")


def file_at(root: Path, template: str, **values: Any) -> Path:
    """The path a template such as "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet" names below `root`.

    Raises DatasetError for a template with other fields, or one that leads out of the data set.
    """

    def fill(match: re.Match[str]) -> str:
        value = values[match[1]]
        return f"{int(value):0{match[2]}d}" if match[2] else str(value)

    try:
        path = (root / _FIELD.sub(fill, template)).resolve()
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DatasetError(f"the path {template!r} in {INFO} is not understood ({error!r}).") from error
    if not path.is_relative_to(root.resolve()):
        raise DatasetError(f"the path {template!r} in {INFO} leads out of {root}.")
    return path


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DatasetError when the file is missing or something else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DatasetError(f"{path} has more than {MAX_JSON_BYTES // 2**20} MiB; expected a JSON object.")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read as JSON ({_short(error)}). Copy the data set again.") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds a {type(value).__name__}; expected a JSON object.")
    return value


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one in each line. Raises DatasetError, naming the line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise DatasetError(f"{path}, line {number}: expected a JSON object, got {type(value).__name__}.")
                yield value
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read ({_short(error)}). Copy the data set again.") from error


def write_object(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class LineWriter:
    """A file with one JSON object in each line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def add(self, value: Any) -> None:
        try:
            line = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{value!r:.300} cannot be written as JSON ({error}); give plain values.") from error
        self._file.write(line + "\n")

    def close(self) -> None:
        self._file.close()


class RollingParquet:
    """Tables into files chunk-000/file-000.parquet and on; a new file begins when one would pass the size limit.

    Each table becomes one row group, so that a reader can take out one episode.
    """

    def __init__(self, root: Path, template: str, limit_bytes: int) -> None:
        self._root, self._template, self._limit = root, template, limit_bytes
        self._writer: pq.ParquetWriter | None = None
        self._count, self._bytes = 0, 0

    def place(self, size: int) -> tuple[int, int]:
        """Chunk and file that a table of this size in bytes goes into, when it is the next one."""
        if self._writer is not None and self._bytes + size > self._limit:
            self.close()
            self._count += 1
        return divmod(self._count, FILES_PER_CHUNK)

    def add(self, table: pa.Table) -> tuple[int, int]:
        chunk, file = self.place(table.nbytes)
        if self._writer is None:
            path = file_at(self._root, self._template, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._bytes += table.nbytes
        return chunk, file

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes = None, 0


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while reading a parquet file into a DatasetError."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({_short(error)}). Copy the data set again.") from error


def read_rows(path: Path, first: int, last: int, leave_out: tuple[str, ...] = ()) -> pa.Table:
    """The rows first to last - 1 of a parquet file, reading only the row groups that hold them."""
    with readable(path), pq.ParquetFile(path) as file:
        groups, start, offset = [], 0, None
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if start < last and start + rows > first:
                groups.append(index)
                offset = start if offset is None else offset
            start += rows
        if last > start or first < 0 or offset is None:
            raise DatasetError(f"{path} has {start} rows, but the rows {first} to {last} are wanted. Copy it again.")
        columns = [name for name in file.schema_arrow.names if name not in leave_out]
        return file.read_row_groups(groups, columns=columns).slice(first - offset, last - first)


def _short(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{error.encoding}: {error.reason}"
    return f"{type(error).__name__}: {str(error)[:300]}"
