"""Many processes train as one does: the same samples, the same weights, whatever the layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openvla_core.errors import ConfigError
from openvla_core.training.distributed import Ranks, make_mesh, ranks, rows_of

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """What two_ranks.py measured between one process and several."""
    folder = tmp_path_factory.mktemp("ranks")
    run = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


LAYOUTS = ["spread over two", "two copies", "adapters", "two machines of two", "begun by two, ended by one"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_processes_end_where_one_with_accumulation_does(compared, layout):
    """Losses of every step and of validation, and weights, after four steps."""
    assert compared[layout]["losses"] <= 1e-6
    assert compared[layout]["weights"] <= 1e-6


def test_two_processes_continue_to_the_bit(compared):
    assert compared["two, interrupted: same bytes"] is True


def test_when_one_process_is_told_to_stop_all_end_after_the_same_step_and_continue_to_the_bit(compared):
    assert compared["two, one told to stop: checkpoints"] == ["step-00000003"]
    assert compared["two, one told to stop: same bytes"] is True


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_rows_are_spread_as_torch_spreads_them(rows, shards):
    chunks = [len(chunk) for chunk in torch.empty(rows, 1).chunk(shards)] if rows else []
    places = [rows_of(rows, shards, rank) for rank in range(shards)]
    assert [last - first for first, last in places][: len(chunks)] == chunks
    assert places[0][0] == 0 and places[-1][1] == rows


def test_machines_with_different_numbers_of_processes_are_refused():
    with pytest.raises(ConfigError, match="equally many"):
        make_mesh(Ranks(rank=0, world=5, local_world=2), "node")


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="auto, cpu or cuda"), ranks("tpu"):
        pass


def test_alone_sums_are_its_own():
    with ranks("cpu") as here:
        assert here.first and here.world == 1
        assert here.all_sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
