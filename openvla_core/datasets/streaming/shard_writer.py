"""Writes episodes as the tar files that openvla_core.datasets.streaming.shards reads."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets.episode import PRIMARY, Episode, Frames
from openvla_core.datasets.oxe.curation import trained_steps
from openvla_core.datasets.streaming.left_out import LeftOut
from openvla_core.datasets.streaming.shards import FORMAT, INDEX
from openvla_core.datasets.streaming.sources import chunks_of
from openvla_core.durable import sync
from openvla_core.errors import DatasetError, StatisticsError
from openvla_core.image_preparation import MAX_SIZE, lanczos_resize
from openvla_core.prompt import clean_instruction

SHARD_STEPS = 10_000  # some 250 MB of 224-pixel frames
PNG = b"\x89PNG"
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
    frame_size: int | None = None,
    check: Callable[[str], object] = clean_instruction,
) -> dict[str, Any]:
    """Writes one data set and returns its description, the content of dataset.json. One episode is in memory at a time.

    The folder appears when all of it has been written and flushed to the disk. Episodes that training cannot use are
    left out; a warning, and "left_out" and "left_out_because" in the description, tell how many and why; failures are
    among them. The convention card that all episodes have is in the description too. Shuffle the episodes before if
    neighbours resemble each other and reading goes a window of shards at a time.

    Args:
        future: how many following actions are stored with each step.
        relative: (D,) bool, which numbers become 0 past the end of an episode; all but the last by default.
        frame_size: pixels of the square that frames are brought to, as training brings them to the network's size;
            None stores them as they were recorded.
        check: refuses instructions, see LeftOut.

    Raises DatasetError when the folder exists, there is nothing to write, or episodes have different conventions.
    """
    folder = Path(folder)
    if folder.exists() or not name or "/" in name or "." in name:
        raise DatasetError(f"{folder} exists, or {name!r} is no name of letters and digits; choose another.")
    if shard_steps < 1 or (frame_size is not None and not 1 <= frame_size <= MAX_SIZE):
        raise DatasetError(
            f"shard_steps is {shard_steps}, frame_size {frame_size}; expected 1 or more steps and at most {MAX_SIZE} "
            "pixels."
        )
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    writer = _Writer(unfinished, name, shard_steps)
    left_out, used = LeftOut(check), 0
    card: dict[str, Any] | None = None
    for episode in episodes:
        if left_out.takes(episode):
            continue
        told = None if episode.convention is None else dict(episode.convention)
        if used and told != card:
            raise DatasetError(
                f"{name}: episode {episode.name!r} has another convention card than those before; numbers of different "
                "meaning cannot be mixed. Give each convention a folder of its own."
            )
        card = told
        chunks = chunks_of(episode, future, relative)
        for step in np.flatnonzero(trained_steps(episode.metadata, chunks)).tolist():
            image = _picture(episode.images[camera], step, frame_size)
            writer.add(f"{used:08d}_{step:05d}", image, _label(episode, name, used, step, chunks[step]))
        writer.actions.append(np.asarray(episode.actions, dtype=np.float32))
        used += 1
    facts = {"left_out": left_out.count, "left_out_because": left_out.reasons, "future": future}
    description = writer.finish({"name": name, "episodes": used, **facts, "convention": card})
    left_out.tell(name)
    os.rename(unfinished, folder)
    sync(folder.parent)
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

    def add(self, key: str, image: bytes, label: bytes) -> None:
        if self._tar is None:
            self._shards.append({"file": f"{self._name}-{len(self._shards):06d}.tar", "steps": 0})
            path = self._folder / self._shards[-1]["file"]
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in _close
        at_image = self._member(f"{key}.{'png' if image[:4] == PNG else 'jpg'}", image)
        at_label = self._member(f"{key}.json", label)
        self._rows.append((len(self._shards) - 1, at_image, len(image), at_label, len(label)))
        self._shards[-1]["steps"] += 1
        if self._shards[-1]["steps"] >= self._shard_steps:
            self._close()

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        self._close()
        if not self._index:
            reasons = [f"{name}: {reason}" for name, reason in facts["left_out_because"].items()]
            raise DatasetError(
                f"{self._name}: no episode has an instruction and steps to train on; nothing was written. "
                + " ".join(reasons[:1])
            )
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
            "steps": sum(shard["steps"] for shard in self._shards),
            "statistics": statistics,
            "shards": self._shards,
        }
        _write(self._folder / "dataset.json", json.dumps(description, indent=1).encode())
        sync(self._folder)
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
            sync(path)
            self._index.append(np.array(self._rows, dtype=INDEX))
            self._tar, self._rows = None, []


def _label(episode: Episode, name: str, number: int, step: int, actions: np.ndarray) -> bytes:
    """The JSON file of one step."""
    label = {
        "instruction": episode.instruction.strip(),
        "actions": np.asarray(actions, dtype=np.float32).tolist(),
        "state": {key: np.asarray(values[step], dtype=np.float32).tolist() for key, values in episode.state.items()},
        "dataset": name,
        "episode": number,
        "episode_name": episode.name,
        "step": step,
        "steps": len(episode),
    }
    return json.dumps(label).encode()


def _picture(frames: Frames, step: int, size: int | None) -> bytes:
    """The file of one frame: as it was recorded, unless it has to become JPEG or another size."""
    recorded = frames.encoded(step)
    if size is None:
        return _jpeg(frames[step]) if recorded is None else recorded
    pixels = frames[step]
    if recorded is not None and pixels.shape[:2] == (size, size):
        return recorded
    return _jpeg(lanczos_resize(pixels, size, size))


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
    sync(path)
