"""The stream of batches: a function of mixture, seed and place, whoever computes it and however it is interrupted."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from made_episodes import made
from train_like import BATCH_SIZE, WEIGHTS, example, loader

from openvla_core.datasets.streaming.loader import StreamingLoader, sample_rng
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.sources import EpisodeSteps
from openvla_core.errors import DatasetError

# Three workers on a machine of two cores are a fact of the test, not a mistake in it.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SCRIPT = Path(__file__).with_name("train_like.py")
LENGTHS = {"one": [9, 14, 11, 12, 7], "two": [6, 5, 8], "three": [20, 21]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three data sets as shards of ten steps."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, lengths in LENGTHS.items():
        write_shards(made(name, lengths), folder / name, name, shard_steps=10)
    return folder


def first(stream: StreamingLoader, batches: int) -> list:
    return list(islice(stream, batches))


def samples(batches: list) -> list[tuple]:
    return [tuple(sample) for batch in batches for sample in batch]


def test_workers_change_nothing(folder):
    assert first(loader(folder, 0, 1, workers=3), 20) == first(loader(folder, 0, 1, workers=0), 20)


def test_two_ranks_see_what_one_would(folder):
    alone = samples(first(loader(folder, 0, 1, workers=0), 24))
    ranks = [first(loader(folder, rank, 2, workers=0), 12) for rank in (0, 1)]
    assert samples([batch for pair in zip(*ranks, strict=True) for batch in pair]) == alone


@pytest.mark.parametrize("window", [0, 2])
def test_an_epoch_holds_every_data_set_in_its_share_and_primary_ones_whole(folder, window):
    stream = loader(folder, 0, 1, workers=0, window=window)
    drawn = samples(first(stream, stream.batches_per_epoch))[: stream.mixture.epoch_length]
    counts = Counter(name for name, *_ in drawn)
    assert counts == {"one": 53, "two": 38, "three": 4}
    steps = Counter((name, episode, step) for name, episode, step, *_ in drawn)
    assert len([key for key in steps if key[0] == "one"]) == 53
    assert all(times == 2 for key, times in steps.items() if key[0] == "two")


def test_every_epoch_and_every_seed_has_an_order_of_its_own(folder):
    stream = loader(folder, 0, 1, workers=0)
    length = stream.mixture.epoch_length
    drawn = [sample[:3] for sample in samples(first(stream, 2 * stream.batches_per_epoch))]
    assert drawn[:length] != drawn[length : 2 * length]
    sources = [EpisodeSteps(made("one", LENGTHS["one"]))]
    orders = [samples(first(StreamingLoader(sources, example, list, 4, seed=seed), 5)) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


def test_augmentation_is_drawn_anew_in_every_epoch_and_again_after_a_restart(folder):
    stream = loader(folder, 0, 1, workers=0)
    draws = [sample[3] for sample in samples(first(stream, 2 * stream.batches_per_epoch))]
    assert len(set(draws)) == len(draws)
    assert sample_rng(7, 11).random() == sample_rng(7, 11).random() != sample_rng(8, 11).random()


@pytest.mark.parametrize("taken", [0, 1, 23, 24, 25, 61])
def test_a_state_continues_after_the_last_batch_that_was_handed_out(folder, taken):
    whole = first(loader(folder, 0, 1, workers=0), taken + 8)
    stream = loader(folder, 0, 1, workers=2 if taken == 23 else 0)
    assert first(stream, taken) == whole[:taken]
    state = json.loads(json.dumps(stream.state_dict()))
    again = loader(folder, 0, 1, workers=0)
    again.load_state_dict(state)
    assert first(again, 8) == whole[taken:]
    assert again.epoch == pytest.approx((taken + 8) * BATCH_SIZE / again.mixture.epoch_length)


def test_a_state_goes_to_another_number_of_ranks(folder):
    whole = samples(first(loader(folder, 0, 1, workers=0), 20))
    alone = loader(folder, 0, 1, workers=0)
    first(alone, 6)
    ranks = [loader(folder, rank, 2, workers=0) for rank in (0, 1)]
    for rank in ranks:
        rank.load_state_dict(alone.state_dict())
    pairs = zip(*[first(rank, 7) for rank in ranks], strict=True)
    assert samples([batch for pair in pairs for batch in pair]) == whole[6 * BATCH_SIZE :]


def test_killed_processes_continue_with_the_identical_sequence(folder, tmp_path):
    """Two ranks of three workers each, killed -9, not at the same batch; both go on as if nothing had been."""
    batches = 48
    outs = [tmp_path / f"rank{rank}.txt" for rank in (0, 1)]
    for last in (17, batches - 2):
        ranks = [start(folder, out, rank) for rank, out in enumerate(outs)]
        for rank, process in enumerate(ranks):
            run_until(process, last + rank)
        for process in ranks:
            os.kill(process.pid, signal.SIGKILL)
        for process in ranks:
            process.communicate()
            assert process.returncode == -signal.SIGKILL
    for rank, out in enumerate(outs):
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [number for number, _ in lines] == list(range(batches - 1 + rank))
        assert [batch for _, batch in lines] == first(loader(folder, rank, 2, workers=0), len(lines))


def start(folder: Path, out: Path, rank: int) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(out), str(rank), "2", "3"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def run_until(process: subprocess.Popen, last: int) -> None:
    """Lets the process take one batch after the other, up to number `last`."""
    assert process.stdout is not None
    assert process.stdin is not None
    number = -1
    while number < last:
        process.stdin.write("next\n")
        number = int(process.stdout.readline())


def test_a_program_that_keeps_a_loader_ends_and_its_workers_with_it(folder):
    """Workers outlive the signals of their group, but not the program: it would wait for them for ever."""
    program = (
        "import multiprocessing, os, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from train_like import loader\n"
        "from pathlib import Path\n"
        "stream = iter(loader(Path(sys.argv[1]), 0, 1, 2)); next(stream)\n"
        "workers = multiprocessing.active_children()\n"
        "for worker in workers: os.kill(worker.pid, signal.SIGTERM)\n"
        "for _ in range(20): next(stream)\n"
        "print(*(worker.pid for worker in workers if worker.is_alive()))\n"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), *paths], capture_output=True, text=True, timeout=120
    )
    pids = done.stdout.split()
    assert done.returncode == 0 and len(pids) == 2, done.stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_state_of_another_mixture_or_seed_is_refused(folder):
    stream = loader(folder, 0, 1, workers=0)
    state = stream.state_dict()
    for change in ({"seed": 8}, {"sizes": [1, 2, 3]}, {"weights": [1.0, 1.0, 1.0]}, {"samples": -1}, {"window": 0}):
        with pytest.raises(DatasetError, match=next(iter(change))):
            stream.load_state_dict({**state, **change})


def test_weights_must_name_the_data_sets():
    source = EpisodeSteps(made("one", [3]))
    with pytest.raises(DatasetError, match="two"):
        StreamingLoader([source], example, list, 1, {"two": 1.0})
    with pytest.raises(DatasetError, match="twice"):
        StreamingLoader([source, source], example, list, 1)


def test_impossible_batches_and_ranks_are_refused():
    source = EpisodeSteps(made("one", [3]))
    for options in ({"batch_size": 0}, {"rank": 2, "world": 2}, {"workers": -1}):
        with pytest.raises(DatasetError, match="expected"):
            StreamingLoader([source], example, list, **{"batch_size": 1, **options})


def test_the_training_s_random_numbers_are_left_alone(folder):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first(loader(folder, 0, 1, workers=1), 1)
    assert torch.equal(torch.rand(1), expected)


def test_a_broken_step_is_told_by_its_name(folder, tmp_path):
    def breaking(step, rng: np.random.Generator):
        raise DatasetError(f"{step.dataset}, step {step.index} is broken")

    stream = StreamingLoader([EpisodeSteps(made("one", [3]))], breaking, list, 1, workers=1)
    with pytest.raises(DatasetError, match="one, step . is broken"):
        first(stream, 1)


def test_every_weight_is_used():
    assert set(WEIGHTS) == set(LENGTHS)
