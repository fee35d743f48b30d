"""Rows that are decided before anything runs: pictures, checkpoints, statistics, parameters. In this process."""

import json
import shutil
import struct
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from fault_injection.processes import ROOT, memory
from fault_injection.rows import Trial, row

from openvla_core.errors import ImageError, OpenVLAError

CHECKPOINT = ROOT / "checkpoints" / "openvla-tiny-sim"
IN_PROCESS = "in process"


def tally(what: str, results: Counter, wrong: int) -> Trial:
    """A Trial from many generated inputs; `wrong` of them ended as they should not."""
    text = ", ".join(f"{count} {name}" for name, count in sorted(results.items()))
    return Trial(what if not wrong else "WRONG", ok=not wrong, note=text)


@row(5, fault="every name of an encoding, known and unknown", expected="REFUSED_OR_RGB", repeats=1, how=IN_PROCESS)
def encodings(cell, i: int) -> Trial:
    from openvla_core.images import ENCODINGS, decode_raw

    results: Counter = Counter()
    wrong = 0
    unknown = ["", "32FC1", "16UC1", "16SC1", "64FC1", "jpeg", "rgb", "RGB8", "yuv420", "nv12", "bayer", "\0rgb8"]
    for name in [*ENCODINGS, *unknown]:
        item, channels = ENCODINGS[name][:2] if name in ENCODINGS else (1, 3)
        data = np.random.default_rng(0).integers(0, 256, 8 * 8 * item * channels, dtype=np.uint8).tobytes()
        try:
            rgb = decode_raw(data, 8, 8, 8 * item * channels, name)
            results["decoded"] += 1
            wrong += name not in ENCODINGS or rgb.shape != (8, 8, 3) or rgb.dtype != np.uint8
        except ImageError as error:
            results["refused"] += 1
            wrong += name in ENCODINGS or repr(name) not in str(error)
    return tally("REFUSED_OR_RGB", results, wrong)


@row(6, fault="20,000 pictures whose size, step, length and encoding disagree", expected="REFUSED_OR_RGB", repeats=1,
     how=IN_PROCESS)  # fmt: skip
def sizes(cell, i: int) -> Trial:
    from openvla_core.images import ENCODINGS, decode_raw

    random = np.random.default_rng(6)
    names = [*ENCODINGS, "32FC1"]
    results: Counter = Counter()
    wrong = 0
    for _ in range(20_000):
        height, width = (int(v) for v in random.choice([0, 1, 2, 3, 4, 7, 8, 16, -1, 2**31], 2))
        step, length = (int(v) for v in random.choice([0, 1, 8, 16, 24, 48, 64, 128, 192, 384], 2))
        name = names[random.integers(len(names))]
        try:
            rgb = decode_raw(bytes(length * int(random.integers(1, 9))), height, width, step, name)
            results["decoded"] += 1
            wrong += rgb.shape != (height, width, 3)
        except ImageError:
            results["refused"] += 1
        except Exception as error:
            results[f"{type(error).__name__}"] += 1
            wrong += 1
    return tally("REFUSED_OR_RGB", results, wrong)


@row(7, fault="0 x 0, 8,192 x 8,192 and 100,000 x 100,000 pictures, raw and as PNG header", expected="REFUSED", repeats=1,
     how=IN_PROCESS)  # fmt: skip
def huge(cell, i: int) -> Trial:
    import os

    from openvla_core.images import decode_compressed, decode_raw

    before = memory(os.getpid())[0]
    results: Counter = Counter()
    for height, width in ((0, 0), (0, 8), (8192, 8192), (4097, 4096), (100_000, 100_000), (1, 16_777_217)):
        for decode in (
            lambda h=height, w=width: decode_raw(b"", h, w, 3 * w, "rgb8"),
            lambda h=height, w=width: decode_compressed(png_header(h, w)),
        ):
            try:
                decode()
                results["decoded"] += 1
            except ImageError:
                results["refused"] += 1
    grown = memory(os.getpid())[0] - before
    return Trial(
        "REFUSED" if not results["decoded"] else "DECODED", ok=grown < 200, note=f"memory grew by {grown:.0f} MB"
    )


def png_header(height: int, width: int) -> bytes:
    """A PNG that says it is this large, with nothing in it."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


@row(8, fault="20,000 damaged JPEG and PNG files: bits flipped, cut, bytes put in", expected="REFUSED_OR_RGB", repeats=1,
     how=IN_PROCESS)  # fmt: skip
def damaged_pictures(cell, i: int) -> Trial:
    from openvla_core.images import decode_compressed

    random = np.random.default_rng(8)
    picture = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    good = [cv2.imencode(kind, picture)[1].tobytes() for kind in (".jpg", ".png")]
    results: Counter = Counter()
    wrong, slowest = 0, 0.0
    for number in range(20_000):
        data = bytearray(good[number % 2])
        for _ in range(int(random.integers(1, 8))):
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        if number % 3 == 0:
            del data[int(random.integers(len(data))) :]
        elif number % 3 == 1:
            data[20:20] = random.bytes(int(random.integers(1, 50)))
        begun_s = time.monotonic()
        try:
            rgb = decode_compressed(bytes(data))
            results["decoded"] += 1
            wrong += rgb.ndim != 3 or rgb.shape[2] != 3
        except ImageError:
            results["refused"] += 1
        except Exception as error:
            results[type(error).__name__] += 1
            wrong += 1
        slowest = max(slowest, time.monotonic() - begun_s)
    return tally("REFUSED_OR_RGB", results, wrong + (slowest > 1.0))


def load(folder: Path) -> str:
    """How loading a checkpoint ends: "loaded", "refused" (with advice) or the name of an exception."""
    from openvla_core import load_policy

    try:
        load_policy(folder)
        return "loaded"
    except OpenVLAError:
        return "refused"
    except Exception as error:
        return type(error).__name__


@row(21, fault="the weights are cut at 30 places, their header loses a bit 60 times", expected="REFUSED", repeats=1,
     how=IN_PROCESS)  # fmt: skip
def damaged_weights(cell, i: int) -> Trial:
    random = np.random.default_rng(21)
    results: Counter = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        shutil.copytree(CHECKPOINT, folder)
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
            results[load(folder)] += 1
    return tally("REFUSED", results, results.total() - results["refused"])


def edit(folder: Path, file: str, change) -> None:
    """Changes one JSON file of a checkpoint."""
    path = folder / file
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@row(22, fault="statistics: NaN, infinite, crossed, missing, wrong length; key unknown", expected="REFUSED", repeats=1,
     how=IN_PROCESS)  # fmt: skip
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
            folder = Path(name) / "checkpoint"
            shutil.copytree(CHECKPOINT, folder)
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

    def short_tokenizer(values: dict) -> None:
        words = values["model"]["vocab"]
        for word in list(words)[len(words) // 2 :]:
            words.pop(word) if isinstance(words, dict) else words.remove(word)

    jobs = [
        ("config.json", larger),
        ("config.json", smaller),
        ("config.json", no_text),
        ("tokenizer.json", short_tokenizer),
    ]
    for file, change in jobs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "checkpoint"
            shutil.copytree(CHECKPOINT, folder)
            edit(folder, file, change)
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
        card, card.replace("rotation_vector", "wishes"), card.replace("rate_hz: 5.0", "rate_hz: .nan"), "", "[1, 2", "- a",
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
