"""LeRobot folders of versions 3.0 and 2.1: what goes in comes out, and damage is told."""

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demonstrations import (
    assert_same,
    assert_same_facts,
    episode,
    episodes,
    psnr_db,
)

from openvla_core.datasets.lerobot import v30 as lerobot
from openvla_core.datasets.lerobot.v21 import write_lerobot_v21
from openvla_core.datasets.lerobot.v30 import open_lerobot, write_lerobot
from openvla_core.errors import DatasetError

WRITERS = {"v3.0": write_lerobot, "v2.1": write_lerobot_v21}
versions = pytest.mark.parametrize("version", WRITERS)


@versions
@pytest.mark.parametrize("encoded", [True, False])
def test_round_trip_is_exact(tmp_path, version, encoded):
    given = episodes(encoded=encoded)
    assert WRITERS[version](given, tmp_path / "set") == 3
    source = open_lerobot(tmp_path / "set")
    assert source.version == version
    assert_same(given, source)


def test_from_one_version_to_the_other_and_back_is_exact(tmp_path):
    given = episodes()
    write_lerobot(given, tmp_path / "a")
    write_lerobot_v21(open_lerobot(tmp_path / "a"), tmp_path / "b")
    write_lerobot(open_lerobot(tmp_path / "b"), tmp_path / "c")
    assert_same(given, open_lerobot(tmp_path / "c"))


@versions
def test_video_keeps_facts_exact_and_pictures_close(tmp_path, version):
    given = episodes()
    WRITERS[version](given, tmp_path / "set", video=True)
    for one, read in zip(given, open_lerobot(tmp_path / "set"), strict=True):
        assert_same_facts(one, read)
        for name, frames in one.images.items():
            worst = min(psnr_db(frames[i], read.images[name][i]) for i in range(len(one)))
            assert worst > 30, f"{name}: {worst:.1f} dB"


def test_video_frames_are_the_right_ones_in_any_order(tmp_path):
    """The circle moves by three pixels a frame: a neighbour would be far off."""
    given = episodes()
    write_lerobot(given, tmp_path / "set", video=True)
    read = open_lerobot(tmp_path / "set")[1].images["primary"]
    for index in (11, 3, 4, 0, -1, 7, 2):
        matches = [psnr_db(given[1].images["primary"][i], read[index]) for i in range(12)]
        assert int(np.argmax(matches)) == index % 12
    other = copy.deepcopy(read)
    np.testing.assert_array_equal(other[5], read[5])
    with pytest.raises(IndexError):
        read[12]


@versions
def test_odd_sizes_cannot_be_video(tmp_path, version):
    from openvla_core.datasets.episode import PixelFrames

    odd = episode(0, images={"primary": PixelFrames(np.zeros((12, 31, 32, 3), np.uint8))})
    with pytest.raises(DatasetError, match="even sizes"):
        WRITERS[version]([odd], tmp_path / "set", video=True)


def test_many_episodes_are_spread_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot, "DATA_MB", 0.1)
    monkeypatch.setattr(lerobot, "BUFFERED_EPISODES", 2)
    given = episodes(8)
    write_lerobot(given, tmp_path / "set")
    assert len(list((tmp_path / "set/data").rglob("*.parquet"))) > 2
    source = open_lerobot(tmp_path / "set")
    assert_same(given, source)
    assert_same([given[5]], [source[5]])
    assert_same([given[7]], [source[-1]])


def test_videos_are_cut_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot, "VIDEO_MB", 0)
    given = episodes(3)
    write_lerobot(given, tmp_path / "set", video=True)
    assert len(list((tmp_path / "set/videos/observation.images.wrist").rglob("*.mp4"))) > 1
    for one, read in zip(given, open_lerobot(tmp_path / "set"), strict=True):
        assert psnr_db(one.images["wrist"][9], read.images["wrist"][9]) > 30


def test_layout_of_version_3(tmp_path):
    given = episodes()
    write_lerobot(given, tmp_path / "set", robot="franka")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (3, 36, 2, 5)
    assert info["robot_type"] == "franka" and isinstance(info["fps"], int)
    assert info["features"]["observation.images.primary"]["dtype"] == "image"
    assert info["features"]["observation.state"]["shape"] == [8]
    data = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert data["index"].to_pylist() == list(range(36))
    assert data["frame_index"].to_pylist()[:11] == [*range(10), 0]
    np.testing.assert_array_equal(data["timestamp"].to_numpy()[:10], (np.arange(10) / 5).astype(np.float32))
    rows = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 10), (10, 22), (22, 36)]
    assert rows[1]["tasks"] == ["öffne die Schublade"] and "stats/action/mean" in rows[1]
    tasks = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert tasks.to_pydict()["__index_level_0__"] == ["pick up the cube", "öffne die Schublade"]


def test_statistics_of_the_whole_are_those_of_all_rows(tmp_path):
    given = episodes()
    write_lerobot(given, tmp_path / "set")
    statistics = json.loads((tmp_path / "set/meta/stats.json").read_text())
    actions = np.concatenate([one.actions for one in given]).astype(np.float64)
    np.testing.assert_allclose(statistics["action"]["mean"], actions.mean(0))
    np.testing.assert_allclose(statistics["action"]["std"], actions.std(0))
    np.testing.assert_allclose(statistics["action"]["q99"], np.quantile(actions, 0.99, axis=0))
    assert statistics["action"]["count"] == [36]
    picture = statistics["observation.images.primary"]
    assert np.shape(picture["mean"]) == (3, 1, 1) and 0 < np.min(picture["mean"]) < np.max(picture["max"]) <= 1


def test_layout_of_version_2_1(tmp_path):
    write_lerobot_v21(episodes(), tmp_path / "set")
    root = tmp_path / "set"
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_chunks"], info["total_videos"]) == ("v2.1", 1, 0)
    assert (root / "data/chunk-000/episode_000002.parquet").is_file()
    lines = {name: (root / f"meta/{name}.jsonl").read_text().splitlines() for name in ("tasks", "episodes")}
    assert json.loads(lines["tasks"][1]) == {"task_index": 1, "task": "öffne die Schublade"}
    assert json.loads(lines["episodes"][0]) == {"episode_index": 0, "tasks": ["pick up the cube"], "length": 10}
    statistics = json.loads((root / "meta/episodes_stats.jsonl").read_text().splitlines()[2])
    assert set(statistics["stats"]["action"]) == {"min", "max", "mean", "std", "count"}


def strip_our_facts(root):
    """As others write it: no sidecar, no exact times, their own names for cameras and states."""
    for path in (root / "meta").glob("openvla*"):
        path.unlink()
    text = (root / "meta/info.json").read_text()
    info = json.loads(text.replace("images.primary", "images.top").replace("images.wrist", "images.left_wrist_cam"))
    del info["features"]["time_s"]
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None).drop_columns("time_s")
        names = [n.replace("images.primary", "images.top").replace("s.wrist", "s.left_wrist_cam") for n in
                 table.column_names]  # fmt: skip
        pq.write_table(table.rename_columns(names).replace_schema_metadata(None), path)


@versions
def test_data_sets_of_others_have_names_and_times_of_their_own(tmp_path, version):
    given = episodes()
    WRITERS[version](given, tmp_path / "set")
    strip_our_facts(tmp_path / "set")
    read = open_lerobot(tmp_path / "set")[1]
    assert (read.name, read.success, read.convention, read.rate_hz) == ("episode_000001", None, None, 5.0)
    assert read.metadata["cameras"] == {
        "primary": "observation.images.top", "wrist": "observation.images.left_wrist_cam",
    }  # fmt: skip
    assert read.state["state"].shape == (12, 8)
    np.testing.assert_allclose(read.times_s, np.arange(12) / 5, atol=1e-6)
    np.testing.assert_array_equal(read.actions, given[1].actions)
    chosen = open_lerobot(tmp_path / "set", cameras={"primary": "observation.images.left_wrist_cam"})[0]
    np.testing.assert_array_equal(chosen.images["primary"][0], given[0].images["wrist"][0])


@versions
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((12, 6), np.float32)}, "action_dim"),
        ({"state": {}}, "state"),
        ({"images": {}}, "cameras"),
        ({"rate_hz": 10.0}, "Resample"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path, version, changes, message):
    with pytest.raises(DatasetError, match=message):
        WRITERS[version]([episode(0, 12), episode(1, 12, **changes)], tmp_path / "set")


@versions
def test_no_episode_is_no_data_set(tmp_path, version):
    with pytest.raises(DatasetError, match="at least one"):
        WRITERS[version]([], tmp_path / "set")
    with pytest.raises(DatasetError, match="no steps"):
        WRITERS[version]([episode(0, 0)], tmp_path / "set2")


def test_unknown_rate_is_taken_from_the_times(tmp_path):
    write_lerobot([episode(0, 12, rate_hz=0.0, times_s=np.arange(12) / 10)], tmp_path / "set")
    source = open_lerobot(tmp_path / "set")
    assert source.fps == 10 and source[0].rate_hz == 0.0


def replace(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGE = {
    "no info": lambda root: (root / "meta/info.json").unlink(),
    "half an info": lambda root: (root / "meta/info.json").write_text('{"codebase_version": "v3'),
    "a list as info": lambda root: (root / "meta/info.json").write_text("[]"),
    "another version": lambda root: replace(root / "meta/info.json", lambda i: i.update(codebase_version="v1.6")),
    "no features": lambda root: replace(root / "meta/info.json", lambda i: i.pop("features")),
    "fps of zero": lambda root: replace(root / "meta/info.json", lambda i: i.update(fps=0)),
    "fps as text": lambda root: replace(root / "meta/info.json", lambda i: i.update(fps="5")),
    "more episodes told": lambda root: replace(root / "meta/info.json", lambda i: i.update(total_episodes=9)),
    "path out of the folder": lambda root: replace(
        root / "meta/info.json", lambda i: i.update(data_path="../../{chunk_index}.parquet")
    ),
    "path with another field": lambda root: replace(root / "meta/info.json", lambda i: i.update(data_path="{x}/{y}")),
    "no tasks": lambda root: [path.unlink() for path in (root / "meta").glob("tasks.*")],
    "no data": lambda root: [path.unlink() for path in (root / "data").rglob("*.parquet")],
    "data cut off": lambda root: [
        path.write_bytes(path.read_bytes()[:-100]) for path in (root / "data").rglob("*.parquet")
    ],
    "fewer rows": lambda root: [
        pq.write_table(pq.read_table(path, partitioning=None)[:0], path) for path in (root / "data").rglob("*.parquet")
    ],
    "text as action": lambda root: [_text_actions(path) for path in (root / "data").rglob("*.parquet")],
    "a sidecar of tomorrow": lambda root: replace(root / "meta/openvla.json", lambda i: i.update(version=99)),
    "a sidecar without cards": lambda root: replace(root / "meta/openvla.json", lambda i: i.pop("conventions")),
    "a card that is not there": lambda root: replace(root / "meta/openvla.json", lambda i: i.update(conventions=[])),
}


def _text_actions(path):
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(["x"] * len(table))), path)


@versions
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told(tmp_path, version, damage):
    WRITERS[version](episodes(2), tmp_path / "set")
    DAMAGE[damage](tmp_path / "set")
    with pytest.raises(DatasetError):
        list(open_lerobot(tmp_path / "set"))


@versions
def test_damaged_video_is_told(tmp_path, version):
    WRITERS[version](episodes(1), tmp_path / "set", video=True)
    for path in (tmp_path / "set/videos").rglob("*.mp4"):
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DatasetError, match=r"\.mp4"):
        open_lerobot(tmp_path / "set")[0].images["primary"][0]
    next((tmp_path / "set/videos").rglob("*primary*/**/*.mp4"), next((tmp_path / "set/videos").rglob("*.mp4"))).unlink()
    for path in (tmp_path / "set/videos").rglob("*.mp4"):
        path.unlink()
    with pytest.raises(DatasetError, match="missing"):
        open_lerobot(tmp_path / "set")[0].images["primary"][0]
