"""Gets back the episodes of recorders that died: what is whole in the file becomes a complete bag.

The original is read and never changed; it goes only when the repaired bag is in its place and synced.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from openvla_core.datasets.bags.metadata import METADATA_FILE, read_metadata
from openvla_core.datasets.bags.salvage import MAGIC, read_messages
from openvla_core.datasets.bags.sentences import longest
from openvla_core.datasets.bags.store import FACTS_FILE, EpisodeStore
from openvla_core.datasets.bags.writer import BagWriter, facts_as_custom_data, storage_error
from openvla_core.durable import sync
from openvla_core.errors import DatasetError, OpenVLAError

REPAIR_SUFFIX = ".repair"
MAX_FACTS_BYTES = 16_000_000


@dataclass(frozen=True)
class Repaired:
    """What became of one open episode.

    action: "committed" (it was complete, only the last step was missing), "repaired", "empty" (nothing was recorded;
    the folder is in .discarded), "in use" (a recorder is writing it) or "failed". folder: where it is now.
    """

    name: str
    action: str
    folder: Path
    messages: int = 0
    sentence: str = ""


def repair(root: Path) -> list[Repaired]:
    """Repairs every open episode under `root` whose recorder is gone. Safe to run again, and beside a recorder.

    An episode that was complete but not yet in its place is moved there with the outcome it was given; one that was cut
    off is rewritten and marked: outcome "unknown", openvla.repaired "true". Raises DatasetError when there is no root.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}. Give the folder that the recorder writes to (its root).")
    store = EpisodeStore(root)
    for folder in store.left_open():
        # A repair that was cut off while it tidied up leaves its workplace behind, but no original beside it.
        if folder.suffix == REPAIR_SUFFIX and not folder.with_suffix("").exists():
            shutil.rmtree(folder, ignore_errors=True)
    results = [_repair_one(store, folder) for folder in store.left_open() if folder.suffix != REPAIR_SUFFIX]
    return [result for result in results if result is not None]


def _repair_one(store: EpisodeStore, folder: Path) -> Repaired | None:
    try:
        with store.locked():
            source = _claim(folder)
        if source is None:
            with store.locked():
                if not folder.exists():
                    return None  # its recorder has committed it meanwhile
                if not list(folder.glob("*.mcap")):
                    return _thrown_away(store, folder)
            return Repaired(folder.name, "in use", folder, sentence="A recorder is writing it.")
        with source:
            return _rescue(store, folder, source)
    except DatasetError as error:
        return Repaired(folder.name, "failed", folder, sentence=str(error))
    except OSError as error:
        return Repaired(folder.name, "failed", folder, sentence=str(storage_error(folder, error)))


def _claim(folder: Path) -> BinaryIO | None:
    """The MCAP file, locked, so that nobody else repairs it; None when it is missing or locked by its recorder."""
    paths = sorted(folder.glob("*.mcap"))
    try:
        source = paths[0].open("rb")
    except (IndexError, FileNotFoundError):
        return None
    try:
        fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        source.close()
        return None
    return source


def _rescue(store: EpisodeStore, folder: Path, source: BinaryIO) -> Repaired:
    target = store.root / folder.name
    if _is_repaired(target):  # an earlier repair was cut off before it removed the original
        _remove(folder)
        return Repaired(folder.name, "repaired", target, read_metadata(target)["message_count"])
    if _is_complete(folder, source):
        metadata = read_metadata(folder)
        (folder / FACTS_FILE).unlink(missing_ok=True)
        sync(folder)
        target = store.publish(folder, folder.name)
        return Repaired(folder.name, "committed", target, metadata["message_count"])
    return _rewrite(store, folder, source)


def _rewrite(store: EpisodeStore, folder: Path, source: BinaryIO) -> Repaired:
    workplace = _workplace(folder)
    shutil.rmtree(workplace, ignore_errors=True)
    # The bag is named after its folder, and a bag's file after the bag.
    writer = BagWriter(workplace / folder.name)
    try:
        for topic, log_ns, publish_ns, data in read_messages(source):
            writer.add_topic(topic)
            writer.write(topic.name, log_ns, data, publish_ns)
        count = sum(writer.counts.values())
        if count == 0:
            shutil.rmtree(workplace, ignore_errors=True)
            return _thrown_away(store, folder)
        facts = {**_noted_facts(folder), "outcome": "unknown", "repaired": True}
        seconds = max((writer.end_ns - writer.start_ns) * 1e-9, 1e-9)
        with contextlib.suppress(TypeError, ValueError, LookupError):  # a note that is damaged counts as none
            facts["instruction"] = longest(facts["instructions"], seconds)
        if "rates" not in facts:
            facts["rates"] = {name: round(max(n - 1, 0) / seconds, 2) for name, n in writer.counts.items()}
        writer.finish(facts_as_custom_data(facts))
        target = store.publish(workplace / folder.name, folder.name)
    except DatasetError:  # such as a full disk: the original stays as it is
        shutil.rmtree(workplace, ignore_errors=True)
        raise
    finally:
        writer.close()
    _remove(folder)
    return Repaired(folder.name, "repaired", target, count)


def _workplace(folder: Path) -> Path:
    return folder.with_name(folder.name + REPAIR_SUFFIX)


def _remove(folder: Path) -> None:
    """Removes an original: in one step from the open episodes, then for good."""
    workplace = _workplace(folder)
    workplace.mkdir(exist_ok=True)
    os.rename(folder, workplace / "original")
    shutil.rmtree(workplace, ignore_errors=True)


def _thrown_away(store: EpisodeStore, folder: Path) -> Repaired:
    return Repaired(folder.name, "empty", store.throw_away(folder), sentence="No message had reached the disk.")


def _is_repaired(folder: Path) -> bool:
    if not (folder / METADATA_FILE).is_file():
        return False
    return (read_metadata(folder).get("custom_data") or {}).get("openvla.repaired") == "true"


def _is_complete(folder: Path, source: BinaryIO) -> bool:
    """True when metadata.yaml is there, which is written last, and the file ends as a finished one does."""
    if not (folder / METADATA_FILE).is_file():
        return False
    size = source.seek(0, os.SEEK_END)
    source.seek(max(0, size - len(MAGIC)))
    ends_well = source.read() == MAGIC
    source.seek(0)
    return ends_well


def _noted_facts(folder: Path) -> dict[str, Any]:
    """What the recorder had noted; nothing when the note is missing or damaged."""
    try:
        with (folder / FACTS_FILE).open("rb") as file:
            facts = json.loads(file.read(MAX_FACTS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): value for name, value in facts.items()} if isinstance(facts, dict) else {}


def main(argv: Sequence[str] | None = None) -> int:
    """`openvla record repair ROOT`: returns 0 when every open episode is safe now, 1 when one could not be repaired."""
    parser = argparse.ArgumentParser(prog="openvla record repair", description=str(__doc__).splitlines()[0])
    parser.add_argument("root", type=Path, help="folder that the recorder writes to")
    arguments = parser.parse_args(argv)
    out = sys.stdout.write
    try:
        results = repair(arguments.root)
    except OpenVLAError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 3
    for result in results:
        out(f"{result.name}: {result.action}, {result.messages} messages, {result.folder} {result.sentence}\n")
    if not results:
        out(f"No open episodes under {arguments.root}.\n")
    return int(any(result.action == "failed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
