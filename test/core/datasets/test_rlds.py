"""RLDS data sets in and out without TensorFlow."""

import json
import zlib

import numpy as np
import pytest
from demonstrations import assert_same, episode, episodes

from openvla_core.datasets.episode import EncodedFrames, PixelFrames
from openvla_core.datasets.rlds import writer as rlds_writer
from openvla_core.datasets.rlds.features import features_json, tensor, text
from openvla_core.datasets.rlds.reader import RldsSource, RldsTrajectories
from openvla_core.datasets.rlds.tf_example import build_example, parse_example
from openvla_core.datasets.rlds.tfrecord import RecordWriter, read_records
from openvla_core.datasets.rlds.writer import write_rlds
from openvla_core.errors import DatasetError


@pytest.mark.parametrize("encoded", [True, False])
def test_round_trip_is_exact(tmp_path, encoded):
    given = episodes(encoded=encoded)
    assert write_rlds(given, tmp_path / "cell") == 3
    source = RldsSource(tmp_path / "cell")
    assert source.name == "cell"
    assert_same(given, source)
    assert_same([given[2], given[0]], [source[2], source[-3]])


def test_shards_are_cut_by_size_and_named_by_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(rlds_writer, "SHARD_BYTES", 200_000)
    given = episodes(7)
    write_rlds(given, tmp_path / "cell")
    files = sorted(path.name for path in (tmp_path / "cell/1.0.0").glob("*tfrecord*"))
    assert len(files) > 2 and files[0] == f"cell-train.tfrecord-00000-of-{len(files):05d}"
    source = RldsSource(tmp_path / "cell/1.0.0")
    assert_same(given, source)
    assert_same(given, [source[index] for index in range(7)])


def test_an_example_has_the_names_that_tfds_gives(tmp_path):
    given = episode(1)
    write_rlds([given], tmp_path / "cell")
    values = parse_example(next(read_records(tmp_path / "cell/1.0.0/cell-train.tfrecord-00000-of-00001")))
    assert values["steps/observation/image"] == [given.images["primary"].encoded(i) for i in range(12)]
    np.testing.assert_array_equal(values["steps/action"], given.actions.reshape(-1))
    np.testing.assert_array_equal(values["steps/is_first"], [1] + [0] * 11)
    np.testing.assert_array_equal(values["steps/is_last"], [0] * 11 + [1])
    assert values["steps/language_instruction"] == ["öffne die Schublade".encode()] * 12
    assert values["steps/reward"].sum() == 0 and values["episode_metadata/file_path"] == [given.name.encode()]


def test_success_is_the_reward_of_the_last_step(tmp_path):
    write_rlds([episode(0)], tmp_path / "cell")
    reward = RldsTrajectories(tmp_path / "cell")[0]["reward"]
    np.testing.assert_array_equal(reward, [0] * 11 + [1])


def foreign(root, values, step, metadata=None, name="other", lengths=("1",)):
    """A data set as somebody else's builder leaves it."""
    folder = root / name / "0.1.0"
    folder.mkdir(parents=True)
    split = {"name": "train", "shardLengths": list(lengths), "numBytes": "1"}
    info = {"name": name, "splits": [split], "version": "0.1.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(features_json(step, metadata or {"file_path": text()})))
    writer = RecordWriter(folder / f"{name}-train.tfrecord-00000-of-00001")
    writer.add(build_example(values))
    writer.close()
    return root / name


def test_numbers_of_every_kind_and_named_actions_are_read(tmp_path):
    state = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    step = {
        "observation": {
            "packed": tensor("float32", (3,), "zlib"),
            "plain": tensor("float32", (3,), "bytes"),
            "path/with/slashes": tensor("float64", (2, 2)),
            "codes": tensor("int32", (5,)),
            "natural_language_instruction": text(),
            "nothing": tensor("float32", (0,)),
        },
        "action": {"world_vector": tensor("float32", (3,)), "stop": tensor("bool")},
    }
    values = {
        "steps/observation/packed": [zlib.compress(row.tobytes()) for row in state],
        "steps/observation/plain": [row.tobytes() for row in state],
        "steps/observation/path/with/slashes": np.arange(16.0),
        "steps/observation/codes": np.arange(20) - 10,
        "steps/observation/natural_language_instruction": [b"wipe"] * 4,
        "steps/action/world_vector": np.arange(12.0),
        "steps/action/stop": np.array([0, 0, 0, 1]),
        "episode_metadata/file_path": [b"x"],
    }
    root = foreign(tmp_path, values, step)
    (read,) = RldsTrajectories(root)
    seen = read["observation"]
    np.testing.assert_array_equal(seen["packed"], state)
    np.testing.assert_array_equal(seen["plain"], state)
    assert seen["path/with/slashes"].shape == (4, 2, 2) and seen["path/with/slashes"].dtype == np.float64
    assert seen["codes"].dtype == np.int32 and seen["codes"][0, 0] == -10
    assert read["action"]["stop"].tolist() == [False, False, False, True]
    assert read["episode_metadata"] == {"file_path": b"x"}
    with pytest.raises(DatasetError, match="named parts.*oxe"):
        RldsSource(root)[0]


def test_data_sets_of_others_have_names_of_their_own(tmp_path):
    given = episode(1)
    write_rlds([given], tmp_path / "cell")
    path = tmp_path / "cell/1.0.0/cell-train.tfrecord-00000-of-00001"
    values = parse_example(next(read_records(path)))
    for key in ("steps/time_s", "episode_metadata/openvla"):
        del values[key]
    writer = RecordWriter(path)
    writer.add(build_example(values))
    writer.close()
    read = RldsSource(tmp_path / "cell", rate_hz=10.0)[0]
    assert (read.name, read.success, read.rate_hz, read.instruction) == (
        "episode_000000", None, 10.0, "öffne die Schublade",
    )  # fmt: skip
    assert read.metadata["cameras"] == {"primary": "image", "wrist": "wrist_image"}
    np.testing.assert_allclose(read.times_s, np.arange(12) / 10)
    assert set(read.state) == {"pose", "gripper"}
    chosen = RldsSource(tmp_path / "cell", cameras={"primary": "wrist_image"})[0]
    np.testing.assert_array_equal(chosen.images["primary"][3], given.images["wrist"][3])
    with pytest.raises(DatasetError, match="no camera"):
        RldsSource(tmp_path / "cell", cameras={"primary": "front"})[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((12, 6), np.float32)}, "Write two data sets"),
        ({"state": {}}, "Write two data sets"),
        ({"images": {"primary": PixelFrames(np.zeros((12, 32, 32, 3), np.uint8))}}, "Write two data sets"),
        ({"metadata": {"a": object()}}, "JSON"),
        ({"state": {"image": np.zeros((12, 1), np.float32)}}, "twice"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        write_rlds([episode(0, 12), episode(1, 12, **changes)], tmp_path / "cell")


def test_no_episode_no_steps_and_no_name_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="at least one"):
        write_rlds([], tmp_path / "a")
    empty = EncodedFrames([])
    with pytest.raises(DatasetError, match="no steps"):
        write_rlds([episode(0, 0, images={"primary": empty})], tmp_path / "b")
    with pytest.raises(DatasetError, match="no name for TFDS"):
        write_rlds([episode(0)], tmp_path / "My Set")


def change(name, edit):
    def apply(folder):
        value = json.loads((folder / name).read_text())
        edit(value)
        (folder / name).write_text(json.dumps(value))

    return apply


def rewrite(edit):
    def apply(folder):
        path = next(folder.glob("*tfrecord*"))
        values = [parse_example(record) for record in read_records(path)]
        writer = RecordWriter(path)
        for value in values:
            edit(value)
            writer.add(build_example(value))
        writer.close()

    return apply


DAMAGE = {
    "no features": lambda folder: (folder / "features.json").unlink(),
    "half the features": lambda folder: (folder / "features.json").write_text('{"featuresDict":'),
    "features without steps": change("features.json", lambda v: v["featuresDict"]["features"].pop("steps")),
    "features as a list": change("features.json", lambda v: v.update(featuresDict=[])),
    "unknown number type": change(
        "features.json",
        lambda v: v["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]["action"][
            "tensor"
        ].update(dtype="quaternion"),
    ),
    "no splits": change("dataset_info.json", lambda v: v.pop("splits")),
    "another file format": change("dataset_info.json", lambda v: v.update(fileFormat="riegeli")),
    "another split": change("dataset_info.json", lambda v: v["splits"][0].update(name="test")),
    "more episodes told": change("dataset_info.json", lambda v: v["splits"][0].update(shardLengths=["9"])),
    "a shard too few": change("dataset_info.json", lambda v: v["splits"][0].update(shardLengths=["2", "1"])),
    "a path out of the folder": change(
        "dataset_info.json", lambda v: v["splits"][0].update(filepathTemplate="../../{DATASET}")
    ),
    "cut off": lambda folder: [path.write_bytes(path.read_bytes()[:-7]) for path in folder.glob("*tfrecord*")],
    "records of something else": lambda folder: [_noise(path) for path in folder.glob("*tfrecord*")],
    "actions too short": rewrite(lambda v: v.update({"steps/action": v["steps/action"][:-1]})),
    "pictures as numbers": rewrite(lambda v: v.update({"steps/observation/image": np.zeros(12)})),
    "times too short": rewrite(lambda v: v.update({"steps/time_s": [b"1234"] * len(v["steps/time_s"])})),
    "facts that are no JSON": rewrite(lambda v: v.update({"episode_metadata/openvla": [b"{"]})),
    "facts of tomorrow": rewrite(lambda v: v.update({"episode_metadata/openvla": [b'{"version": 9}']})),
}


def _noise(path):
    writer = RecordWriter(path)
    writer.add(b"\x0a\xffnoise")
    writer.close()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told(tmp_path, damage):
    write_rlds(episodes(3), tmp_path / "cell")
    DAMAGE[damage](tmp_path / "cell/1.0.0")
    with pytest.raises(DatasetError):
        list(RldsSource(tmp_path / "cell"))
    with pytest.raises(DatasetError):
        source = RldsSource(tmp_path / "cell")
        [source[index] for index in range(3)]


def test_packed_data_may_not_unpack_to_gigabytes(tmp_path):
    bomb = zlib.compress(bytes(66 * 2**20))
    step = {"action": tensor("float32", (7,)), "observation": {"depth": tensor("uint8", (66 * 2**20,), "zlib")}}
    root = foreign(tmp_path, {"steps/action": np.zeros(7), "steps/observation/depth": [bomb]}, step)
    with pytest.raises(DatasetError, match="64 MiB"):
        RldsTrajectories(root)[0]
