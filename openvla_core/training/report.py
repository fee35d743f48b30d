"""One page about a training, complete in itself: curves, and what the model answers to pictures it did not train on."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from openvla_core.datasets.cameras import encode_png
from openvla_core.training.charts import LARGE, SMALL, Line, chart
from openvla_core.training.metrics import part_names
from openvla_core.training.watchers import History

MOST_SAMPLES = 12
_LEAST = {"x": 5.0, "y": 5.0, "z": 5.0, "roll": 1.0, "pitch": 1.0, "yaw": 1.0}  # full bars, in the units shown
STYLE = """
:root{--ink:#1d2430;--soft:#667085;--line:#e4e7ec;--page:#f7f8fa;--card:#fff;--train:#7aa7e8;--validation:#d9480f;
--true:#1f7a4d;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#2c3440;--page:#12161d;--card:#1a2029;
--train:#5b8fd9;--validation:#ff8a4c;--true:#4cc38a}}
body{margin:0 auto;padding:28px 20px 60px;max-width:1340px;background:var(--page);color:var(--ink);
font:14px/1.5 system-ui,sans-serif}
h1{font-size:22px;margin:0 0 2px}h2{font-size:16px;margin:30px 0 10px}p{margin:4px 0;color:var(--soft)}
.row{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(320px,1fr))}
.small{grid-template-columns:repeat(auto-fill,minmax(235px,1fr))}
.wide{grid-template-columns:repeat(auto-fill,minmax(290px,1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
.chart{width:100%;height:auto;display:block}.title{font-size:13px;font-weight:600;fill:var(--ink)}
.tick{font-size:10.5px;fill:var(--soft)}.grid{stroke:var(--line)}.line{fill:none;stroke-width:1.8}
.line.training{stroke:var(--train)}.line.validation{stroke:var(--validation)}
.dot.training{fill:var(--train)}.dot.validation{fill:var(--validation)}
.key{display:inline-block;width:22px;height:3px;vertical-align:middle;margin:0 6px 0 14px;border-radius:2px}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:10px 18px;margin:14px 0 0}
dt{color:var(--soft);font-size:12px}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.sample img{width:100%;image-rendering:auto;border-radius:5px;display:block;background:var(--line)}
.sample b{display:block;margin:8px 0 4px}table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:1px 3px;white-space:nowrap;text-align:right;font-weight:400;font-size:12px}
td:first-child,th:first-child{text-align:left}
th{color:var(--soft)}td svg{width:72px;height:14px;display:block}
.p{fill:var(--validation)}.t{fill:var(--true)}.z{stroke:var(--soft)}
"""


def report_html(title: str, card: Mapping[str, Any], history: History) -> str:
    """The page. card: the training card; history: the figures and the samples of the last validation."""
    units = physical_units(card.get("convention"))
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1><p>{escape(_sentence(card))}</p>",
            _facts(card),
            "<h2>Curves</h2><p><span class='key' style='background:var(--train)'></span>training"
            "<span class='key' style='background:var(--validation)'></span>validation, on held-out episodes</p>",
            _curves(history, units),
            _samples(history.samples, units),
            "</body></html>\n",
        ]
    )


def physical_units(convention: Mapping[str, Any] | None) -> dict[str, tuple[str, float]]:
    """Name of a number of the action -> unit to show it in, and how many of them one unit of the data set is."""
    if not convention:
        return {}
    metres = float(convention.get("translation_scale", 1.0))
    units = dict.fromkeys(("x", "y", "z"), ("mm", 1000.0 * metres))
    if convention.get("rotation", "rotation_vector") != "none":
        degrees = math.degrees(float(convention.get("rotation_scale", 1.0)))
        units |= dict.fromkeys(("roll", "pitch", "yaw"), ("°", degrees))
    return units


def _sentence(card: Mapping[str, Any]) -> str:
    data = card.get("data", {})
    return (
        f"{card.get('strategy', '?')} for {card.get('steps', 0):,} steps on {data.get('episodes', 0):,} episodes "
        f"({data.get('steps', 0):,} frames) of {', '.join(data.get('names', [])) or 'no data set'}, from "
        f"{card.get('base', '?')}. The samples are answers to single frames; whether the arm does as it is told "
        "shows in closed loop only."
    )


def _facts(card: Mapping[str, Any]) -> str:
    recipe, figures = card.get("recipe", {}), card.get("metrics", {})
    validation = figures.get("validation") or {}
    entries = {
        "ended": {"accuracy": "accurate enough", "max_steps": "step limit"}.get(str(card.get("reason")), "—"),
        "time": f"{card.get('seconds', 0) / 60:.1f} min",
        "trained parameters": f"{card.get('trainable', 0):,}",
        "learning rate": f"{recipe.get('learning_rate', '—')}",
        "batch": f"{recipe.get('batch_size', '—')} × {recipe.get('accumulation', 1)} × {card.get('world', 1)}",
        "accuracy, held out": f"{validation['accuracy']:.1%}" if "accuracy" in validation else "—",
        "L1, held out": f"{validation['l1']:.4f}" if "l1" in validation else "—",
        "seed": f"{recipe.get('seed', '—')}",
        "hardware": f"{card.get('world', 1)} × {card.get('device', '—')}, {card.get('dtype', '—')}",
        "made with": ", ".join(f"{n} {v}" for n, v in card.get("versions", {}).items() if n in ("torch", "python")),
    }
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries.items())
    return f"<div class='card' style='margin-top:14px'><dl style='margin:0'>{cells}</dl></div>"


def _curves(history: History, units: Mapping[str, tuple[str, float]]) -> str:
    big = [
        _chart(history, "loss", "loss", low=0.0),
        _chart(history, "accuracy", "share of right action tokens", low=0.0, high=1.0),
        _chart(history, "l1", "L1 of the action in [-1, 1]", low=0.0),
    ]
    names = dict.fromkeys(name for event in history.events for name in event if name.startswith("l1_"))
    small = []
    for name in names:
        unit, factor = units.get(name.removeprefix("l1_"), ("", 1.0))
        title = f"L1 of {name.removeprefix('l1_')}" + (f", {unit}" if unit else "")
        small.append(_chart(history, name, title, low=0.0, factor=factor, size=SMALL))
    parts = f"<h2>Per number of the action</h2><div class='row small'>{''.join(small)}</div>" if small else ""
    return f"<div class='row'>{''.join(big)}</div>{parts}"


def _chart(
    history: History,
    name: str,
    title: str,
    low: float | None = None,
    high: float | None = None,
    factor: float = 1.0,
    size: tuple[int, int] = LARGE,
) -> str:
    lines = [
        Line(label, [(step, factor * value) for step, value in history.curve(kind, name)], dots=kind == "validation")
        for kind, label in (("step", "training"), ("validation", "validation"))
    ]
    return f"<div class='card'>{chart(title, lines, low, high, size)}</div>"


def _samples(samples: Sequence[Mapping[str, Any]], units: Mapping[str, tuple[str, float]]) -> str:
    if not samples:
        return "<h2>Samples</h2><p>No episode was held out, so there is nothing to show.</p>"
    shown = [samples[round(i)] for i in np.linspace(0, len(samples) - 1, min(len(samples), MOST_SAMPLES))]
    dimensions = max(len(sample["true"]) for sample in shown)
    values = [[*sample[key], *[0.0] * dimensions][:dimensions] for sample in shown for key in ("predicted", "true")]
    largest = np.abs(np.array(values, dtype=np.float64)).max(axis=0)
    # Noise about zero is not drawn as large as a motion.
    small = [_LEAST.get(name, 0.0) / units.get(name, ("", 1.0))[1] for name in part_names(dimensions)]
    cards = "".join(_sample(sample, units, np.maximum(largest, small)) for sample in shown)
    return (
        "<h2>Samples of held-out episodes</h2><p>"
        "<span class='key' style='background:var(--validation);margin-left:0'></span>predicted"
        f"<span class='key' style='background:var(--true)'></span>true</p><div class='row wide'>{cards}</div>"
    )


def _sample(sample: Mapping[str, Any], units: Mapping[str, tuple[str, float]], largest: np.ndarray) -> str:
    picture = base64.b64encode(encode_png(np.ascontiguousarray(sample["image"]))).decode("ascii")
    rows = []
    for place, name in enumerate(part_names(len(sample["true"]))):
        unit, factor = units.get(name, ("", 1.0))
        predicted, true = (float(sample[key][place]) for key in ("predicted", "true"))
        bar = _bars(predicted, true, float(largest[place]))
        numbers = "".join(f"<td>{_short(factor * value)}</td>" for value in (predicted, true))
        rows.append(f"<tr><td>{escape(name)}</td><td>{bar}</td>{numbers}<td>{unit}</td></tr>")
    return (
        f"<div class='card sample'><img alt='' src='data:image/png;base64,{picture}'>"
        f"<b>{escape(str(sample['instruction']))}</b><table><tr><th></th><th></th><th>predicted</th><th>true</th>"
        f"<th></th></tr>{''.join(rows)}</table></div>"
    )


def _short(value: float) -> str:
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _bars(predicted: float, true: float, largest: float) -> str:
    """Both numbers as bars from the middle, to the same scale on all samples."""
    parts = []
    for kind, y, value in (("p", 1, predicted), ("t", 8, true)):
        length = 46.0 * min(1.0, abs(value) / largest) if largest > 0 and math.isfinite(value) else 0.0
        parts.append(
            f'<rect class="{kind}" x="{48 - length if value < 0 else 48:.1f}" y="{y}" width="{length:.1f}" height="5"/>'
        )
    return f'<svg viewBox="0 0 96 14">{"".join(parts)}<line class="z" x1="48" x2="48" y1="0" y2="14"/></svg>'
