"""Demonstrations of robomimic and LIBERO: HDF5 files with the groups data/demo_0, data/demo_1 and so on."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openvla_core.datasets.cameras import name_cameras
from openvla_core.datasets.episode import Episode, PixelFrames
from openvla_core.errors import DatasetError

DEFAULT_RATE_HZ = 20.0  # of the controllers of robosuite, when env_args does not tell
SCENE = re.compile(r"^[A-Z][A-Z0-9_]*_SCENE\d+_")
LIBERO_ENDING = "_demo"
LIBERO_CAMERA = "agentview_rgb"  # robomimic writes agentview_image; LIBERO's attributes get lost on the way


class Hdf5Source:
    """The demonstrations of one file, or of all *.hdf5 files of a folder, in the order of their names and numbers.

    rotate_180: turn every picture by half a turn. LIBERO's are stored upside down, and the published checkpoints are
    trained on turned ones; by default the files of LIBERO are turned and others are not. instruction: for files that
    have none. cameras: camera name -> name below "obs". Poses stay in the axes of the simulation, under the names of
    the file, and actions in the units of its controller: no convention is told.
    Raises DatasetError for files that are damaged or have another form.
    """

    def __init__(
        self,
        path: Path,
        rotate_180: bool | None = None,
        instruction: str | None = None,
        cameras: Mapping[str, str] | None = None,
    ) -> None:
        path = Path(path)
        self.name = path.stem
        self._rotate, self._instruction, self._cameras = rotate_180, instruction, cameras
        files = sorted(path.glob("*.hdf5")) if path.is_dir() else [path]
        self._demos = [(file, demo) for file in files for demo in _demos_of(file)]
        if not self._demos:
            raise DatasetError(f"{path} holds no demonstrations; expected *.hdf5 files with the groups data/demo_0 ...")

    def __len__(self) -> int:
        return len(self._demos)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        path, demo = self._demos[index]
        try:
            with h5py.File(path, "r") as file:
                return self._episode(file, path, demo)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DatasetError(f"{path}, {demo}, cannot be read ({error}). Copy the file again.") from error

    def _episode(self, file: h5py.File, path: Path, demo: str) -> Episode:
        data = _group(file, "data", path)
        group = _group(data, demo, path)
        actions = _array(group, "actions", path)
        seen = _group(group, "obs", path)
        arrays = {key: _array(seen, key, path) for key in seen}
        pictures = {key: value for key, value in arrays.items() if value.ndim == 4 and value.shape[3] == 3}
        for key, value in pictures.items():
            if value.dtype != np.uint8:
                raise DatasetError(f"{path}: the pictures {key!r} have the type {value.dtype}; expected uint8.")
        rotate = LIBERO_CAMERA in arrays if self._rotate is None else self._rotate
        if rotate:
            pictures = {key: value[:, ::-1, ::-1] for key, value in pictures.items()}
        keys = name_cameras(list(pictures), self._cameras)
        rate = _rate(data)
        return Episode(
            name=f"{path.stem}/{demo}",
            instruction=self._instruction or _instruction(data, path),
            images={name: PixelFrames(pictures[key]) for name, key in keys.items()},
            actions=actions.astype(np.float32),
            state={key: value.astype(np.float32) for key, value in arrays.items() if value.ndim == 2},
            times_s=np.arange(len(actions)) / rate,
            rate_hz=rate,
            success=_success(group, path),
            metadata={"source": path.name, "cameras": keys, "rotated_180": rotate},
        )


def _demos_of(path: Path) -> list[str]:
    try:
        with h5py.File(path, "r") as file:
            names = [name for name in _group(file, "data", path) if re.fullmatch(r"demo_\d{1,9}", name)]
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read as HDF5 ({error}). Copy the file again.") from error
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def _group(parent: h5py.Group, name: str, path: Path) -> h5py.Group:
    child = _own(parent, name, path)
    if not isinstance(child, h5py.Group):
        raise DatasetError(f"{path} has no group {name!r} in {parent.name}; expected the form of robomimic.")
    return child


def _array(parent: h5py.Group, name: str, path: Path) -> np.ndarray:
    child = _own(parent, name, path)
    # A file from outside must not make us read other files of this machine.
    if not isinstance(child, h5py.Dataset) or child.is_virtual or child.external:
        raise DatasetError(f"{path} has no array {name!r} of its own in {parent.name}.")
    if child.dtype.kind not in "fiub":
        raise DatasetError(f"{path}: {child.name} has the type {child.dtype}; expected numbers.")
    return child[()]


def _own(parent: h5py.Group, name: str, path: Path) -> Any:
    link = parent.get(name, getlink=True)
    child = None if isinstance(link, h5py.ExternalLink) else parent.get(name)
    elsewhere = child is not None and child.file.filename != parent.file.filename
    if elsewhere or (child is None and link is not None):
        raise DatasetError(f"{path}: {name!r} lies in another file; only files that hold all their data are read.")
    return child


def _instruction(data: h5py.Group, path: Path) -> str:
    told = _json_attribute(data, "problem_info").get("language_instruction", "")
    sentence = "".join(told) if isinstance(told, list) else str(told)
    if not sentence and path.stem.endswith(LIBERO_ENDING):
        sentence = SCENE.sub("", path.stem.removesuffix(LIBERO_ENDING)).replace("_", " ")
    return sentence.strip(' "')


def _rate(data: h5py.Group) -> float:
    rate = (_json_attribute(data, "env_args").get("env_kwargs") or {}).get("control_freq", DEFAULT_RATE_HZ)
    return float(rate) if isinstance(rate, (int, float)) and 0 < rate < 10_000 else DEFAULT_RATE_HZ


def _success(group: h5py.Group, path: Path) -> bool | None:
    """True when the last step was rewarded; what was not rewarded may still have been stopped early."""
    rewards = _array(group, "rewards", path) if "rewards" in group else np.zeros(0)
    return True if len(rewards) and rewards[-1] > 0 else None


def _json_attribute(data: h5py.Group, name: str) -> dict[str, Any]:
    value = data.attrs.get(name, "{}")
    try:
        parsed = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
