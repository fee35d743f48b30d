"""Rows about pictures that are none, decided by the decoder alone. In this process."""

import os
import struct
import time
import zlib
from collections import Counter

import cv2
import numpy as np

from fault_injection.file_faults import IN_PROCESS, tally
from fault_injection.processes import memory
from fault_injection.rows import Trial, row
from openvla_core.errors import ImageError


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


@row(
    6,
    fault="20,000 pictures whose size, step, length and encoding disagree",
    expected="REFUSED_OR_RGB",
    repeats=1,
    how=IN_PROCESS,
)
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
        except Exception as error:  # noqa: BLE001 - anything else is what this looks for
            results[f"{type(error).__name__}"] += 1
            wrong += 1
    return tally("REFUSED_OR_RGB", results, wrong)


@row(
    7,
    fault="0 x 0, 8,192 x 8,192 and 100,000 x 100,000 pictures, raw and as PNG header",
    expected="REFUSED",
    repeats=1,
    how=IN_PROCESS,
)
def huge(cell, i: int) -> Trial:
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
        "REFUSED" if not results["decoded"] else "DECODED", ok=grown < 200, note=f"memory grew by {grown:.0f} MB",
        inputs=results.total(),
    )  # fmt: skip


def png_header(height: int, width: int) -> bytes:
    """A PNG that says it is this large, with nothing in it."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


@row(
    8,
    fault="20,000 damaged JPEG and PNG files: bits flipped, cut, bytes put in",
    expected="REFUSED_OR_RGB",
    repeats=1,
    how=IN_PROCESS,
)
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
        except Exception as error:  # noqa: BLE001 - anything else is what this looks for
            results[type(error).__name__] += 1
            wrong += 1
        slowest = max(slowest, time.monotonic() - begun_s)
    return tally("REFUSED_OR_RGB", results, wrong + (slowest > 1.0))
