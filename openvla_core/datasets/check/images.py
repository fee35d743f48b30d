"""The pictures of an episode: dark, bright, frozen, damaged, of changing size."""

from collections.abc import Iterator

import numpy as np

from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.motion_energy import tool_path
from openvla_core.datasets.check.pictures import Pictures
from openvla_core.datasets.check.settings import CheckSettings

MOVED = 0.01  # metres of the tool during which a living camera sees a difference


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the pictures of one episode."""
    pictures, name = evidence.pictures, evidence.name
    if pictures is None or not len(pictures.sizes):
        return
    if pictures.damaged:
        first, why = next(iter(pictures.damaged.items()))
        sentence = f"{len(pictures.damaged)} of {len(pictures)} pictures: {why[:200]}"
        yield Finding("IMAGE_DAMAGED", sentence, name, float(pictures.times_s[first]))
    sizes = list(dict.fromkeys(size for size in pictures.sizes if size != (0, 0)))
    if len(sizes) > 1:
        sentence = f"{' and '.join(f'{w} x {h}' for w, h in sizes[:4])} pixels; expected one size"
        first = next(i for i, size in enumerate(pictures.sizes) if size not in ((0, 0), sizes[0]))
        yield Finding("IMAGE_SIZE_CHANGED", sentence, name, float(pictures.times_s[first]))
    black = pictures.brightness < settings.black
    if black.any():
        sentence = f"{int(black.sum())} of {len(pictures)} pictures are darker than {settings.black:g} of 255"
        yield Finding("IMAGE_BLACK", sentence, name, float(pictures.times_s[np.argmax(black)]))
    white = pictures.white > settings.bright_share
    if white.any():
        worst = float(np.nanmax(pictures.white))
        sentence = f"up to {worst:.0%} of the pixels are white; expected {settings.bright_share:.0%} at most"
        yield Finding("IMAGE_OVEREXPOSED", sentence, name, float(pictures.times_s[np.argmax(white)]))
    if not black.all():
        yield from _frozen(evidence, pictures, settings)


def _frozen(evidence: Evidence, pictures: Pictures, settings: CheckSettings) -> Iterator[Finding]:
    path = tool_path(evidence)
    equal = pictures.change == 0
    start = 0
    for i in range(1, len(equal) + 1):
        if i < len(equal) and equal[i]:
            continue
        first, start = start, i
        count = i - first
        if count < settings.frozen_frames or path is None:
            continue
        times, points = path
        inside = (times >= pictures.times_s[first]) & (times <= pictures.times_s[i - 1])
        moved = float(np.linalg.norm(np.diff(points[inside], axis=0), axis=1).sum()) if inside.sum() > 1 else 0.0
        if moved > MOVED:
            sentence = f"{count} equal pictures in a row while the tool moved {moved * 100:.1f} cm; expected changes"
            yield Finding("IMAGE_FROZEN", sentence, evidence.name, float(pictures.times_s[first]))
            return
