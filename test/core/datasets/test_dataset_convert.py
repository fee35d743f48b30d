"""From any format to any other, whole or not at all."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import bag_tools
import numpy as np
import pytest
from demonstrations import assert_same, assert_same_facts, episode, episodes

from openvla_core.datasets.convert import TARGETS, convert, detect, main, open_source
from openvla_core.errors import DatasetError


class Listed:
    """Episodes in memory as a data set; one of them may be broken."""

    def __init__(self, given, broken=None):
        self.name, self.given, self.broken = "listed", given, broken

    def __len__(self):
        return len(self.given)

    def __getitem__(self, index):
        if index == self.broken:
            raise DatasetError("this bag is damaged")
        return self.given[index]

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def test_a_chain_through_every_format_changes_nothing(tmp_path):
    given = episodes()
    source = Listed(given)
    for index, to in enumerate(("lerobot", "rlds", "lerobot-v2.1", "rlds", "lerobot")):
        assert convert(source, tmp_path / f"set_{index}", to) == 3
        source = open_source(tmp_path / f"set_{index}")
        assert_same(given, source)


def test_holes_in_a_recording_stay_where_they_are(tmp_path):
    """Chunks of actions end at them, also when they are made from converted data."""
    given = [replace(each, metadata={**each.metadata, "holes": [2]}) for each in episodes()]
    source = Listed(given)
    for to in TARGETS:
        convert(source, tmp_path / to, to)
        for each in open_source(tmp_path / to):
            assert each.segment.tolist() == [0, 0] + [1] * (len(each) - 2)


@pytest.mark.parametrize("holes", [[0], [2, 2], [99], ["2"], "2", [3, 2], [True]])
def test_holes_that_cannot_be_are_refused(holes):
    first = episodes()[0]
    with pytest.raises(DatasetError, match="holes"):
        replace(first, metadata={"holes": holes})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("bags")
    scribe = bag_tools.Scribe()
    for seed in (1, 2):
        scribe.write(bag_tools.demonstration(seed), root)
    return root


@pytest.mark.parametrize("to", TARGETS)
def test_recorded_bags_come_out_as_they_were_read(tmp_path, recordings, to):
    bags = open_source(recordings)
    assert convert(bags, tmp_path / "set", to) == 2
    assert_same(list(bags), open_source(tmp_path / "set"))


@pytest.mark.parametrize("to", TARGETS)
def test_failure_leaves_nothing_behind(tmp_path, to):
    with pytest.raises(DatasetError, match="damaged"):
        convert(Listed(episodes(), broken=2), tmp_path / "set", to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", TARGETS)
def test_nothing_is_overwritten(tmp_path, to):
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        convert(Listed(episodes()), tmp_path / "set", to)
    assert list((tmp_path / "set").iterdir()) == [] and len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    """A limit on the size of files fails as a full disk does, within the writer."""
    program = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from demonstrations import episodes\n"
        "from test_dataset_convert import Listed\n"
        "from openvla_core.datasets.convert import convert\n"
        "from openvla_core.errors import DatasetError\n"
        "for to in ('lerobot', 'lerobot-v2.1', 'rlds'):\n"
        "    try: convert(Listed(episodes()), sys.argv[1] + '/set', to)\n"
        "    except DatasetError as error: print('refused', error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), os.path.dirname(__file__)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.count("refused") == 3 and "File too large" in run.stdout, run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []


def test_formats_are_told_by_their_files(tmp_path):
    for to in TARGETS:
        convert(Listed([episode(0)]), tmp_path / to.replace("-", "_").replace(".", "_"), to)
    assert detect(tmp_path / "lerobot") == detect(tmp_path / "lerobot_v2_1") == "lerobot"
    assert detect(tmp_path / "rlds") == detect(tmp_path / "rlds/1.0.0") == "rlds"
    (tmp_path / "libero").mkdir()
    (tmp_path / "libero/x_demo.hdf5").touch()
    assert detect(tmp_path / "libero") == detect(tmp_path / "libero/x_demo.hdf5") == "hdf5"
    (tmp_path / "bags/one").mkdir(parents=True)
    (tmp_path / "bags/one/metadata.yaml").touch()
    assert detect(tmp_path / "bags") == "bags"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no data set that is known"):
        detect(tmp_path / "empty")


def test_command_line_converts_and_names_cameras(tmp_path, capsys):
    convert(Listed(episodes()), tmp_path / "a", "rlds")
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "lerobot", "--robot", "widowx", "--video"]
    assert main([*arguments, "--quiet"]) == 0
    assert "3 episodes written" in capsys.readouterr().out
    info = json.loads((tmp_path / "b/meta/info.json").read_text())
    assert info["robot_type"] == "widowx" and info["features"]["observation.images.primary"]["dtype"] == "video"
    for one, read in zip(episodes(), open_source(tmp_path / "b"), strict=True):
        assert_same_facts(one, read)
    chosen = ["--camera", "primary=observation.images.wrist"]
    assert main([str(tmp_path / "b"), str(tmp_path / "c"), *chosen]) == 0
    assert np.shape(open_source(tmp_path / "c")[0].images["primary"][0]) == (48, 48, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "out"], "does not exist"),
        (["set", "out", "--from", "hdf5"], "data/demo_0"),
        (["set", "out", "--camera", "primary"], "not understood"),
        (["set", "out", "--camera", "primary=front"], "no camera"),
        (["set", "set"], "exists already"),
        (["set", "out", "--to", "rlds", "--video"], "no videos"),
        (["set", "Out", "--to", "rlds"], "no name for TFDS"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    convert(Listed([episode(0)]), tmp_path / "set", "lerobot")
    assert main(arguments) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("openvla dataset convert: ") and message in told
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
