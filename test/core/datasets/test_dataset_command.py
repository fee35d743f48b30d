"""The parts of `openvla dataset` that live in its own module; check and convert have tests of their own."""

import json

import pytest
from demonstrations import episodes

from openvla_core.datasets.command import main
from openvla_core.datasets.convert import convert


@pytest.fixture
def recorded(tmp_path):
    convert(episodes(3), tmp_path / "table", "lerobot-v2.1")
    return tmp_path / "table"


def test_statistics_are_printed_or_written(recorded, tmp_path, capsys):
    assert main(["stats", str(recorded)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["table"] and printed["table"]["num_trajectories"] == 3
    assert main(["stats", str(recorded), "--name", "lab", "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "dataset_statistics.json").read_text())
    assert written["lab"] == printed["table"]


def test_shards_hold_every_step_and_replace_nothing(tmp_path, capsys):
    convert(episodes(3)[1:], tmp_path / "table", "lerobot-v2.1")
    recorded = tmp_path / "table"
    assert main(["shard", str(recorded), str(tmp_path / "shards")]) == 0
    assert json.loads((tmp_path / "shards" / "dataset.json").read_text())["name"] == "table"
    assert list((tmp_path / "shards").glob("*.tar"))
    assert main(["shard", str(recorded), str(tmp_path / "shards")]) == 3
    assert "exists" in capsys.readouterr().err


def test_episodes_with_and_without_a_card_do_not_become_shards_together(recorded, tmp_path, capsys):
    assert main(["shard", str(recorded), str(tmp_path / "shards")]) == 3
    assert "cannot be mixed" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_what_is_no_data_set_is_an_error_of_one_line(tmp_path, capsys):
    assert main(["stats", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert str(tmp_path) in error and error.count("\n") == 1
