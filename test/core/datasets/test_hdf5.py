"""Files of robomimic and LIBERO."""

import json

import h5py
import numpy as np
import pytest

from openvla_core.datasets.hdf5 import Hdf5Source
from openvla_core.errors import DatasetError

SENTENCE = "put the black bowl in the drawer"


def write(path, demos=(0, 1, 10), libero=True, steps=6):
    """As LIBERO's collection scripts leave it, with few pixels."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "x", "env_kwargs": {"control_freq": 10}})
        if libero:
            data.attrs["problem_info"] = json.dumps({"language_instruction": list(f'"{SENTENCE}"')})
        for number in demos:
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = rng.normal(size=(steps, 7))
            demo["rewards"] = np.array([0] * (steps - 1) + [number % 2], np.uint8)
            demo["states"] = rng.normal(size=(steps, 30))
            obs = demo.create_group("obs")
            names = ("agentview_rgb", "eye_in_hand_rgb") if libero else ("agentview_image", "robot0_eye_in_hand_image")
            for name in names:
                obs.create_dataset(name, data=rng.integers(0, 255, (steps, 8, 10, 3), dtype=np.uint8), compression=4)
            obs["ee_states"] = rng.normal(size=(steps, 6))
            obs["gripper_states"] = rng.normal(size=(steps, 2))
            obs["depth"] = rng.normal(size=(steps, 8, 10, 1))
    return path


def test_libero_is_read_upright(tmp_path):
    path = write(tmp_path / "KITCHEN_SCENE4_put_it_there_demo.hdf5")
    source = Hdf5Source(path)
    assert [one.name.rpartition("/")[2] for one in source] == ["demo_0", "demo_1", "demo_10"]
    read = source[1]
    with h5py.File(path) as file:
        stored = file["data/demo_1"]
        np.testing.assert_array_equal(read.images["primary"][2], stored["obs/agentview_rgb"][2][::-1, ::-1])
        np.testing.assert_array_equal(read.images["wrist"][2], stored["obs/eye_in_hand_rgb"][2][::-1, ::-1])
        np.testing.assert_array_equal(read.actions, stored["actions"][()].astype(np.float32))
        np.testing.assert_array_equal(read.state["ee_states"], stored["obs/ee_states"][()].astype(np.float32))
    assert (read.instruction, read.rate_hz, read.success) == (SENTENCE, 10.0, True)
    assert source[0].success is None and set(read.state) == {"ee_states", "gripper_states"}
    np.testing.assert_allclose(read.times_s, np.arange(6) / 10)


def test_robomimic_is_not_turned(tmp_path):
    path = write(tmp_path / "image.hdf5", libero=False)
    read = Hdf5Source(path, instruction="lift the cube")[0]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(read.images["primary"][0], file["data/demo_0/obs/agentview_image"][0])
    assert set(read.images) == {"primary", "wrist"} and read.instruction == "lift the cube"
    assert Hdf5Source(path)[0].instruction == ""
    turned = Hdf5Source(path, rotate_180=True)[0]
    np.testing.assert_array_equal(turned.images["primary"][0], read.images["primary"][0][::-1, ::-1])


def test_sentence_comes_from_the_name_when_the_file_has_none(tmp_path):
    path = write(tmp_path / "LIVING_ROOM_SCENE2_pick_up_the_milk_demo.hdf5")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["problem_info"]
        stored = file["data/demo_0/obs/agentview_rgb"][0]
    read = Hdf5Source(path)[0]
    assert read.instruction == "pick up the milk"
    np.testing.assert_array_equal(read.images["primary"][0], stored[::-1, ::-1])


def test_folder_is_one_data_set(tmp_path):
    for name in ("b_demo.hdf5", "a_demo.hdf5"):
        write(tmp_path / name, demos=(0, 1))
    names = [one.name for one in Hdf5Source(tmp_path)]
    assert names == ["a_demo/demo_0", "a_demo/demo_1", "b_demo/demo_0", "b_demo/demo_1"]


def edit(change):
    def apply(path):
        with h5py.File(path, "a") as file:
            change(file, path)

    return apply


def _link(file, path):
    with h5py.File(path.with_name("secret.h5"), "w") as other:
        other["numbers"] = np.zeros((6, 7))
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.ExternalLink("secret.h5", "numbers")


def _link_to_a_link(file, path):
    _link(file, path)
    file["way"] = h5py.ExternalLink("secret.h5", "numbers")
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.SoftLink("/way")


def _external(file, path):
    del file["data/demo_0/actions"]
    secret = path.with_name("secret.bin")
    secret.write_bytes(bytes(6 * 7 * 4))
    file["data/demo_0"].create_dataset("actions", (6, 7), "f4", external=[(str(secret), 0, 6 * 7 * 4)])


def _virtual(file, path):
    with h5py.File(path.with_name("secret.h5"), "w") as other:
        other["numbers"] = np.zeros((6, 7))
    del file["data/demo_0/actions"]
    layout = h5py.VirtualLayout((6, 7), "f8")
    layout[:] = h5py.VirtualSource(str(path.with_name("secret.h5")), "numbers", (6, 7))
    file["data/demo_0"].create_virtual_dataset("actions", layout)


def _text_actions(file, path):
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = [b"x"] * 6


def _float_pictures(file, path):
    del file["data/demo_0/obs/agentview_rgb"]
    file["data/demo_0/obs/agentview_rgb"] = np.zeros((6, 8, 10, 3))


def _shorter_state(file, path):
    del file["data/demo_0/obs/ee_states"]
    file["data/demo_0/obs/ee_states"] = np.zeros((5, 6))


def _no_data(file, path):
    del file["data"]


def _no_actions(file, path):
    del file["data/demo_0/actions"]


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "something else": lambda path: path.write_bytes(b"not an HDF5 file"),
    "no file": lambda path: path.unlink(),
    "no data": edit(_no_data),
    "no actions": edit(_no_actions),
    "text as actions": edit(_text_actions),
    "pictures as floats": edit(_float_pictures),
    "a state with fewer steps": edit(_shorter_state),
    "a link to another file": edit(_link),
    "a link to such a link": edit(_link_to_a_link),
    "bytes of another file": edit(_external),
    "a view of another file": edit(_virtual),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_and_foreign_files_are_told(tmp_path, damage):
    path = write(tmp_path / "a_demo.hdf5", demos=(0,))
    DAMAGE[damage](path)
    with pytest.raises(DatasetError):
        list(Hdf5Source(path))


def test_empty_folder_is_no_data_set(tmp_path):
    with pytest.raises(DatasetError, match="no demonstrations"):
        Hdf5Source(tmp_path)
