"""Episodes as rows of LeRobot's parquet files: the columns, what info.json says of them, and columns read back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from openvla_core.datasets.cameras import distinct, frame_shape, picture_file
from openvla_core.datasets.episode import Episode
from openvla_core.errors import DatasetError

ACTION = "action"
STATE = "observation.state"
CAMERA = "observation.images."
TIME = "time_s"  # our own column: the times as they were; LeRobot's "timestamp" is frame_index / fps in float32
ACTION_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")
COUNTERS = ("frame_index", "episode_index", "index", "task_index")
PIXEL_FORMAT = "yuv420p"
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
RATE_TOLERANCE = 0.01  # of the rate: a recording at 4.98 Hz belongs to a data set at 5 Hz


@dataclass(frozen=True)
class Columns:
    """The columns every episode of one data set has, fixed by its first episode.

    cameras: name -> (height, width, 3). state: name -> (first, last + 1) within observation.state.
    fps: rows per second.
    """

    action_dim: int
    cameras: Mapping[str, tuple[int, int, int]]
    state: Mapping[str, tuple[int, int]]
    fps: float
    video: bool

    @classmethod
    def of(cls, episode: Episode, video: bool = False) -> "Columns":
        """Raises DatasetError when the episode has no steps or a name LeRobot cannot take."""
        slices, end = {}, 0
        for name, values in episode.state.items():
            slices[name] = (end, end + values.shape[1])
            end += values.shape[1]
        bad = [name for name in (*episode.images, *episode.state) if "/" in name]
        if bad:
            raise DatasetError(f"episode {episode.name!r} has the names {bad}; LeRobot allows no '/' in them.")
        cameras = {name: frame_shape(episode, name) for name in episode.images}
        return cls(episode.actions.shape[1], cameras, slices, episode_rate(episode), video)

    def check(self, episode: Episode) -> None:
        """Raises DatasetError when the episode does not fit with the first one."""
        other = Columns.of(episode, self.video)
        for what in ("action_dim", "cameras", "state"):
            if getattr(other, what) != getattr(self, what):
                raise DatasetError(
                    f"episode {episode.name!r} has {what} {getattr(other, what)}, the first one {getattr(self, what)}. "
                    "One LeRobot data set has one of each; write two data sets."
                )
        if abs(other.fps - self.fps) > RATE_TOLERANCE * self.fps:
            raise DatasetError(
                f"episode {episode.name!r} has {other.fps:g} steps per second, the first one {self.fps:g}. "
                "Resample to one rate first."
            )

    def features(self) -> dict[str, dict[str, Any]]:
        """What info.json says about the columns."""
        numbers = {ACTION: _names(ACTION, self.action_dim)}
        if self.state:
            numbers[STATE] = [f"{name}_{i}" for name, (first, last) in self.state.items() for i in range(last - first)]
        features: dict[str, dict[str, Any]] = {}
        for name, shape in self.cameras.items():
            feature: dict[str, Any] = {"dtype": "image", "shape": list(shape), "names": ["height", "width", "channels"]}
            if self.video:
                feature |= {"dtype": "video", "info": _describe_video(self.fps, shape)}
            features[CAMERA + name] = feature
        for key, names in numbers.items():
            features[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
        features[TIME] = {"dtype": "float64", "shape": [1], "names": None}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        return features | {key: {"dtype": "int64", "shape": [1], "names": None} for key in COUNTERS}

    def table(self, episode: Episode, episode_index: int, first_index: int, task_index: int) -> pa.Table:
        """One row for each step; pictures as the files they were, or as PNG."""
        steps = len(episode)
        columns: dict[str, Any] = {ACTION: _numbers(episode.actions)}
        if self.state:
            columns[STATE] = _numbers(np.concatenate([episode.state[name] for name in self.state], axis=1))
        if not self.video:
            for name in self.cameras:
                files = [{"bytes": picture_file(episode.images[name], i), "path": None} for i in range(steps)]
                columns[CAMERA + name] = pa.array(files, PICTURE)
        frame = np.arange(steps)
        columns[TIME] = pa.array(np.asarray(episode.times_s, np.float64))
        columns["timestamp"] = pa.array((frame / self.fps).astype(np.float32))
        counters = (frame, np.full(steps, episode_index), first_index + frame, np.full(steps, task_index))
        columns |= {key: pa.array(values.astype(np.int64)) for key, values in zip(COUNTERS, counters, strict=True)}
        order = [key for key in self.features() if key in columns]
        return pa.table({key: columns[key] for key in order}).replace_schema_metadata(
            self._described_for_datasets(order)
        )

    def _described_for_datasets(self, order: Sequence[str]) -> dict[str, str]:
        """What the `datasets` package wants to know about the columns, so that it shows pictures as pictures."""
        described: dict[str, Any] = {}
        for key in order:
            feature = self.features()[key]
            value: dict[str, Any] = {"dtype": feature["dtype"], "_type": "Value"}
            if feature["dtype"] == "image":
                value = {"_type": "Image"}
            elif feature["shape"] != [1]:
                value = {"feature": value, "length": feature["shape"][0], "_type": "Sequence"}
            described[key] = value
        return {"huggingface": json.dumps({"info": {"features": described}})}


def episode_rate(episode: Episode) -> float:
    """Steps per second: as told, or else the middle of the intervals. Raises DatasetError when nothing tells it."""
    if episode.rate_hz > 0:
        return float(episode.rate_hz)
    intervals = np.diff(episode.times_s)
    if not len(intervals) or np.median(intervals) <= 0:
        raise DatasetError(f"episode {episode.name!r} tells no rate and has no two times to take it from; set rate_hz.")
    return round(float(1 / np.median(intervals)), 3)


def numbers(table: pa.Table, key: str) -> np.ndarray:
    """A column of numbers or of lists of equally many numbers as (T, n). Raises DatasetError for anything else."""
    column = table.column(key).combine_chunks()
    if column.null_count:
        raise DatasetError(f"the column {key!r} has {column.null_count} gaps; write the data set again.")
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type):
        values = column.flatten()
        if values.null_count or len(values) % max(len(column), 1):
            raise DatasetError(f"the column {key!r} has rows of different length; write the data set again.")
        return _plain(values, key).reshape(len(column), -1)
    return _plain(column, key).reshape(-1, 1)


def pictures(table: pa.Table, key: str) -> list[bytes]:
    """The picture files of a column. Raises DatasetError when they are kept somewhere else."""
    column = table.column(key)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise DatasetError(f"the column {key!r} has the type {column.type}; expected pictures (bytes and path).")
    files: list[bytes] = [(row or {}).get("bytes") or b"" for row in column.to_pylist()]
    if not all(files):
        raise DatasetError(f"the column {key!r} only has paths of pictures; embed them into the parquet files first.")
    return files


def _plain(values: pa.Array, key: str) -> np.ndarray:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        raise DatasetError(f"the column {key!r} has the type {values.type}; expected numbers.")
    return values.to_numpy(zero_copy_only=False)


def _numbers(values: np.ndarray) -> pa.Array:
    values = np.ascontiguousarray(values, dtype=np.float32)
    flat = pa.array(values.reshape(-1))
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _names(key: str, length: int) -> list[str]:
    names = list(ACTION_NAMES) if length == len(ACTION_NAMES) else [f"{key}_{i}" for i in range(length)]
    distinct(names, "names")
    return names


def _describe_video(rate_hz: float, shape: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "video.height": shape[0],
        "video.width": shape[1],
        "video.codec": "h264",
        "video.pix_fmt": PIXEL_FORMAT,
        "video.is_depth_map": False,
        "video.fps": rate_hz,
        "video.channels": shape[2],
        "has_audio": False,
    }
