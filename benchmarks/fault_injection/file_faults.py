"""Rows that are decided before anything runs: checkpoints, statistics, parameters. In this process."""

import json
import shutil
import struct
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from fault_injection.processes import ROOT
from fault_injection.rows import Trial, row
from openvla_core.errors import OpenVLAError

CHECKPOINT = ROOT / "checkpoints" / "openvla-tiny-sim"
IN_PROCESS = "in process"


def tally(what: str, results: Counter, wrong: int) -> Trial:
    """A Trial from many generated inputs; `wrong` of them ended as they should not."""
    text = ", ".join(f"{count} {name}" for name, count in sorted(results.items()))
    return Trial(what if not wrong else "WRONG", ok=not wrong, note=text, inputs=results.total())


def load(folder: Path, naming: str = "") -> str:
    """How loading a checkpoint ends: "loaded", "refused" (with advice, naming a file) or the name of an exception."""
    from openvla_ros.policy_setup import PolicySettings, set_up_policy

    try:
        set_up_policy(PolicySettings(checkpoint=str(folder)))
        return "loaded"
    except OpenVLAError as error:
        return "refused" if naming in str(error) else f"refused without naming {naming}"
    except Exception as error:  # noqa: BLE001 - anything else is what this looks for
        return type(error).__name__


@row(
    21,
    fault="the weights are cut at 30 places, their header loses a bit 60 times",
    expected="REFUSED",
    repeats=1,
    how=IN_PROCESS,
)
def damaged_weights(cell, i: int) -> Trial:
    random = np.random.default_rng(21)
    results: Counter = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = copy_without_checksums(Path(name) / "checkpoint")
        weights = folder / "model.safetensors"
        good = weights.read_bytes()
        header = 8 + struct.unpack("<Q", good[:8])[0]
        for number in range(90):
            data = bytearray(good)
            if number < 30:
                del data[int(random.integers(len(data))) :]
            else:
                data[int(random.integers(header))] ^= 1 << int(random.integers(8))
            weights.write_bytes(data)
            results[load(folder)] += 1
    # A flipped letter of a comment may mean nothing; anything but "refused" or a full load is wrong.
    wrong = sum(count for kind, count in results.items() if kind not in ("refused", "loaded"))
    return tally("REFUSED", results, wrong + (results["loaded"] > 3))


@row(21, fault="one bit of the weights themselves flips (40 places)", expected="REFUSED", repeats=1, how=IN_PROCESS)
def flipped_weights(cell, i: int) -> Trial:
    random = np.random.default_rng(210)
    results: Counter = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        shutil.copytree(CHECKPOINT, folder)
        weights = folder / "model.safetensors"
        good = weights.read_bytes()
        header = 8 + struct.unpack("<Q", good[:8])[0]
        for _ in range(40):
            data = bytearray(good)
            data[int(random.integers(header, len(data)))] ^= 1 << int(random.integers(8))
            weights.write_bytes(data)
            results[load(folder, weights.name)] += 1
    return tally("REFUSED", results, results.total() - results["refused"])


def copy_without_checksums(folder: Path) -> Path:
    """A checkpoint whose files may be changed on purpose: what is wrong with them has to be noticed by itself."""
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    return folder


def edit(folder: Path, file: str, change) -> None:
    """Changes one JSON file of a checkpoint."""
    path = folder / file
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@row(
    22,
    fault="statistics: NaN, infinite, crossed, missing, wrong length; key unknown",
    expected="REFUSED",
    repeats=1,
    how=IN_PROCESS,
)
def wrong_statistics(cell, i: int) -> Trial:
    from openvla_core import load_policy

    def first(values: dict) -> dict:
        return next(iter(values.values()))["action"]

    changes = {
        "NaN": lambda v: first(v).update(q01=[float("nan")] * 7),
        "infinite": lambda v: first(v).update(q99=[float("inf")] * 7),
        "crossed": lambda v: first(v).update(q01=first(v)["q99"], q99=[x - 1 for x in first(v)["q01"]]),
        "missing": lambda v: first(v).pop("q99"),
        "six numbers": lambda v: first(v).update(q01=[0.0] * 6, q99=[1.0] * 6),
        "words": lambda v: first(v).update(q01=["a"] * 7),
        "empty": lambda v: v.clear(),
    }
    results: Counter = Counter()
    for change in changes.values():
        with tempfile.TemporaryDirectory() as name:
            folder = copy_without_checksums(Path(name) / "checkpoint")
            edit(folder, "dataset_statistics.json", change)
            results[load(folder)] += 1
    try:
        load_policy(CHECKPOINT, unnorm_key="no_such_key")
        results["loaded"] += 1
    except OpenVLAError:
        results["refused"] += 1
    return tally("REFUSED", results, results.total() - results["refused"])


@row(
    23,
    fault="another vocabulary: size changed, tokenizer of another model",
    expected="REFUSED",
    repeats=1,
    how=IN_PROCESS,
)
def wrong_vocabulary(cell, i: int) -> Trial:
    results: Counter = Counter()

    def larger(values: dict) -> None:
        values["text_config"]["vocab_size"] += 64

    def smaller(values: dict) -> None:
        values["text_config"]["vocab_size"] -= 64

    def no_text(values: dict) -> None:
        values.pop("text_config")

    jobs = [("config.json", larger), ("config.json", smaller), ("config.json", no_text)]
    for file, change in jobs:
        with tempfile.TemporaryDirectory() as name:
            folder = copy_without_checksums(Path(name) / "checkpoint")
            edit(folder, file, change)
            results[load(folder)] += 1
    with tempfile.TemporaryDirectory() as name:
        folder = copy_without_checksums(Path(name) / "checkpoint")
        shutil.copy(ROOT / "test" / "golden" / "data" / "fused_mini" / "checkpoint" / "tokenizer.json", folder)
        results[load(folder)] += 1
    return tally("REFUSED", results, results.total() - results["refused"])


@row(
    24,
    fault="the card is for another tool link, unknown, empty, not YAML",
    expected="REFUSED",
    repeats=1,
    how=IN_PROCESS,
)
def wrong_cards(cell, i: int) -> Trial:
    from openvla_core.conventions import load_convention
    from openvla_core.supervisor import Supervisor, SupervisorSettings

    card = (ROOT / "config" / "conventions" / "metres_rotation_vector.yaml").read_text()
    texts = [
        card, "", "[1, 2", "- a",
        card.replace("rotation_vector", "wishes"), card.replace("rate_hz: 5.0", "rate_hz: .nan"),
        card.replace("frame: base", ""), card.replace("translation_scale: 1.0", "translation_scale: -1.0"),
        card + "\nsurprise: 1\n",
    ]  # fmt: skip
    results: Counter = Counter()
    with tempfile.TemporaryDirectory() as name:
        for text in texts:
            path = Path(name) / "card.yaml"
            path.write_text(text)
            try:
                Supervisor(SupervisorSettings(tool_link="panda_hand_tcp"), load_convention(path))
                results["taken"] += 1
            except OpenVLAError:
                results["refused"] += 1
    return tally("REFUSED", results, results["taken"])
