"""Workers of a loader are forked from a process that may have read before: what it has open is not theirs."""

import hashlib
import os
from itertools import islice

import bag_tools
import pytest
from demonstrations import episodes
from rosbags.rosbag2 import StoragePlugin

from openvla_core.datasets.bags.reader import BagSource
from openvla_core.datasets.convert import convert, open_source
from openvla_core.datasets.per_process import PerProcess
from openvla_core.datasets.streaming.loader import StreamingLoader
from openvla_core.datasets.streaming.sources import EpisodeSteps


def seen(step, rng):
    """Which step, and its picture."""
    return step.episode, step.index, hashlib.sha256(step.pixels().tobytes()).hexdigest()


def bags(tmp_path, plugin):
    scribe = bag_tools.Scribe()
    for number in (1, 2):
        scribe.write(bag_tools.demonstration(number), tmp_path / "bags", plugin)
    return BagSource(tmp_path / "bags")


def mcap(tmp_path):
    return bags(tmp_path, StoragePlugin.MCAP)


def sqlite(tmp_path):
    return bags(tmp_path, StoragePlugin.SQLITE3)


def video(tmp_path):
    convert(episodes(3), tmp_path / "filmed", "lerobot", video=True)
    return open_source(tmp_path / "filmed")


@pytest.mark.parametrize("recorded", [mcap, sqlite, video])
def test_workers_see_the_pictures_that_the_process_before_them_had_open(tmp_path, recorded):
    """With a shared handle, three processes move one place in the file: wrong pictures, "damage", or a standstill."""
    steps = EpisodeSteps(recorded(tmp_path))
    expected = {seen(steps[index], None) for index in range(len(steps))}
    stream = StreamingLoader([steps], seen, list, 4, workers=2, prefetch=8)
    batches = []
    for batch in islice(stream, 3 * stream.batches_per_epoch):
        steps[len(batches) % len(steps)].pixels()  # the first process goes on reading, too
        batches.append(batch)
    assert {tuple(sample) for batch in batches for sample in batch} == expected


def test_a_forked_process_leaves_what_it_inherited_alone():
    closed = []
    held = PerProcess(lambda: os.getpid(), lambda owner: closed.append((os.getpid(), owner)))
    assert held() == held() == os.getpid()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        own = held() == os.getpid()
        held.close()
        os.write(write, b"good" if own and closed == [(os.getpid(), os.getpid())] else b"bad!")
        os._exit(0)
    assert os.read(read, 4) == b"good"
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert closed == []
    held.close()
    assert closed == [(os.getpid(), os.getpid())]
