"""RLDS data sets as TFDS stores them, read from their TFRecord files without TensorFlow."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.datasets.cameras import name_cameras
from openvla_core.datasets.episode import EncodedFrames, Episode
from openvla_core.datasets.lerobot.files import read_object
from openvla_core.datasets.rlds.features import FEATURES, STEPS, Feature, read_features
from openvla_core.datasets.rlds.tf_example import Value, parse_example
from openvla_core.datasets.rlds.tfrecord import read_record, read_records, record_offsets
from openvla_core.errors import DatasetError

INFO = "dataset_info.json"
OUR_FACTS = "openvla"  # within episode_metadata: what RLDS has no place for, as JSON
TIME = "time_s"
VERSION = 1


class RldsTrajectories:
    """The trajectories of one split, one nested dict each: "observation", "action", "language_instruction", ...

    Numbers are (T, ...), pictures EncodedFrames with the bytes as they were stored, texts lists of T byte strings;
    "episode_metadata" is outside the steps. path: a folder with dataset_info.json, or one that holds versions of it.
    Raises DatasetError for what is damaged, incomplete or has no such split.
    """

    def __init__(self, path: Path, split: str = "train") -> None:
        self.folder = find_version(Path(path))
        info = read_object(self.folder / INFO)
        self.name = str(info.get("name", self.folder.parent.name))
        self.features = read_features(self.folder)
        self._lengths, self._files = _shards(self.folder, info, self.name, split)
        self._offsets: dict[int, np.ndarray] = {}
        self._ends = np.cumsum(self._lengths)

    def __len__(self) -> int:
        return int(sum(self._lengths))

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        shard = int(np.searchsorted(self._ends, index, side="right"))
        if shard not in self._offsets:
            offsets = record_offsets(self._files[shard])
            self._check_length(shard, len(offsets))
            self._offsets[shard] = offsets
        place = index - int(self._ends[shard]) + self._lengths[shard]
        return self._trajectory(read_record(self._files[shard], int(self._offsets[shard][place])))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for shard, path in enumerate(self._files):
            count = 0
            for record in read_records(path):
                yield self._trajectory(record)
                count += 1
            self._check_length(shard, count)

    def _check_length(self, shard: int, count: int) -> None:
        if count != self._lengths[shard]:
            raise DatasetError(
                f"{self._files[shard]} has {count} episodes, but {INFO} tells {self._lengths[shard]}. Copy it again."
            )

    def _trajectory(self, record: bytes) -> dict[str, Any]:
        values = parse_example(record)
        steps = _steps(self.features, values)
        tree: dict[str, Any] = {}
        for feature in self.features:
            if feature.key not in values:
                continue  # TFDS leaves out what is empty
            value = feature.decode(values[feature.key], steps if feature.in_steps else 1)
            *parents, name = feature.path[1:] if feature.in_steps else feature.path
            place = tree
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = value if feature.in_steps else value[0]
        return tree


class RldsSource:
    """The same as episodes, for data sets whose "action" is one array; others: openvla_core.datasets.oxe.catalog.

    cameras: camera name -> key within "observation"; without it the names are taken from the keys. rate_hz: what RLDS
    does not tell; only used where the episode does not tell it either.
    """

    def __init__(
        self, path: Path, split: str = "train", cameras: Mapping[str, str] | None = None, rate_hz: float = 0.0
    ) -> None:
        self.trajectories = RldsTrajectories(path, split)
        self.name = self.trajectories.name
        self._rate_hz, self._cameras = rate_hz, cameras

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        return self._episode(self.trajectories[index], index)

    def __iter__(self) -> Iterator[Episode]:
        return (self._episode(trajectory, index) for index, trajectory in enumerate(self.trajectories))

    def _episode(self, trajectory: Mapping[str, Any], index: int) -> Episode:
        action, seen = trajectory.get("action"), dict(trajectory.get("observation", {}))
        if not isinstance(action, np.ndarray) or action.ndim != 2:
            raise DatasetError(
                f"the actions of {self.name} are {_told(action)}; expected one array (T, D). Data sets of "
                "Open X-Embodiment need their standardisation: openvla_core.datasets.oxe.catalog.to_episode."
            )
        facts = _our_facts(trajectory)
        pictures = {key: value for key, value in seen.items() if isinstance(value, EncodedFrames)}
        keys = name_cameras(list(pictures), facts.get("cameras") or self._cameras)
        rate = float(facts.get("rate_hz", self._rate_hz))
        return Episode(
            name=facts.get("name") or f"episode_{index:06d}",
            instruction=_instruction(trajectory, seen),
            images={name: pictures[key] for name, key in keys.items()},
            actions=action.astype(np.float32),
            state=_state(seen, facts.get("state")),
            times_s=_times(trajectory.get(TIME), len(action), rate),
            rate_hz=rate,
            success=facts.get("success"),
            convention=facts.get("convention"),
            metadata=facts.get("metadata", {"source": f"rlds {self.name}", "cameras": keys}),
        )


def find_version(path: Path) -> Path:
    """The folder itself, or its highest version (1.0.0), that holds dataset_info.json. Raises DatasetError if none."""
    if (path / INFO).is_file() and (path / FEATURES).is_file():
        return path
    versions = [info.parent for info in path.glob(f"*/{INFO}") if (info.parent / FEATURES).is_file()]
    if not versions:
        raise DatasetError(f"{path} holds no RLDS data set: neither it nor a folder in it has {INFO} and {FEATURES}.")
    return max(versions, key=lambda folder: [int(part) if part.isdigit() else -1 for part in folder.name.split(".")])


def _shards(folder: Path, info: Mapping[str, Any], name: str, split: str) -> tuple[list[int], list[Path]]:
    try:
        splits = {str(entry["name"]): entry for entry in info["splits"]}
        if split not in splits:
            raise DatasetError(f"{folder} has no split {split!r}. It has: {sorted(splits)}.")
        lengths = [int(length) for length in splits[split].get("shardLengths", [])]
        template = splits[split].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{folder / INFO} is damaged ({error!r}). Copy the data set again.") from error
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise DatasetError(f"{folder} is stored as {info['fileFormat']!r}; this release reads tfrecord.")
    files = []
    for index in range(len(lengths)):
        place = f"{index:05d}-of-{len(lengths):05d}"
        values = {"DATASET": name, "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_X_OF_Y": place}
        values |= {"SHARD_INDEX": f"{index:05d}", "NUM_SHARDS": f"{len(lengths):05d}"}
        file = str(template)
        for field, value in values.items():
            file = file.replace("{" + field + "}", value)
        if Path(file).name != file or not (folder / file).is_file():
            raise DatasetError(f"{folder / file} is missing. Copy the whole data set.")
        files.append(folder / file)
    return lengths, files


def _steps(features: list[Feature], values: Mapping[str, Value]) -> int:
    counts = {f.key: f.steps_of(values[f.key]) for f in features if f.in_steps and f.key in values}
    counts = {key: count for key, count in counts.items() if count >= 0}
    if len(set(counts.values())) != 1:
        shown = dict(sorted(counts.items())[:8])
        raise DatasetError(f"a record has parts of different length: {shown}; every part of {STEPS!r} needs the same.")
    return next(iter(counts.values()))


def _our_facts(trajectory: Mapping[str, Any]) -> dict[str, Any]:
    data = trajectory.get("episode_metadata", {}).get(OUR_FACTS)
    if data is None:
        return {}
    try:
        facts = json.loads(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"the facts of an episode are no JSON ({error}). Copy the data set again.") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise DatasetError(f"the facts of an episode are {str(facts)[:80]}; this release reads version {VERSION}.")
    return facts


def _instruction(trajectory: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    for place in (trajectory, seen):
        for key in ("language_instruction", "natural_language_instruction"):
            if isinstance(place.get(key), list) and place[key]:
                return place[key][0].decode("utf-8", "replace")
    return ""


def _state(seen: Mapping[str, Any], names: list[str] | None) -> dict[str, np.ndarray]:
    flat = {key: value for key, value in seen.items() if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"}
    columns = {key: value.reshape(len(value), -1).astype(np.float32) for key, value in flat.items() if value.ndim <= 2}
    missing = sorted(set(names or []) - set(columns))
    if missing:
        raise DatasetError(f"an episode lacks the states {missing}; it has {sorted(columns)}.")
    return {name: columns[name] for name in names} if names is not None else columns


def _times(stored: Any, steps: int, rate_hz: float) -> np.ndarray:
    if isinstance(stored, np.ndarray) and stored.shape == (steps,):
        return stored.astype(np.float64)
    return np.arange(steps) / (rate_hz or 1.0)


def _told(action: Any) -> str:
    if isinstance(action, dict):
        return f"named parts {sorted(action)}"
    return "missing" if action is None else f"of shape {np.shape(action)}"
