"""A few plots as SVG text."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

BINS = 41
MOST_POINTS = 400


@dataclass(frozen=True)
class Line:
    """One curve: times_s, values (N,). Drawn from 0 to `top`, or to its largest value."""

    times_s: np.ndarray
    values: np.ndarray
    color: str
    label: str
    top: float = 0.0


def _svg(width: int, height: int, body: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{body}</svg>'


def _number(value: float) -> str:
    return f"{value:.4g}"


def histogram(values: np.ndarray, band: tuple[float, float], unit: str, width: int = 310, height: int = 110) -> str:
    """Values (N,) as a histogram, the band of another data set shaded behind it, its own 1 % and 99 % dotted."""
    own = np.quantile(values, [0.01, 0.99])
    low, high = min(float(own[0]), band[0]), max(float(own[1]), band[1])
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin
    counts, _ = np.histogram(np.clip(values, low, high), BINS, (low, high))
    floor = height - 18

    def x(value: float) -> float:
        return (value - low) / (high - low) * width

    parts = [
        f'<rect x="{x(band[0]):.1f}" y="0" width="{x(band[1]) - x(band[0]):.1f}" height="{floor}" fill="#e8edf5"/>'
    ]
    step = width / BINS
    for i, count in enumerate(counts):
        if count:
            tall = max(1.5, (count / counts.max()) ** 0.5 * (floor - 4))  # a root scale, so that rare steps are seen
            parts.append(
                f'<rect x="{i * step:.1f}" y="{floor - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" '
                'fill="#3b6fd4"/>'
            )
    for value in own:
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="0" y2="{floor}" stroke="#1d2733" '
            'stroke-dasharray="2 3"/>'
        )
    labels = ((low + margin, "start", 2.0), (0.0, "middle", x(0.0)), (high - margin, "end", width - 2.0))
    for value, anchor, place in labels:
        suffix = f" {unit}" if anchor == "end" else ""
        parts.append(f'<text x="{place:.1f}" y="{height - 4}" text-anchor="{anchor}">{_number(value)}{suffix}</text>')
    return _svg(width, height, "".join(parts))


def bars(rows: Sequence[tuple[str, int]], width: int = 310) -> str:
    """Labelled counts, one bar each."""
    most = max((count for _, count in rows), default=1)
    parts = []
    for i, (label, count) in enumerate(rows):
        y = 6 + i * 32
        shown = label if len(label) <= 44 else f"{label[:43]}…"
        parts.append(f'<text x="0" y="{y + 9}">{escape(shown)}</text>')
        long = max(2.0, count / most * (width - 40))
        parts.append(f'<rect x="0" y="{y + 13}" width="{long:.1f}" height="9" rx="2" fill="#3b6fd4"/>')
        parts.append(f'<text x="{long + 6:.1f}" y="{y + 21}">{count}</text>')
    return _svg(width, 10 + 32 * len(rows), "".join(parts))


def columns(counts: Sequence[int], width: int = 310, height: int = 110) -> str:
    """One column per episode."""
    most, step, floor = max([*counts, 1]), width / max(len(counts), 1), height - 18
    parts = [
        f'<rect x="{i * step:.1f}" y="{floor - count / most * (floor - 14):.1f}" width="{max(step - 2, 0.8):.1f}" '
        f'height="{count / most * (floor - 14):.1f}" fill="#3b6fd4"/>'
        for i, count in enumerate(counts)
    ]
    parts.append(f'<text x="0" y="10">up to {most}</text>')
    parts.append(f'<text x="{width}" y="{height - 4}" text-anchor="end">{len(counts)} episodes</text>')
    return _svg(width, height, "".join(parts))


def timeline(lines: Sequence[Line], marks: Sequence[float], width: int = 1020, height: int = 120) -> str:
    """Curves over one time axis in seconds; marks are times at which something was found."""
    start = min([float(line.times_s[0]) for line in lines] + list(marks))
    end = max([float(line.times_s[-1]) for line in lines] + list(marks))
    scale = width / max(end - start, 1e-6)
    floor = height - 36
    parts = [f'<rect width="{width}" height="{floor}" fill="#f8fafc"/>']
    for mark in marks:
        parts.append(
            f'<line x1="{(mark - start) * scale:.1f}" x2="{(mark - start) * scale:.1f}" y1="0" y2="{floor}" '
            'stroke="#dc2626" stroke-width="2"/>'
        )
    place = 0
    for line in lines:
        every = max(1, len(line.times_s) // MOST_POINTS)
        top = line.top or float(np.nanmax(line.values)) or 1.0
        points = " ".join(
            f"{(t - start) * scale:.1f},{floor - 3 - v / top * (floor - 8):.1f}"
            for t, v in zip(line.times_s[::every], line.values[::every], strict=True)
            if np.isfinite(v)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.color}" stroke-width="1.6"/>')
        parts.append(f'<rect x="{place}" y="{height - 12}" width="14" height="3" fill="{line.color}"/>')
        parts.append(f'<text x="{place + 19}" y="{height - 6}">{escape(line.label)}</text>')
        place += 40 + 6 * len(line.label)
    for second in range(int(np.ceil(start)), int(end) + 1, max(1, int((end - start) / 12))):
        if (second - start) * scale < 12:
            continue  # would be cut off
        parts.append(
            f'<text x="{(second - start) * scale:.1f}" y="{floor + 13}" text-anchor="middle">{second} s</text>'
        )
    return _svg(width, height, "".join(parts))
