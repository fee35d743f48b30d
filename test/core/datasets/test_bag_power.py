"""Death at every single call to the disk while an episode is committed or repaired: nothing confirmed is ever lost."""

import os
from pathlib import Path

import bag_bench
import pytest

from openvla_core.datasets.bags import writer as bag_writer
from openvla_core.datasets.bags.repair import repair
from openvla_core.datasets.bags.store import EpisodeStore

CALLS = ("write", "fsync", "fdatasync", "replace", "rename", "unlink", "open")
COUNT = 4


class Killed(BaseException):
    """The process is gone."""


class Reaper:
    """Lets a number of calls to the disk through and dies at the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, survived: int) -> None:
        self.left = survived
        self.descriptors: set[int] = set()
        for name in CALLS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        close = os.close
        monkeypatch.setattr(os, "close", lambda number: (self.descriptors.discard(number), close(number))[1])

    def counted(self, call):
        def deadly(*arguments, **options):
            if self.left == 0:
                raise Killed
            self.left -= 1
            result = call(*arguments, **options)
            if call.__name__ == "open":
                self.descriptors.add(result)
            return result

        return deadly


def die_after(survived: int, act) -> bool:
    """Runs `act` and kills it after so many calls to the disk; True when it was killed."""
    with pytest.MonkeyPatch.context() as patch:
        reaper = Reaper(patch, survived)
        try:
            act()
        except Killed:
            killed = True
        else:
            killed = False
    if killed:
        for descriptor in reaper.descriptors:  # as the operating system does for the dead
            os.close(descriptor)
    return killed


def flushed_episode(root: Path):
    """An open episode whose messages have reached the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bag_writer, "FLUSH_S", 0.0)
        episode = bag_bench.begin(root)
        bag_bench.fill(episode, COUNT)
    return episode


def test_dying_at_any_step_of_a_commit_leaves_one_whole_episode(tmp_path):
    earlier = bag_bench.record(tmp_path / "root", 3)
    outcomes = set()
    survived, killed = 0, True
    while killed:
        root = tmp_path / "root"
        episode = flushed_episode(root)
        killed = die_after(survived, lambda episode=episode: episode.commit({"outcome": "success"}))
        if killed:
            episode.leave()
        confirmed = not killed
        results = repair(root)
        assert all(result.action in ("repaired", "committed") for result in results), results
        folder = root / episode.name
        assert len(bag_bench.read(folder)[bag_bench.TEXT]) == COUNT
        outcome = bag_bench.custom_data(folder)["openvla.outcome"]
        assert outcome == "success" or not confirmed
        outcomes.add(outcome)
        assert EpisodeStore(root).left_open() == []
        survived += 1
    assert survived > 8, "the commit makes more calls than that"
    assert outcomes == {"success", "unknown"}
    assert len(bag_bench.read(earlier)[bag_bench.TEXT]) == 3


def test_dying_at_any_step_of_a_repair_loses_nothing(tmp_path):
    survived, killed = 0, True
    while killed:
        root = tmp_path / str(survived)
        episode = flushed_episode(root)
        episode.leave()
        killed = die_after(survived, lambda root=root: repair(root))
        repair(root)
        (folder,) = EpisodeStore(root).committed()
        assert len(bag_bench.read(folder)[bag_bench.TEXT]) == COUNT
        assert bag_bench.custom_data(folder)["openvla.outcome"] == "unknown"
        assert EpisodeStore(root).left_open() == []
        survived += 1
    assert survived > 8


def test_dying_while_an_episode_begins_leaves_nothing_in_the_way(tmp_path):
    survived, killed = 0, True
    while killed:
        root = tmp_path / str(survived)
        killed = die_after(survived, lambda root=root: bag_bench.begin(root).leave())
        assert {result.action for result in repair(root)} <= {"empty"}
        assert EpisodeStore(root).left_open() == EpisodeStore(root).committed() == []
        assert bag_bench.record(root, 2).is_dir()
        survived += 1
    assert survived > 3
