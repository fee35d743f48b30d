"""Episodes as an RLDS data set that TFDS, and with it the published training code, opens; no TensorFlow is needed."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.datasets.cameras import distinct, frame_shape, picture_file
from openvla_core.datasets.episode import PRIMARY, WRIST, Episode
from openvla_core.datasets.lerobot.files import write_object
from openvla_core.datasets.rlds.features import FEATURES, features_json, image, tensor, text
from openvla_core.datasets.rlds.reader import INFO, OUR_FACTS, TIME, VERSION
from openvla_core.datasets.rlds.tf_example import build_example
from openvla_core.datasets.rlds.tfrecord import RecordWriter
from openvla_core.errors import DatasetError

RELEASE = "1.0.0"
SHARD_BYTES = 200 * 2**20
SPLIT = "train"
TFDS_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FLAGS = ("is_first", "is_last", "is_terminal")


def write_rlds(episodes: Iterable[Episode], root: Path, name: str | None = None) -> int:
    """Writes `root`/1.0.0, to be opened as tfds.builder(name, data_dir=root.parent); returns the episode count.

    name: by default that of the folder; the folder needs this name when TFDS opens it. Picture files stay the bytes
    they are, pixels become PNG. Raises DatasetError when the name is none for TFDS, an episode does not fit with the
    first, or there is none.
    """
    name = name or Path(root).name
    if not TFDS_NAME.fullmatch(name):
        raise DatasetError(f"{name!r} is no name for TFDS; use small letters, digits and '_' only.")
    with RldsWriter(Path(root), name) as writer:
        for episode in episodes:
            writer.add(episode)
        return writer.finish()


class RldsWriter:
    """Adds episodes one by one; `finish` gives the shards their names and writes what describes them."""

    def __init__(self, root: Path, name: str) -> None:
        self._name = name
        self._folder = root / RELEASE
        self._folder.mkdir(parents=True)
        self._shard: RecordWriter | None = None
        self._lengths: list[int] = []
        self._sizes: list[int] = []
        self._form: dict[str, Any] | None = None

    def __enter__(self) -> "RldsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shard is not None:
            self._shard.close()

    def add(self, episode: Episode) -> None:
        form = _form(episode)
        self._form = self._form or form
        if _comparable(form) != _comparable(self._form):
            raise DatasetError(
                f"episode {episode.name!r} has other cameras, states or sizes than the first one: "
                f"{_comparable(form)} instead of {_comparable(self._form)}. Write two data sets."
            )
        record = build_example(_values(episode))
        if self._shard is None or self._sizes[-1] + len(record) > SHARD_BYTES:
            self.__exit__()
            self._shard = RecordWriter(self._temporary(len(self._lengths)))
            self._lengths.append(0)
            self._sizes.append(0)
        self._shard.add(record)
        self._lengths[-1] += 1
        self._sizes[-1] += len(record)

    def finish(self) -> int:
        if self._form is None:
            raise DatasetError("there is no episode to write; an RLDS data set needs at least one.")
        self.__exit__()
        count = len(self._lengths)
        for index in range(count):
            name = f"{self._name}-{SPLIT}.tfrecord-{index:05d}-of-{count:05d}"
            self._temporary(index).rename(self._folder / name)
        metadata = {"file_path": text(), OUR_FACTS: text()}
        write_object(self._folder / FEATURES, features_json(self._form, metadata))
        write_object(self._folder / INFO, self._info())
        return sum(self._lengths)

    def _temporary(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.writing"

    def _info(self) -> dict[str, Any]:
        split = {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": SPLIT,
            "numBytes": str(sum(self._sizes)),
            "shardLengths": [str(length) for length in self._lengths],
        }
        return {"fileFormat": "tfrecord", "name": self._name, "splits": [split], "version": RELEASE}


def _camera_key(name: str) -> str:
    return {PRIMARY: "image", WRIST: "wrist_image"}.get(name, f"image_{name}")


def _form(episode: Episode) -> dict[str, Any]:
    """The tree of one step, as features.json describes it."""
    distinct([*map(_camera_key, episode.images), *episode.state], f"episode {episode.name!r}: the observations")
    observation = {}
    for name, frames in episode.images.items():
        stored = frames.encoded(0) if len(episode) else None
        kind = "jpeg" if stored is not None and stored[:2] == b"\xff\xd8" else "png"
        observation[_camera_key(name)] = image(frame_shape(episode, name), kind)
    for name, values in episode.state.items():
        observation[name] = tensor("float32", (values.shape[1],))
    if not len(episode):
        raise DatasetError(f"episode {episode.name!r} has no steps; leave it out.")
    return {
        "observation": observation,
        "action": tensor("float32", (episode.actions.shape[1],)),
        TIME: tensor("float64", encoding="bytes"),
        **{name: tensor("bool") for name in _FLAGS},
        "reward": tensor("float32"),
        "discount": tensor("float32"),
        "language_instruction": text(),
    }


def _comparable(form: dict[str, Any]) -> dict[str, Any]:
    """The sizes; whether a picture is JPEG or PNG may differ."""
    parts = {**form["observation"], "action": form["action"]}
    return {name: part[kind]["shape"]["dimensions"] for name, part in parts.items() for kind in part if kind in KINDS}


KINDS = ("image", "tensor")


def _values(episode: Episode) -> dict[str, Any]:
    steps = len(episode)
    last = np.arange(steps) == steps - 1
    flags = (np.arange(steps) == 0, last, last)
    values: dict[str, Any] = {
        "steps/action": episode.actions,
        f"steps/{TIME}": [np.float64(time).astype("<f8").tobytes() for time in episode.times_s],
        "steps/reward": (last & bool(episode.success)).astype(np.float32),
        "steps/discount": np.ones(steps, np.float32),
        "steps/language_instruction": [episode.instruction.encode()] * steps,
        "episode_metadata/file_path": [episode.name.encode()],
        f"episode_metadata/{OUR_FACTS}": [_facts(episode)],
    }
    values |= {f"steps/{name}": flag for name, flag in zip(_FLAGS, flags, strict=True)}
    values |= {f"steps/observation/{name}": numbers for name, numbers in episode.state.items()}
    for name, frames in episode.images.items():
        values[f"steps/observation/{_camera_key(name)}"] = [picture_file(frames, index) for index in range(steps)]
    return values


def _facts(episode: Episode) -> bytes:
    facts = {
        "version": VERSION,
        "name": episode.name,
        "success": episode.success,
        "rate_hz": episode.rate_hz,
        "convention": None if episode.convention is None else dict(episode.convention),
        "metadata": dict(episode.metadata),
        "cameras": {name: _camera_key(name) for name in episode.images},
        "state": list(episode.state),
    }
    try:
        return json.dumps(facts, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise DatasetError(f"the metadata of {episode.name!r} cannot be written as JSON ({error}).") from error
