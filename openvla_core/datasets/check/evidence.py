"""All that is known about one episode, gathered once; every family of checks reads it and nothing else."""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.conventions import ActionConvention, convention_from_mapping
from openvla_core.datasets.bags.file import open_bag
from openvla_core.datasets.bags.frames import pictures_of
from openvla_core.datasets.bags.reader import ReadingSettings, build_episode, card_of
from openvla_core.datasets.bags.recording import METADATA_FILE, Recording, recording_in
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.pictures import Pictures, measure
from openvla_core.datasets.episode import PRIMARY, Episode
from openvla_core.errors import ConventionError, DatasetError, OpenVLAError

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Evidence:
    """One episode as a bag, as steps and as pictures; what could not be had is None, and why is in `problems`.

    episode: nothing trimmed from it. card: what its actions mean.
    """

    name: str
    recording: Recording | None = None
    episode: Episode | None = None
    card: ActionConvention | None = None
    pictures: Pictures | None = None
    problems: tuple[Finding, ...] = field(default=())

    def seconds(self, stamp_ns: float) -> float:
        """A stamp as seconds from the first frame."""
        streams: Mapping = self.recording.streams if self.recording is not None else {}
        first = int(streams[PRIMARY].stamps_ns.min()) if PRIMARY in streams and len(streams[PRIMARY]) else 0
        return float(stamp_ns - first) / NS_PER_S


def from_bag(path: Path, settings: ReadingSettings) -> Evidence:
    """Reads one bag as far as it goes; never raises an OpenVLAError."""
    name = path.name
    if path.is_dir() and not (path / METADATA_FILE).is_file():
        return Evidence(name, problems=(Finding("BAG_UNFINISHED", f"{name} has no {METADATA_FILE}", name),))
    try:
        with closing(open_bag(path)) as bag:
            evidence = _streams_and_pictures(bag, settings)
    except DatasetError as error:
        return Evidence(name, problems=(Finding(_reading_code(str(error)), str(error), name),))
    recording = evidence.recording
    if recording is None or any(problem.code == "BAG_EMPTY" for problem in evidence.problems):
        return evidence
    with suppress(OpenVLAError):
        evidence = replace(evidence, card=card_of(recording, settings))
    if {PRIMARY, "pose"} <= set(recording.streams) and evidence.card is not None:
        whole = replace(settings, trim_idle=False, noop_norm=0.0)
        try:
            evidence = replace(evidence, episode=build_episode(recording, whole))
        except OpenVLAError as error:
            finding = Finding("EPISODE_UNUSABLE", str(error), evidence.name)
            evidence = replace(evidence, problems=(*evidence.problems, finding))
    return evidence


def _streams_and_pictures(bag: Any, settings: ReadingSettings) -> Evidence:
    """What is in an open bag. Raises DatasetError when its streams cannot be read."""
    recording = recording_in(bag, settings.topics)
    evidence = Evidence(recording.name, recording)
    if not sum(count for _, count in recording.topics.values()):
        return replace(evidence, problems=(Finding("BAG_EMPTY", "0 messages in the bag", recording.name),))
    if PRIMARY not in recording.streams:
        return evidence
    camera = recording.streams[PRIMARY]
    times = np.array([evidence.seconds(stamp) for stamp in camera.stamps_ns])
    try:
        return replace(evidence, pictures=measure(pictures_of(bag, camera), times))
    except DatasetError as error:
        return replace(evidence, problems=(Finding("BAG_DAMAGED", str(error), recording.name),))


def from_episode(episode: Episode) -> Evidence:
    """An episode of any other format: without raw streams, so only its steps and pictures are looked at."""
    card = None
    if episode.convention is not None:
        with suppress(ConventionError):
            card = convention_from_mapping(episode.convention, episode.name)
    frames = episode.images.get(PRIMARY)
    pictures = None
    if frames is not None:
        pictures = measure((_picture(frames, i) for i in range(len(frames))), episode.times_s)
    return Evidence(episode.name, None, episode, card, pictures)


def _picture(frames, index: int) -> np.ndarray | Exception:
    try:
        return frames[index]
    except OpenVLAError as error:
        return error


def _reading_code(sentence: str) -> str:
    if "could be any of" in sentence:
        return "TOPIC_AMBIGUOUS"
    return "TYPE_WRONG" if "has the type" in sentence else "BAG_DAMAGED"
