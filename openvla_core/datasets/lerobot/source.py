"""Episodes from the rows, videos and facts of a LeRobot data set: what versions 2.1 and 3.0 have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from openvla_core.datasets.cameras import name_cameras
from openvla_core.datasets.episode import EncodedFrames, Episode, Frames
from openvla_core.datasets.lerobot.files import INFO, read_object
from openvla_core.datasets.lerobot.sidecar import Sidecar
from openvla_core.datasets.lerobot.table import ACTION, STATE, TIME, numbers, pictures
from openvla_core.errors import DatasetError

OBSERVATION = "observation."
NUMBER_TYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool")


class LeRobotSource(ABC):
    """The episodes of a LeRobot folder; nothing but the facts about them is kept in memory.

    cameras: camera name -> key such as "observation.images.top"; without it the names are taken from the keys.
    Raises DatasetError for a folder that is damaged, incomplete or of another version.
    """

    version: str

    def __init__(self, root: Path, cameras: Mapping[str, str] | None = None) -> None:
        self.root = Path(root)
        self.name = self.root.name
        self.info = read_object(self.root / INFO)
        version = self.info.get("codebase_version")
        if version != self.version:
            raise DatasetError(f"{self.root} has LeRobot's version {version!r}; expected {self.version!r}.")
        self.features = self._checked_features()
        self.fps = self._checked_fps()
        keys = [key for key, feature in self.features.items() if feature["dtype"] in ("image", "video")]
        self.cameras = name_cameras(keys, cameras)
        self.sidecar = Sidecar(self.root)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _rows(self, index: int) -> pa.Table:
        """The rows of one episode."""

    @abstractmethod
    def _video(self, index: int, key: str) -> tuple[Path, float]:
        """The video of a camera and the second at which the episode begins in it."""

    @abstractmethod
    def _task(self, task_index: int) -> str:
        """The sentence with this number."""

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        rows = self._rows(index)
        missing = {ACTION, "timestamp", "task_index"} - set(rows.column_names)
        if missing or not len(rows):
            raise DatasetError(f"episode {index} of {self.root} lacks {sorted(missing) or 'rows'}.")
        times = numbers(rows, TIME if TIME in rows.column_names else "timestamp")[:, 0].astype(np.float64)
        facts = self.sidecar.facts(index)
        tasks = [self._task(int(number)) for number in dict.fromkeys(numbers(rows, "task_index")[:, 0].tolist())]
        return Episode(
            name=facts.get("name") or f"episode_{index:06d}",
            instruction=tasks[0],
            images={name: self._frames(index, key, rows) for name, key in self.cameras.items()},
            actions=numbers(rows, ACTION).astype(np.float32),
            state=self._state(rows),
            times_s=times,
            rate_hz=self.fps if facts.get("rate_hz") is None else float(facts["rate_hz"]),
            success=facts.get("success"),
            convention=facts.get("convention"),
            metadata=self._metadata(facts, tasks),
        )

    def _metadata(self, facts: Mapping[str, Any], tasks: list[str]) -> dict[str, Any]:
        if facts:
            return dict(facts.get("metadata") or {})
        return {"source": f"lerobot {self.version}", "cameras": self.cameras, "tasks": tasks}

    def _frames(self, index: int, key: str, rows: pa.Table) -> Frames:
        if self.features[key]["dtype"] == "image":
            return EncodedFrames(pictures(rows, key))
        from openvla_core.datasets.lerobot.video import VideoFrames

        path, start_s = self._video(index, key)
        return VideoFrames(path, start_s, numbers(rows, "timestamp")[:, 0], self.fps)

    def _state(self, rows: pa.Table) -> dict[str, np.ndarray]:
        state = {}
        for key, feature in self.features.items():
            if key.startswith(OBSERVATION) and feature["dtype"] in NUMBER_TYPES and len(feature["shape"]) == 1:
                state[key.removeprefix(OBSERVATION)] = numbers(rows, key).astype(np.float32)
        if self.sidecar.state and STATE in self.features:
            whole = state.pop(STATE.removeprefix(OBSERVATION))
            state |= {name: whole[:, first:last] for name, (first, last) in self.sidecar.state.items()}
        return state

    def _checked_features(self) -> dict[str, dict[str, Any]]:
        features = self.info.get("features")
        if not isinstance(features, dict) or ACTION not in features:
            raise DatasetError(f"{self.root / INFO} tells no features with {ACTION!r}; this is not a LeRobot data set.")
        for key, feature in features.items():
            if not isinstance(feature, dict) or not {"dtype", "shape"} <= set(feature):
                raise DatasetError(f"{self.root / INFO} tells neither dtype nor shape of {key!r}.")
            if not isinstance(feature["shape"], list):
                raise DatasetError(f"{self.root / INFO} has the shape {feature['shape']!r} for {key!r}.")
        return features

    def _checked_fps(self) -> float:
        fps = self.info.get("fps")
        if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 10_000:
            raise DatasetError(f"{self.root / INFO} has fps {fps!r}; expected frames per second above 0.")
        return float(fps)
