"""The report as one HTML file: findings, the set in plots, a strip per episode. Drawn as SVG, without a script."""

import base64
from collections import Counter
from html import escape

import numpy as np

from openvla_core.datasets.check import plots
from openvla_core.datasets.check.distribution import NAMES, bridge_quantiles, in_units
from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.findings import ERROR, KINDS, WARNING, Finding
from openvla_core.datasets.check.gripper import measured_opening
from openvla_core.datasets.check.instructions import coverage
from openvla_core.datasets.check.motion_energy import signals
from openvla_core.datasets.check.run import Report

MOST_EPISODES = 60  # strips; those with findings come first
MOST_SENTENCES = 24
SHORTEST_SHOWN_S = 0.4  # of a curve

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #f5f7fa; margin: 0 auto; max-width: 1060px;
  padding: 24px 28px 60px; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 32px 0 10px; }
.quiet { color: #64748b; } .cards { display: flex; gap: 12px; margin: 18px 0; flex-wrap: wrap; }
.card { background: #fff; border-radius: 8px; padding: 12px 18px; min-width: 120px; box-shadow: 0 1px 2px #0002; }
.card b { display: block; font-size: 24px; font-weight: 650; line-height: 1.25; }
.box { background: #fff; border-radius: 8px; padding: 14px 18px; box-shadow: 0 1px 2px #0002; margin-bottom: 12px; }
.tag { display: inline-block; border-radius: 4px; padding: 0 7px; font: 600 12px/20px ui-monospace, monospace; }
.error { background: #fde3e1; color: #a3231a; } .warning { background: #fdf0cf; color: #7a5200; }
.fine { background: #dcf3e4; color: #14663a; }
.advice { color: #475569; } ul { margin: 6px 0 2px; padding-left: 20px; } li { margin: 1px 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 12px; }
.strip { display: flex; gap: 6px; margin-top: 8px; } .strip img { height: 68px; border-radius: 4px; }
svg { display: block; max-width: 100%; } svg text { font: 11px system-ui, sans-serif; fill: #64748b; }
"""


def html(report: Report) -> str:
    """The whole report as one page that needs no other file."""
    errors, warnings = report.count(ERROR), report.count(WARNING)
    seconds = sum(float(e.episode.times_s[-1]) for e in report.evidences if e.episode is not None and len(e.episode))
    figures = [
        (len(report.evidences), "episodes", ""), (report.steps, "steps", ""), (f"{seconds / 60:.1f}", "minutes", ""),
        (errors, "error" if errors == 1 else "errors", "error" if errors else "fine"),
        (warnings, "warning" if warnings == 1 else "warnings", "warning" if warnings else "fine"),
    ]  # fmt: skip
    cards = "".join(f'<div class="card {style}"><b>{value}</b>{label}</div>' for value, label, style in figures)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(report.name)}: data set check</title><style>{STYLE}</style>"
        f'<h1>{escape(report.name)}</h1><div class="quiet">data set check</div><div class="cards">{cards}</div>'
        f"{_findings(report)}{_set_plots(report)}{_episodes(report)}</html>"
    )


def _findings(report: Report) -> str:
    if not report.findings:
        return '<h2>Findings</h2><div class="box">Nothing was found.</div>'
    parts = ["<h2>Findings</h2>"]
    for code in dict.fromkeys(finding.code for finding in report.findings):
        kind = KINDS[code]
        found = [finding for finding in report.findings if finding.code == code]
        items = "".join(f"<li>{_sentence(finding)}</li>" for finding in found[:MOST_SENTENCES])
        more = f"<li>and {len(found) - MOST_SENTENCES} more</li>" if len(found) > MOST_SENTENCES else ""
        parts.append(
            f'<div class="box"><span class="tag {kind.severity}">{code}</span> <b>{escape(kind.title)}</b>'
            f'<ul>{items}{more}</ul><div class="advice">→ {escape(kind.advice)}</div></div>'
        )
    return "".join(parts)


def _sentence(finding: Finding) -> str:
    where = (
        f'<a href="#{escape(finding.episode, quote=True)}">{escape(finding.episode)}</a>'
        if finding.episode
        else "the set"
    )
    time = "" if finding.time_s is None else f" at {finding.time_s:.1f} s"
    return f"{where}{time}: {escape(finding.sentence)}"


def _set_plots(report: Report) -> str:
    usable = [e for e in report.evidences if e.episode is not None and np.isfinite(e.episode.actions).all()]
    parts = []
    rows, rate_hz = in_units(usable)
    if len(rows):
        low, high = bridge_quantiles(rate_hz)
        for i in range(6):
            unit = "m" if i < 3 else "rad"
            drawing = plots.histogram(rows[:, i], (float(low[i]), float(high[i])), unit)
            parts.append(f'<div class="box"><b>{NAMES[i]}</b> <span class="quiet">per step</span>{drawing}</div>')
    sentences = f'<div class="box"><b>Episodes per instruction</b>{plots.bars(coverage(report.evidences)[:12])}</div>'
    lengths = [(e.name, len(e.episode)) for e in report.evidences if e.episode is not None]
    columns = plots.columns([count for _, count in lengths])
    steps = f'<div class="box"><b>Steps per episode</b>{columns}</div>' if lengths else ""
    note = (
        '<div class="quiet">Shaded: 1 % to 99 % of bridge_orig at this rate. Dotted: 1 % and 99 % of this set.</div>'
        if parts
        else ""
    )
    return f'<h2>The set</h2>{note}<div class="plots">{"".join(parts)}{sentences}{steps}</div>'


def _episodes(report: Report) -> str:
    counts = Counter(finding.episode for finding in report.findings)
    chosen = sorted(report.evidences, key=lambda e: -min(counts[e.name], 1))[:MOST_EPISODES]
    left_out = len(report.evidences) - len(chosen)
    more = f'<div class="quiet">{left_out} more episodes without findings are not drawn.</div>' if left_out else ""
    return f"<h2>Episodes</h2>{''.join(_episode(e, report) for e in chosen)}{more}"


def _episode(evidence: Evidence, report: Report) -> str:
    own = [finding for finding in report.findings if finding.episode == evidence.name]
    tags = "".join(f'<span class="tag {f.kind.severity}">{f.code}</span> ' for f in own)
    tags = tags or '<span class="tag fine">clean</span>'
    sentence = evidence.episode.instruction if evidence.episode is not None else ""
    images = evidence.pictures.thumbnails if evidence.pictures is not None else []
    strip = "".join(
        f'<img alt="at {time:.1f} s" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for time, data in images
    )
    marks = [f.time_s for f in own if f.time_s is not None]
    return (
        f'<div class="box" id="{escape(evidence.name, quote=True)}"><b>{escape(evidence.name)}</b> '
        f'<span class="quiet">{escape(sentence)}</span> {tags}{_timeline(evidence, marks)}'
        f'<div class="strip">{strip}</div></div>'
    )


def _timeline(evidence: Evidence, marks: list[float]) -> str:
    """Speed, motion in the picture and gripper over time, each scaled to its own largest value."""
    found = signals(evidence, SHORTEST_SHOWN_S)
    lines = []
    if found is not None:
        grid, energy, speed = found
        lines.append(plots.Line(grid, speed, "#2563eb", f"tool speed, up to {speed.max():.2f} m/s"))
        lines.append(plots.Line(grid, energy, "#f59e0b", "motion in the picture"))
    gripper = measured_opening(evidence.recording) if evidence.recording is not None else None
    if gripper is not None and len(gripper):
        times = np.array([evidence.seconds(stamp) for stamp in gripper.stamps_ns])
        lines.append(plots.Line(times, np.clip(gripper.values[:, 0], 0, 1), "#16a34a", "gripper opening", top=1.0))
    return plots.timeline(lines, marks) if lines else ""
