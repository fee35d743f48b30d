"""Writes episodes as the tar files that openvla_core.datasets.streaming.shards reads."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets.chunking import chunk_actions, relative_mask
from openvla_core.datasets.episode import PRIMARY, Episode
from openvla_core.datasets.streaming.shards import FORMAT, INDEX
from openvla_core.errors import DatasetError, StatisticsError

SHARD_STEPS = 10_000  # some 250 MB of 224-pixel frames
JPEG_QUALITY = 95  # for frames that were recorded as plain pixels
BLOCK = 512  # tar writes everything in multiples of this


def write_shards(
    episodes: Iterable[Episode],
    folder: Path,
    name: str,
    shard_steps: int = SHARD_STEPS,
    future: int = 0,
    relative: np.ndarray | None = None,
    camera: str = PRIMARY,
) -> dict[str, Any]:
    """Writes one data set and returns its description, the content of dataset.json. One episode is in memory at a time.

    The folder appears when all of it has been written and flushed to the disk. Episodes without instruction are left
    out. Shuffle the episodes before if neighbours resemble each other and reading goes a window of shards at a time.

    Args:
        future: how many following actions are stored with each step.
        relative: (D,) bool, which numbers become 0 past the end of an episode; all but the last by default.

    Raises DatasetError when the folder exists or there is nothing to write.
    """
    folder = Path(folder)
    if folder.exists() or not name or "/" in name or "." in name:
        raise DatasetError(f"{folder} exists, or {name!r} is no name of letters and digits; choose another.")
    if shard_steps < 1:
        raise DatasetError(f"shard_steps is {shard_steps}; expected 1 or more.")
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    writer = _Writer(unfinished, name, shard_steps)
    used = skipped = 0
    for episode in episodes:
        if not episode.instruction.strip() or not len(episode):
            skipped += 1
            continue
        mask = relative_mask(episode.actions.shape[1]) if relative is None else relative
        chunks = chunk_actions(episode.actions, mask, future=future)
        for step in range(len(episode)):
            writer.add(*_members(episode, name, used, step, camera, chunks[step]))
        writer.actions.append(np.asarray(episode.actions, dtype=np.float32))
        used += 1
    description = writer.finish({"name": name, "episodes": used, "left_out": skipped, "future": future})
    os.rename(unfinished, folder)
    _sync(folder.parent)
    return description


class _Writer:
    """One tar file after the other, and what is known about them."""

    def __init__(self, folder: Path, name: str, shard_steps: int) -> None:
        self._folder, self._name, self._shard_steps = folder, name, shard_steps
        self._tar: tarfile.TarFile | None = None
        self._shards: list[dict[str, Any]] = []
        self._index: list[np.ndarray] = []
        self._rows: list[tuple[int, ...]] = []
        self.actions: list[np.ndarray] = []

    def add(self, key: str, ending: str, image: bytes, label: bytes) -> None:
        if self._tar is None:
            self._shards.append({"file": f"{self._name}-{len(self._shards):06d}.tar", "steps": 0})
            path = self._folder / self._shards[-1]["file"]
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in _close
        at_image = self._member(f"{key}.{ending}", image)
        at_label = self._member(f"{key}.json", label)
        self._rows.append((len(self._shards) - 1, at_image, len(image), at_label, len(label)))
        self._shards[-1]["steps"] += 1
        if self._shards[-1]["steps"] >= self._shard_steps:
            self._close()

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        self._close()
        if not self._index:
            raise DatasetError(f"{self._name}: no episode has an instruction and steps; nothing was written.")
        _write(self._folder / "index.npy", _npy(np.concatenate(self._index)))
        actions = np.concatenate(self.actions)
        try:
            statistics = {
                "action": compute_statistics(actions),
                "num_transitions": len(actions),
                "num_trajectories": facts["episodes"],
            }
        except StatisticsError as error:
            raise DatasetError(f"{self._name}: {error} Run `openvla dataset check` on it.") from error
        description = {
            "format": FORMAT,
            **facts,
            "steps": len(actions),
            "statistics": statistics,
            "shards": self._shards,
        }
        _write(self._folder / "dataset.json", json.dumps(description, indent=1).encode())
        _sync(self._folder)
        return description

    def _member(self, name: str, data: bytes) -> int:
        """Where the data begin. No times, no owner: the same episodes give the same files."""
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))
        return int(self._tar.offset) - -(-len(data) // BLOCK) * BLOCK

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            path = self._folder / self._shards[-1]["file"]
            self._shards[-1]["bytes"] = path.stat().st_size
            _sync(path)
            self._index.append(np.array(self._rows, dtype=INDEX))
            self._tar, self._rows = None, []


def _members(episode: Episode, name: str, number: int, step: int, camera: str, actions: np.ndarray) -> tuple:
    """Key, ending, image and label of one step."""
    frames = episode.images[camera]
    image = frames.encoded(step)
    if image is None:
        image = _jpeg(frames[step])
    label = {
        "instruction": episode.instruction,
        "actions": np.asarray(actions, dtype=np.float32).tolist(),
        "state": {key: np.asarray(values[step], dtype=np.float32).tolist() for key, values in episode.state.items()},
        "dataset": name,
        "episode": number,
        "episode_name": episode.name,
        "step": step,
        "steps": len(episode),
    }
    ending = "png" if image[:4] == b"\x89PNG" else "jpg"
    return f"{number:08d}_{step:05d}", ending, image, json.dumps(label).encode()


def _jpeg(pixels: np.ndarray) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    assert done, pixels.shape
    return encoded.tobytes()


def _npy(array: np.ndarray) -> bytes:
    stored = io.BytesIO()
    np.save(stored, array, allow_pickle=False)
    return stored.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
