"""Line charts as SVG text, for a report that is one file and needs no program to be looked at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 30
TICKS = 4
LARGE, SMALL = (420, 220), (250, 150)  # width and height


@dataclass(frozen=True)
class Line:
    """points: (step, value). name: for the legend and, as a class, for the style sheet."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    low: float | None = None,
    high: float | None = None,
    size: tuple[int, int] = LARGE,
) -> str:
    """An SVG element. low, high: of the value axis; None takes them from the points.

    Points that are not finite are left out; without any point, the chart says so.
    """
    width, height = size
    lines = [Line(line.name, [p for p in line.points if math.isfinite(p[1])], line.dots) for line in lines]
    points = [point for line in lines for point in line.points]
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>',
    ]
    if not points:
        parts.append(
            f'<text class="tick" x="{width / 2}" y="{height / 2}" text-anchor="middle">nothing measured</text>'
        )
        return "".join([*parts, "</svg>"])
    axes = _Axes.around(points, low, high, size)
    parts += axes.grid()
    for line in lines:
        parts += _drawn(line, axes)
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axes:
    first: float
    last: float
    bottom: float
    step: float  # between two marks of the value axis
    marks: int
    size: tuple[int, int]

    @classmethod
    def around(
        cls, points: Sequence[tuple[float, float]], low: float | None, high: float | None, size: tuple[int, int]
    ) -> "_Axes":
        bottom = min(value for _, value in points) if low is None else low
        top = max(value for _, value in points) if high is None else high
        if top <= bottom:
            top = bottom + (abs(bottom) or 1.0)
        step = nice_step((top - bottom) / TICKS)
        start = math.floor(bottom / step + 1e-9) * step
        marks = max(1, math.ceil((top - start) / step - 1e-9))
        steps = [step for step, _ in points]
        return cls(min(steps), max(max(steps), min(steps) + 1), start, step, marks, size)

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / (self.last - self.first) * (self.size[0] - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.marks * self.step)
        return self.size[1] - BOTTOM - min(1.0, max(0.0, share)) * (self.size[1] - TOP - BOTTOM)

    def grid(self) -> list[str]:
        parts = []
        for mark in range(self.marks + 1):
            value = self.bottom + mark * self.step
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.size[0] - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            place = f'x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end"'
            parts.append(f'<text class="tick" {place}>{_number(value, self.step)}</text>')
        for step, anchor in ((self.first, "start"), (self.last, "end")):
            place = f'x="{self.x(step):.1f}" y="{self.size[1] - 12}" text-anchor="{anchor}"'
            parts.append(f'<text class="tick" {place}>{step:,.0f}</text>')
        middle = (LEFT + self.size[0] - RIGHT) / 2
        return [*parts, f'<text class="tick" x="{middle}" y="{self.size[1] - 12}" text-anchor="middle">step</text>']


def nice_step(raw: float) -> float:
    """The next of 1, 2, 5, 10, ... times a power of ten that is not below `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0, 20.0) if factor * power >= raw * (1 - 1e-9))


def _drawn(line: Line, axes: _Axes) -> list[str]:
    places = [(axes.x(step), axes.y(value)) for step, value in line.points]
    parts = []
    if len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {escape(line.name)}" points="{path}"/>')
    if line.dots or len(places) == 1:
        parts += [f'<circle class="dot {escape(line.name)}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return parts


def _number(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
