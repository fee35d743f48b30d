"""LeRobot data sets of version 2.1: one parquet file and one video for each episode and camera, facts as JSON lines."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openvla_core.datasets.episode import Episode
from openvla_core.datasets.lerobot.files import (
    INFO,
    LineWriter,
    file_at,
    read_lines,
    readable,
    write_object,
)
from openvla_core.datasets.lerobot.sidecar import SidecarWriter
from openvla_core.datasets.lerobot.source import LeRobotSource
from openvla_core.datasets.lerobot.statistics import StatisticsBook, plain
from openvla_core.datasets.lerobot.table import CAMERA, Columns
from openvla_core.datasets.lerobot.v30 import whole_number
from openvla_core.errors import DatasetError

VERSION = "v2.1"
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES_PER_CHUNK = 1000
LINES = ("tasks", "episodes", "episodes_stats")


def write_lerobot_v21(episodes: Iterable[Episode], root: Path, video: bool = False, robot: str | None = None) -> int:
    """Writes a folder of version 2.1, which must not exist yet; returns the number of episodes.

    Pictures stay the files they are, pixels become PNG; with `video` both become mp4, which loses a little.
    Raises DatasetError when an episode does not fit with the first, or there is none.
    """
    with LeRobotV21Writer(root, video, robot) as writer:
        for episode in episodes:
            writer.add(episode)
        return writer.finish()


class LeRobotV21Writer:
    """Adds episodes one by one; `finish` writes what is known only at the end."""

    def __init__(self, root: Path, video: bool = False, robot: str | None = None) -> None:
        self._root, self._video, self._robot = Path(root), video, robot
        self._root.mkdir(parents=True)
        self._lines = {name: LineWriter(self._root / f"meta/{name}.jsonl") for name in LINES}
        self._sidecar = SidecarWriter(self._root)
        self._book = StatisticsBook(keep=False)
        self._columns: Columns | None = None
        self._tasks: dict[str, int] = {}
        self._count, self._frames = 0, 0

    def __enter__(self) -> "LeRobotV21Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as files:
            for close in (self._sidecar.close, *(lines.close for lines in self._lines.values())):
                files.callback(close)

    def add(self, episode: Episode) -> None:
        if self._columns is None:
            self._columns = Columns.of(episode, self._video)
        self._columns.check(episode)
        if episode.instruction not in self._tasks:
            self._tasks[episode.instruction] = len(self._tasks)
            self._lines["tasks"].add({"task_index": len(self._tasks) - 1, "task": episode.instruction})
        table = self._columns.table(episode, self._count, self._frames, self._tasks[episode.instruction])
        path = self._path(DATA_PATH)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        if self._video:
            self._add_videos(episode, self._columns)
        about = {"episode_index": self._count, "tasks": [episode.instruction], "length": len(episode)}
        self._lines["episodes"].add(about)
        statistics = plain(self._book.add(episode, table), quantiles=False)
        self._lines["episodes_stats"].add({"episode_index": self._count, "stats": statistics})
        self._sidecar.add(episode)
        self._count, self._frames = self._count + 1, self._frames + len(episode)

    def finish(self) -> int:
        if self._columns is None:
            raise DatasetError("there is no episode to write; a LeRobot data set needs at least one.")
        self._sidecar.finish(self._columns.state)
        write_object(self._root / INFO, self._info(self._columns))
        return self._count

    def _path(self, template: str, **values: Any) -> Path:
        chunk = self._count // EPISODES_PER_CHUNK
        return file_at(self._root, template, episode_chunk=chunk, episode_index=self._count, **values)

    def _add_videos(self, episode: Episode, columns: Columns) -> None:
        from openvla_core.datasets.lerobot.video import VideoWriter

        for name, frames in episode.images.items():
            path = self._path(VIDEO_PATH, video_key=CAMERA + name)
            writer = VideoWriter(path, columns.cameras[name], columns.fps)
            try:
                writer.add(frames)
            finally:
                writer.close()

    def _info(self, columns: Columns) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "total_episodes": self._count,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "total_videos": self._count * len(columns.cameras) if self._video else 0,
            "total_chunks": -(-self._count // EPISODES_PER_CHUNK),
            "chunks_size": EPISODES_PER_CHUNK,
            "fps": whole_number(columns.fps),
            "splits": {"train": f"0:{self._count}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._video else None,
            "features": columns.features(),
        }


class LeRobotV21Source(LeRobotSource):
    """Reads version 2.1."""

    version = VERSION

    def __init__(self, root: Path, cameras: Mapping[str, str] | None = None) -> None:
        super().__init__(root, cameras)
        self._tasks = {line.get("task_index"): line.get("task") for line in read_lines(self.root / "meta/tasks.jsonl")}
        listed = [line.get("episode_index") for line in read_lines(self.root / "meta/episodes.jsonl")]
        self._episodes = sorted(number for number in listed if isinstance(number, int))
        told = self.info.get("total_episodes")
        if len(self._episodes) != told:
            raise DatasetError(f"{self.root} tells {told!r} episodes but lists {len(self._episodes)}. Copy it again.")
        self._per_chunk = _above_zero(self.info.get("chunks_size"))

    def __len__(self) -> int:
        return len(self._episodes)

    def _path(self, template: Any, index: int, **values: Any) -> Path:
        number = self._episodes[index]
        chunk = number // self._per_chunk
        return file_at(self.root, str(template), episode_chunk=chunk, episode_index=number, **values)

    def _rows(self, index: int) -> pa.Table:
        path = self._path(self.info.get("data_path"), index)
        with readable(path):
            return pq.read_table(path, partitioning=None)

    def _video(self, index: int, key: str) -> tuple[Path, float]:
        return self._path(self.info.get("video_path"), index, video_key=key), 0.0

    def _task(self, task_index: int) -> str:
        task = self._tasks.get(task_index)
        if not isinstance(task, str):
            raise DatasetError(f"{self.root / 'meta/tasks.jsonl'} has no task {task_index}.")
        return task


def _above_zero(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise DatasetError(f"{INFO} has chunks_size {value!r}; expected a whole number above 0.")
    return value
