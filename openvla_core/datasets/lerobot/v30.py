"""LeRobot data sets of version 3.0: many episodes in each parquet file and each video."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openvla_core.datasets.episode import Episode
from openvla_core.datasets.lerobot.files import (
    FILES_PER_CHUNK,
    INFO,
    RollingParquet,
    file_at,
    read_object,
    read_rows,
    readable,
    write_object,
)
from openvla_core.datasets.lerobot.sidecar import SidecarWriter
from openvla_core.datasets.lerobot.source import LeRobotSource
from openvla_core.datasets.lerobot.statistics import StatisticsBook, plain
from openvla_core.datasets.lerobot.table import CAMERA, Columns
from openvla_core.errors import DatasetError

if TYPE_CHECKING:
    from openvla_core.datasets.lerobot.video import VideoWriter

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH = "meta/tasks.parquet"
DATA_MB, VIDEO_MB = 100, 200
TASK_COLUMN = "__index_level_0__"
BUFFERED_EPISODES = 50


def open_lerobot(root: Path, cameras: Mapping[str, str] | None = None) -> LeRobotSource:
    """A LeRobot folder of version 3.0 or 2.1. Raises DatasetError for anything else."""
    from openvla_core.datasets.lerobot.v21 import LeRobotV21Source

    kinds: dict[str, type[LeRobotSource]] = {kind.version: kind for kind in (LeRobotV3Source, LeRobotV21Source)}
    version = read_object(Path(root) / INFO).get("codebase_version")
    if version not in kinds:
        raise DatasetError(
            f"{root} has LeRobot's version {version!r}; this release reads {sorted(kinds)}. "
            "Convert older ones with the scripts of the lerobot package."
        )
    return kinds[version](root, cameras)


def write_lerobot(episodes: Iterable[Episode], root: Path, video: bool = False, robot: str | None = None) -> int:
    """Writes a folder of version 3.0, which must not exist yet; returns the number of episodes.

    Pictures stay the files they are, pixels become PNG; with `video` both become mp4, which loses a little.
    Raises DatasetError when an episode does not fit with the first, or there is none.
    """
    with LeRobotV3Writer(root, video, robot) as writer:
        for episode in episodes:
            writer.add(episode)
        return writer.finish()


class LeRobotV3Writer:
    """Adds episodes one by one; `finish` writes what is known only at the end."""

    def __init__(self, root: Path, video: bool = False, robot: str | None = None) -> None:
        self._root, self._video, self._robot = Path(root), video, robot
        self._root.mkdir(parents=True)
        self._data = RollingParquet(self._root, DATA_PATH, DATA_MB * 2**20)
        self._episodes = RollingParquet(self._root, EPISODES_PATH, DATA_MB * 2**20)
        self._sidecar = SidecarWriter(self._root)
        self._book, self._videos = StatisticsBook(), dict[str, "_RollingVideo"]()
        self._columns: Columns | None = None
        self._tasks: dict[str, int] = {}
        self._waiting: list[dict[str, Any]] = []
        self._count, self._frames = 0, 0

    def __enter__(self) -> "LeRobotV3Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as files:
            videos = (video.close for video in self._videos.values())
            for close in (self._data.close, self._episodes.close, self._sidecar.close, *videos):
                files.callback(close)

    def add(self, episode: Episode) -> None:
        if self._columns is None:
            self._columns = Columns.of(episode, self._video)
        self._columns.check(episode)
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        table = self._columns.table(episode, self._count, self._frames, task)
        chunk, file = self._data.add(table)
        row = {
            "episode_index": self._count,
            "tasks": [episode.instruction],
            "length": len(episode),
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(episode),
        }
        row |= self._add_videos(episode, self._columns) if self._video else {}
        for key, values in plain(self._book.add(episode, table)).items():
            row |= {f"stats/{key}/{name}": value for name, value in values.items()}
        self._waiting.append(row)
        if len(self._waiting) == BUFFERED_EPISODES:
            self._write_rows()
        self._sidecar.add(episode)
        self._count, self._frames = self._count + 1, self._frames + len(episode)

    def finish(self) -> int:
        if self._columns is None:
            raise DatasetError("there is no episode to write; a LeRobot data set needs at least one.")
        self._write_rows()
        _write_tasks(self._root, self._tasks)
        self._sidecar.finish(self._columns.state)
        write_object(self._root / "meta/stats.json", plain(self._book.whole()))
        write_object(self._root / INFO, self._info(self._columns))
        return self._count

    def _add_videos(self, episode: Episode, columns: Columns) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, frames in episode.images.items():
            key = CAMERA + name
            if key not in self._videos:
                self._videos[key] = _RollingVideo(self._root, key, columns.cameras[name], columns.fps)
            chunk, file, start, end = self._videos[key].add(frames)
            row |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
            row |= {f"videos/{key}/from_timestamp": start, f"videos/{key}/to_timestamp": end}
        return row

    def _write_rows(self) -> None:
        if self._waiting:
            chunk, file = self._episodes.place(pa.Table.from_pylist(self._waiting).nbytes)
            place = {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
            self._episodes.add(pa.Table.from_pylist([row | place for row in self._waiting]))
            self._waiting = []

    def _info(self, columns: Columns) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "total_episodes": self._count,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": whole_number(columns.fps),
            "splits": {"train": f"0:{self._count}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._video else None,
            "features": columns.features(),
        }


class LeRobotV3Source(LeRobotSource):
    """Reads version 3.0."""

    version = VERSION

    def __init__(self, root: Path, cameras: Mapping[str, str] | None = None) -> None:
        super().__init__(root, cameras)
        self._episodes = self._read_episodes()
        self._tasks = _read_tasks(self.root)
        self._file_starts: dict[tuple[int, int], int] = {}
        for row in self._episodes:
            place, start = (row["data/chunk_index"], row["data/file_index"]), row["dataset_from_index"]
            self._file_starts[place] = min(start, self._file_starts.get(place, start))

    def __len__(self) -> int:
        return len(self._episodes)

    def _rows(self, index: int) -> pa.Table:
        row = self._episodes[index]
        place = row["data/chunk_index"], row["data/file_index"]
        path = file_at(self.root, str(self.info.get("data_path")), chunk_index=place[0], file_index=place[1])
        first = row["dataset_from_index"] - self._file_starts[place]
        return read_rows(path, first, row["dataset_to_index"] - self._file_starts[place])

    def _video(self, index: int, key: str) -> tuple[Path, float]:
        row = self._episodes[index]
        names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        if any(not isinstance(row.get(name), (int, float)) for name in names):
            raise DatasetError(f"the episodes of {self.root} do not tell where the video of {key!r} is.")
        template, (chunk, file, start_s) = str(self.info.get("video_path")), (row[name] for name in names)
        return file_at(self.root, template, video_key=key, chunk_index=chunk, file_index=file), float(start_s)

    def _task(self, task_index: int) -> str:
        if task_index not in self._tasks:
            raise DatasetError(f"{self.root / TASKS_PATH} has no task {task_index}.")
        return self._tasks[task_index]

    def _read_episodes(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for path in sorted((self.root / "meta/episodes").glob("*/*.parquet")):
            with readable(path):
                names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
                rows += pq.read_table(path, columns=names).to_pylist()
        needed = ("episode_index", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")
        for row in rows:
            wrong = [name for name in needed if not isinstance(row.get(name), int)]
            if wrong:
                raise DatasetError(f"the episodes of {self.root} lack {wrong}. Copy the data set again.")
        if len(rows) != self.info.get("total_episodes"):
            raise DatasetError(f"{self.root} tells {self.info.get('total_episodes')} episodes but has {len(rows)}.")
        return sorted(rows, key=lambda row: row["episode_index"])


class _RollingVideo:
    """Episodes into the videos of one camera; a new file begins between two episodes."""

    def __init__(self, root: Path, key: str, shape: tuple[int, int, int], fps: float) -> None:
        self._root, self._key, self._shape, self._fps = root, key, shape, fps
        self._writer: VideoWriter | None = None
        self._count = 0

    def add(self, frames: Any) -> tuple[int, int, float, float]:
        from openvla_core.datasets.lerobot.video import VideoWriter

        if self._writer is not None and self._writer.bytes_written() > VIDEO_MB * 2**20:
            self.close()
            self._count += 1
        chunk, file = divmod(self._count, FILES_PER_CHUNK)
        if self._writer is None:
            path = file_at(self._root, VIDEO_PATH, video_key=self._key, chunk_index=chunk, file_index=file)
            self._writer = VideoWriter(path, self._shape, self._fps)
        return chunk, file, *self._writer.add(frames)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def whole_number(rate: float) -> float | int:
    return int(rate) if rate == int(rate) else rate


def _write_tasks(root: Path, tasks: Mapping[str, int]) -> None:
    table = pa.table({"task_index": pa.array(np.arange(len(tasks))), TASK_COLUMN: list(tasks)})
    # pandas, which LeRobot reads this file with, takes the sentences as the names of the rows.
    columns: list[dict[str, str | None]] = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": None, "field_name": TASK_COLUMN, "pandas_type": "unicode", "numpy_type": "object"},
    ]
    described = {"index_columns": [TASK_COLUMN], "columns": [column | {"metadata": None} for column in columns]}
    table = table.replace_schema_metadata({"pandas": json.dumps(described)})
    pq.write_table(table, root / TASKS_PATH)


def _read_tasks(root: Path) -> dict[int, str]:
    path = root / TASKS_PATH
    with readable(path):
        table = pq.read_table(path)
        names = [name for name in ("task", TASK_COLUMN) if name in table.column_names]
        if not names:
            raise DatasetError(f"{path} has the columns {table.column_names}; expected the sentences as {TASK_COLUMN}.")
        return dict(zip(table["task_index"].to_pylist(), map(str, table[names[0]].to_pylist()), strict=True))
