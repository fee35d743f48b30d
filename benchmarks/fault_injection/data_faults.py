"""Rows about recording and training: processes that are killed while they write, full disks, damaged files."""

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from fault_injection.processes import HERE, ROOT
from fault_injection.rows import Trial, row

BAG_TOOLS = ROOT / "test" / "core" / "datasets"
SECOND_NS = 1_000_000_000


@row(
    59,
    fault="the disk fills up while the recorder writes",
    expected="DISK",
    repeats=5,
    quick=1,
    bound_s=1.0,
)
def disk_full(cell, i: int) -> Trial:
    """On a disk of 24 MB of its own. Time: from the last byte that was written to the recorder's word."""
    import recorder_crash

    figures = recorder_crash.disk_full_in_namespace()
    if "left_out" in figures:
        return Trial("LEFT_OUT", ok=False, note=figures["left_out"])
    whole = not figures["committed_lost"] and not figures["committed_damaged"]
    back = all(one["action"] != "failed" for one in figures["repaired"])
    note = f"committed episodes {'whole' if whole else 'DAMAGED'}, the open one {'comes back' if back else 'is LOST'}"
    return Trial(figures["told"].upper(), figures["told_after_s"], ok=whole and back, note=note)


@row(
    60,
    fault="the recorder is killed (SIGKILL), one time in three while it commits",
    expected="NOTHING_LOST",
    repeats=12,
    quick=2,
)
def recorder_killed(cell, i: int) -> Trial:
    killer = recorder_killer()
    killer.kill_once(i)
    worst_s = max(killer.losses_s, default=0.0)
    lost = [*killer.lost, *killer.damaged]
    whole = not lost and not killer.listed_early and worst_s <= 0.5
    note = f"of an open episode at most {worst_s:.2f} s are lost" if whole else f"lost or damaged: {lost}"
    return Trial("NOTHING_LOST" if whole else "LOST", ok=whole, note=note if whole or i == 0 else "")


@cache
def recorder_killer():
    """The killer of benchmarks/recorder_crash.py, on a folder of its own."""
    import recorder_crash

    return recorder_crash.Killer(Path(tempfile.mkdtemp(prefix="faults-recorder-")) / "episodes", 60)


# Bags ---------------------------------------------------------------------------------------------------------------


def notes_of(tape, topic: str) -> list:
    """The messages of a topic that ends so."""
    return tape.notes[next(name for name in tape.notes if topic in name)]


def without(topic: str) -> Callable:
    """A recording that lacks a topic."""
    return lambda tape: tape.notes.pop(next(name for name in tape.notes if topic in name))


def same_stamps(tape) -> None:
    frames = notes_of(tape, "image")
    frames[20].stamp_ns = frames[19].stamp_ns


def stamps_back(tape) -> None:
    frames = notes_of(tape, "image")
    frames[20].stamp_ns, frames[21].stamp_ns = frames[21].stamp_ns, frames[20].stamp_ns


def clock_set(tape) -> None:
    for notes in (notes_of(tape, "image"), notes_of(tape, "pose")):
        for note in notes[len(notes) // 2 :]:
            note.stamp_ns += 3 * SECOND_NS


def clocks_apart(tape) -> None:
    for note in notes_of(tape, "image"):
        note.stamp_ns -= 7 * SECOND_NS // 10


def gaps(tape) -> None:
    poses = notes_of(tape, "pose")
    del poses[len(poses) * 2 // 5 : len(poses) * 7 // 10]


def pose_nan(tape) -> None:
    notes_of(tape, "pose")[40].value = np.full(7, np.nan)


def damaged_pictures(tape) -> None:
    for note in notes_of(tape, "image")[10:20]:
        note.value = b"\xff\xd8 no picture"


def nothing(tape) -> None:
    for notes in tape.notes.values():
        notes.clear()


def other_type(tape) -> None:
    name = next(name for name in tape.notes if "current_pose" in name)
    tape.kinds[name] = "std_msgs/msg/String"
    for note in tape.notes[name]:
        note.value = "here"


def cut(folder: Path) -> None:
    """The file ends in the middle."""
    (path,) = folder.glob("*.mcap")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unfinished(folder: Path) -> None:
    """The recorder was killed before it wrote the metadata."""
    (folder / "metadata.yaml").unlink()


# What is done to the tape, what is done to its folder, the codes of which one must be found.
DEFECTS: tuple[tuple[str, Callable | None, Callable | None, str], ...] = (
    ("no picture", without("image"), None, "TOPIC_MISSING"),
    ("no pose", without("current_pose"), None, "TOPIC_MISSING"),
    ("a string for a pose", other_type, None, "TYPE_WRONG TOPIC_MISSING"),
    ("no message at all", nothing, None, "BAG_EMPTY"),
    ("two frames of one stamp", same_stamps, None, "STAMP_DUPLICATE"),
    ("stamps that go back", stamps_back, None, "STAMP_BACKWARDS"),
    ("a clock that was set", clock_set, None, "CLOCK_JUMP"),
    ("clocks 0.7 s apart", clocks_apart, None, "CLOCK_OFFSET"),
    ("a hole of a third", gaps, None, "STEPS_DROPPED"),
    ("NaN in a pose", pose_nan, None, "POSE_NOT_FINITE"),
    ("pictures that are none", damaged_pictures, None, "IMAGE_DAMAGED"),
    ("a file cut in half", None, cut, "BAG_DAMAGED BAG_UNFINISHED"),
    ("no metadata", None, unfinished, "BAG_UNFINISHED"),
)


@cache
def good_tapes() -> tuple:
    """How bags are written, and two good recordings."""
    sys.path.append(str(BAG_TOOLS))
    import bag_tools

    return bag_tools.Scribe(), bag_tools.demonstration(0), bag_tools.demonstration(1)


@row(
    61,
    fault="bags: topics missing, of another type, empty, cut, gaps, clocks, NaN",
    expected="FOUND",
    repeats=len(DEFECTS),
    quick=len(DEFECTS),
)
def damaged_bag(cell, i: int) -> Trial:
    """A good and a damaged recording in one folder; `openvla dataset check` in a process of its own."""
    scribe, good, other = good_tapes()
    name, spoil, damage, codes = DEFECTS[i % len(DEFECTS)]
    tape = copy.deepcopy(other)
    if spoil is not None:
        spoil(tape)
    with tempfile.TemporaryDirectory(prefix="faults-bags-") as folder:
        root = Path(folder) / "bags"
        root.mkdir()
        scribe.write(good, root)
        bad = scribe.write(tape, root)
        if damage is not None:
            damage(bad)
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "openvla_ros.cli", "dataset", "check", str(root), "--json", str(report)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        findings = json.loads(report.read_text())["findings"] if report.exists() else []
    found = {one["code"] for one in findings if one["episode"] == tape.name}
    others = {one["code"] for one in findings if one["severity"] == "error" and one["episode"] == good.name}
    right = bool(found & set(codes.split())) and run.returncode == 1 and not others and "Traceback" not in run.stderr
    seen = ", ".join(sorted(found)) or f"nothing (exit {run.returncode})"
    return Trial("FOUND" if right else "MISSED", ok=right, note="" if right else f"{name}: {seen}")


# Training -----------------------------------------------------------------------------------------------------------


@row(
    62,
    fault="a training is killed (SIGKILL) while it saves, 10 times; then files cut and missing",
    expected="NEWEST_COMPLETE",
    repeats=5,
    quick=1,
)
def training_killed(cell, i: int) -> Trial:
    """A process that saves as a training does is killed again and again; the next one opens what is there."""
    return of_training("kill", i)


@row(
    62,
    fault="one bit of a checkpoint of a training flips (20 places)",
    expected="NEWEST_COMPLETE",
    repeats=5,
    quick=1,
)
def training_flipped(cell, i: int) -> Trial:
    """The next newest must be taken, or the damaged one refused."""
    return of_training("flip", i)


def of_training(what: str, i: int) -> Trial:
    """What training_peer.py found."""
    folder = Path(tempfile.mkdtemp(prefix="faults-training-"))
    try:
        command = [sys.executable, str(HERE / "training_peer.py"), str(folder), what, str(i)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        if run.returncode:
            return Trial("FAILED", ok=False, note=f"exit code {run.returncode}: {run.stderr[-300:]}")
        figures = json.loads(run.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bad = {name: count for name, count in figures["wrong"].items() if count}
    return Trial(
        "NEWEST_COMPLETE" if not bad else "WRONG", ok=not bad,
        note=f"{figures['saved']} checkpoints saved, {figures['cut_off']} of {figures['kills']} kills amid a save"
        if not bad else f"taken for good: {bad}",
        inputs=figures["tried"],
    )  # fmt: skip
