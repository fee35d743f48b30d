"""A folder of recorded episodes: one bag per episode, open ones apart, committed all at once or not at all.

<root>/<episode>/                committed: complete, synced, never touched again
<root>/.open/<episode>/          being recorded, or left behind by a recorder that died
<root>/.discarded/<episode>/     thrown away by the operator; delete it when you like
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from openvla_core.datasets.bags.metadata import METADATA_FILE, read_metadata, write_metadata
from openvla_core.datasets.bags.writer import BagWriter, StorageError, facts_as_custom_data, storage_error
from openvla_core.durable import replace_file, sync
from openvla_core.errors import DatasetError

OPEN, DISCARDED = ".open", ".discarded"
FACTS_FILE = "episode.json"  # what is known of an open episode; metadata.yaml replaces it
LOCK_FILE = ".lock"
OUTCOMES = ("success", "failure", "unknown")
GIGABYTE = 1_000_000_000


class EpisodeStore:
    """The episodes under one root. Several recorders may share a root."""

    def __init__(self, root: Path) -> None:
        """Makes the folders. Raises StorageError when that is impossible."""
        self.root = root
        self.open_root = root / OPEN
        try:
            self.open_root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(root, error) from error

    def free_bytes(self) -> int:
        """Bytes that may still be written. Raises StorageError when the folder is gone, as with a disk pulled out."""
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise storage_error(self.root, error) from error

    def require_space(self, gigabytes: float) -> None:
        """Raises StorageError when less than this is free."""
        free = self.free_bytes() / GIGABYTE
        if free < gigabytes:
            raise StorageError(
                f"{self.root} has {free:.2f} GB free; recording starts with at least {gigabytes:g} GB. Free some "
                "space, record to another disk, or lower the parameter min_free_gb."
            )

    def begin(self, facts: Mapping[str, Any], name: str = "") -> "OpenEpisode":
        """Starts an episode; `facts` is what is known by now. Raises StorageError and DatasetError."""
        with self.locked():
            name = self._new_name(name)
            writer = BagWriter(self.open_root / name)
        episode = OpenEpisode(self, writer)
        try:
            episode.note(facts)
        except StorageError:
            episode.leave()
            raise
        return episode

    def _new_name(self, name: str) -> str:
        wanted = name or datetime.now(timezone.utc).strftime("episode_%Y%m%d_%H%M%S")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", wanted):
            raise DatasetError(f"an episode cannot be called {name!r}; use letters, digits, dots, dashes, underscores.")
        taken = {
            path.name for folder in (self.root, self.open_root, self.root / DISCARDED) for path in _folders(folder)
        }
        names = (wanted if number == 1 else f"{wanted}_{number}" for number in range(1, 10**6))
        return next(candidate for candidate in names if candidate not in taken)

    def committed(self) -> list[Path]:
        """The folders of committed episodes, by name."""
        return [path for path in _folders(self.root) if (path / METADATA_FILE).is_file()]

    def left_open(self) -> list[Path]:
        """The folders of episodes that are being recorded or were left behind."""
        return _folders(self.open_root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps `begin` and repair from meeting half-made folders. Held for milliseconds."""
        try:
            descriptor = os.open(self.open_root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(self.root, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def publish(self, folder: Path, name: str) -> Path:
        """Moves a complete, synced bag to where committed episodes are; from here on it survives a power cut."""
        target = self.root / name
        if target.exists():
            raise DatasetError(f"{target} is there already; an episode is never written over another one.")
        os.rename(folder, target)
        sync(self.root)
        sync(folder.parent)
        return target

    def throw_away(self, folder: Path) -> Path:
        """Moves an open episode to .discarded, under a name that is free there."""
        bin_folder = self.root / DISCARDED
        bin_folder.mkdir(exist_ok=True)
        taken = {path.name for path in _folders(bin_folder)}
        names = (folder.name if number == 1 else f"{folder.name}_{number}" for number in range(1, 10**6))
        target = bin_folder / next(name for name in names if name not in taken)
        os.rename(folder, target)
        sync(bin_folder)
        return target


class OpenEpisode:
    """The one episode that is being recorded."""

    def __init__(self, store: EpisodeStore, writer: BagWriter) -> None:
        self.store = store
        self.writer = writer
        self.facts: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.writer.folder.name

    def note(self, facts: Mapping[str, Any]) -> None:
        """Keeps facts where a repair finds them, too. Raises StorageError."""
        self.facts |= facts
        try:
            replace_file(self.writer.folder / FACTS_FILE, json.dumps(self.facts, ensure_ascii=False).encode())
            sync(self.writer.folder)
        except OSError as error:
            raise storage_error(self.writer.folder, error) from error

    def commit(self, facts: Mapping[str, Any]) -> Path:
        """Finishes, syncs and moves the bag in one step; returns where it is now. Raises StorageError."""
        self.finish(facts)
        try:
            target = self.store.publish(self.writer.folder, self.name)
        except OSError as error:
            raise storage_error(self.writer.folder, error) from error
        self.writer.close()
        return target

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Completes the bag where it is, among the open ones."""
        self.facts |= facts
        self.writer.finish(facts_as_custom_data(self.facts))
        (self.writer.folder / FACTS_FILE).unlink(missing_ok=True)

    def discard(self) -> Path:
        """Throws the episode away; returns the folder in .discarded. Works on a full disk too."""
        target = self.store.throw_away(self.writer.folder)
        self.writer.close()
        return target

    def leave(self) -> None:
        """Lets go of an episode that cannot be finished; repair takes it from here."""
        self.writer.close()


def label(folder: Path, outcome: str) -> None:
    """Sets the outcome of a committed episode: "success", "failure" or "unknown". Raises DatasetError."""
    if outcome not in OUTCOMES:
        raise DatasetError(f"the outcome {outcome!r} is unknown; choose one of {', '.join(OUTCOMES)}.")
    metadata = read_metadata(folder)
    custom = dict(metadata.get("custom_data") or {})
    metadata["custom_data"] = {**custom, **facts_as_custom_data({"outcome": outcome})}
    try:
        write_metadata(folder, metadata)
        sync(folder)
    except OSError as error:
        raise storage_error(folder, error) from error


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
