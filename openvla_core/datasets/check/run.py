"""`openvla dataset check`: every family of checks over every episode, and what it found in words and pictures."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_core.config import settings_from_mapping
from openvla_core.datasets.bags.reader import ReadingSettings, find_bags, load_settings
from openvla_core.datasets.check import (
    consistency,
    distribution,
    facts,
    gripper,
    images,
    instructions,
    motion,
    motion_energy,
    poses,
    timing,
)
from openvla_core.datasets.check.evidence import Evidence, from_bag, from_episode
from openvla_core.datasets.check.findings import ERROR, WARNING, Finding
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.datasets.episode import Episode
from openvla_core.errors import DatasetError, OpenVLAError

OPEN_FOLDER = ".open"
PER_EPISODE = (facts.check, timing.check, poses.check, motion.check, gripper.check, images.check, motion_energy.check)
PER_SET = (consistency.check, instructions.check, distribution.check, motion_energy.check_set)
EXIT_CLEAN, EXIT_ERRORS, EXIT_UNUSABLE = 0, 1, 2


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found: errors first, then by episode."""

    name: str
    evidences: Sequence[Evidence]
    findings: Sequence[Finding]

    def count(self, severity: str) -> int:
        """Findings of this severity."""
        return sum(finding.kind.severity == severity for finding in self.findings)

    @property
    def steps(self) -> int:
        """Steps of all episodes."""
        return sum(len(e.episode) for e in self.evidences if e.episode is not None)


def check_bags(
    root: str | Path, reading: ReadingSettings | None = None, settings: CheckSettings | None = None
) -> Report:
    """Checks every bag in a folder, unfinished ones too. Raises DatasetError when there is none."""
    root = Path(root)
    paths = find_bags(root)
    # A folder with bag files but no metadata.yaml is a recording that was never finished.
    unfinished = {path.parent for kind in ("*.mcap", "*.db3") for path in root.rglob(kind)} if root.is_dir() else set()
    hidden = {path for path in unfinished if any(part.startswith(".") for part in path.relative_to(root).parts)}
    paths = sorted({*paths, *(unfinished - hidden)})
    if not paths and not hidden:
        raise DatasetError(f"no bags in {root}. Expected folders that hold a metadata.yaml and an .mcap or .db3 file.")
    evidences = [from_bag(path, reading or ReadingSettings()) for path in paths]
    findings = [
        Finding("EPISODE_OPEN", f"{path.name} was never ended; expected success, failure or discard", path.name)
        for path in sorted(hidden)
    ]
    return check_evidence(root.resolve().name, evidences, settings, findings)


def check_path(
    path: str | Path, reading: ReadingSettings | None = None, settings: CheckSettings | None = None
) -> Report:
    """Checks bags, or a data set of another format that is read here. Raises DatasetError when there is neither."""
    from openvla_core.datasets.convert import detect, open_source

    path = Path(path)
    if path.is_dir() and not find_bags(path):
        try:
            kind = detect(path)
        except DatasetError:
            kind = "bags"
        if kind != "bags":
            source = open_source(path, kind)
            return check_episodes(source.name, source, settings)
    return check_bags(path, reading, settings)


def check_episodes(name: str, episodes: Iterable[Episode], settings: CheckSettings | None = None) -> Report:
    """Checks episodes of any format: what needs raw streams, such as clocks, is left out."""
    return check_evidence(name, [from_episode(episode) for episode in episodes], settings)


def check_evidence(
    name: str,
    evidences: Sequence[Evidence],
    settings: CheckSettings | None = None,
    findings: Sequence[Finding] = (),
) -> Report:
    """Runs all families over what was gathered."""
    settings = settings or CheckSettings()
    found = [*findings, *(finding for evidence in evidences for finding in check_episode(evidence, settings))]
    found += check_set(evidences, settings)
    return Report(name, evidences, sorted(found, key=lambda f: (f.kind.severity != ERROR, f.episode, f.code)))


def check_episode(evidence: Evidence, settings: CheckSettings) -> list[Finding]:
    """What is wrong with one episode by itself."""
    own = [finding for check in PER_EPISODE for finding in check(evidence, settings)]
    explained = any(f.kind.severity == ERROR and f.code != "EPISODE_UNUSABLE" for f in own)
    return [f for f in own if not (f.code == "EPISODE_UNUSABLE" and explained)]


def check_set(evidences: Sequence[Evidence], settings: CheckSettings) -> list[Finding]:
    """What is wrong with the episodes as a set."""
    return [finding for check in PER_SET for finding in check(evidences, settings)]


def text(report: Report) -> str:
    """The report for a terminal: one line per finding, then what to do about each kind."""
    lines = [f"{report.name}: {len(report.evidences)} episodes, {report.steps} steps"]
    for finding in report.findings:
        where = finding.episode or "the set"
        time = "" if finding.time_s is None else f" at {finding.time_s:.1f} s"
        lines.append(f"  {finding.kind.severity:7s} {finding.code:22s} {where}{time}: {finding.sentence}")
    for code, count in Counter(finding.code for finding in report.findings).most_common():
        kind = next(finding.kind for finding in report.findings if finding.code == code)
        lines.append(f"  {code} ({count}): {kind.title}. {kind.advice}")
    lines.append(f"{report.count(ERROR)} errors, {report.count(WARNING)} warnings")
    return "\n".join(lines)


def to_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "name": report.name,
        "episodes": len(report.evidences),
        "steps": report.steps,
        "errors": report.count(ERROR),
        "warnings": report.count(WARNING),
        "findings": [
            {
                "code": f.code, "severity": f.kind.severity, "episode": f.episode, "time_s": f.time_s,
                "sentence": f.sentence, "advice": f.kind.advice,
            }
            for f in report.findings
        ],
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 without errors, 1 with errors, 2 when nothing could be checked."""
    parser = argparse.ArgumentParser(prog="openvla dataset check", description="Finds mistakes in recorded episodes.")
    parser.add_argument("root", help="bags, one .mcap or .db3 file, or a LeRobot, RLDS or HDF5 data set")
    parser.add_argument("--settings", help="YAML file with topics and how to read the bags")
    parser.add_argument("--limits", help="YAML file with limits of the checks")
    parser.add_argument("--html", help="write the report with plots to this file")
    parser.add_argument("--json", help="write the findings for programs to this file")
    parser.add_argument("--warnings-are-errors", action="store_true", help="exit status 1 for warnings too")
    options = parser.parse_args(argv)
    write = sys.stdout.write
    try:
        reading = load_settings(options.settings) if options.settings else None
        report = check_path(options.root, reading, _limits(options.limits))
        if options.html:
            from openvla_core.datasets.check.report_html import html

            Path(options.html).write_text(html(report), encoding="utf-8")
        if options.json:
            Path(options.json).write_text(json.dumps(to_json(report), indent=1) + "\n", encoding="utf-8")
    except (OpenVLAError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_UNUSABLE
    write(text(report) + "\n")
    if options.html:
        write(f"report: {options.html}\n")
    wrong = report.count(ERROR) + (report.count(WARNING) if options.warnings_are_errors else 0)
    return EXIT_ERRORS if wrong else EXIT_CLEAN


def _limits(path: str | None) -> CheckSettings | None:
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise DatasetError(f"the limits {path} cannot be read: {str(error)[:300]}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"the limits {path} must hold names and values.")
    return settings_from_mapping(CheckSettings, values)
