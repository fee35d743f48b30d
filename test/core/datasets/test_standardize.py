"""Every data set's own numbers become the same seven: motion in six, then the gripper, 1 open and 0 closed."""

import zlib

import numpy as np
import pytest

from openvla_core.datasets import gripper
from openvla_core.datasets.oxe.standardize import TRANSFORMS, standardize
from openvla_core.errors import DatasetError

T = 6
RNG = np.random.default_rng(0)
MOTION = RNG.normal(0, 0.1, (T, 6)).astype(np.float32)
CLOSING = np.array([0, 0, 1, 0, -1, 0], dtype=np.float32)  # commands
OPEN_AFTER = np.array([1, 1, 0, 0, 1, 1], dtype=np.float32)  # what they lead to
CLOSEDNESS = np.array([-0.2, 0, 0.25, 1, 1.3, 0.5], dtype=np.float32)
OPENNESS = np.array([1, 1, 0.75, 0, 0, 0.5], dtype=np.float32)
STATE = RNG.normal(0, 1, (T, 24)).astype(np.float32)


def with_gripper(values: np.ndarray) -> np.ndarray:
    return np.concatenate([MOTION, values[:, None]], axis=1)


def vectors(**rest) -> dict:
    return {"world_vector": MOTION[:, :3], "rotation_delta": MOTION[:, 3:], **rest}


QUATERNION = np.tile([0.0, 0.0, np.sin(0.2), np.cos(0.2)], (T, 1)).astype(np.float32)  # 0.4 rad about z
TURN = np.tile([0.0, 0.0, 0.4], (T, 1))

# Name -> observation, action, expected actions, and the parts of the state that are added with their widths.
COMMANDED = vectors(gripper_closedness_action=CLOSING[:, None])
CASES = {
    "rt1": ({}, COMMANDED, with_gripper(OPEN_AFTER), {}),
    "kuka": (
        {
            "clip_function_input/base_pose_tool_reached": [zlib.compress(row[:7].tobytes()) for row in STATE],
            "gripper_closed": [zlib.compress(row[:1].tobytes()) for row in STATE],
        },
        COMMANDED,
        with_gripper(OPEN_AFTER),
        {"clip_function_input/base_pose_tool_reached": STATE[:, :7], "gripper_closed": STATE[:, :1]},
    ),
    "jaco_play": (
        {"end_effector_cartesian_pos": STATE[:, :7]},
        COMMANDED,
        np.concatenate([MOTION[:, :3], np.zeros((T, 3)), OPEN_AFTER[:, None]], axis=1),
        {"state_eef": STATE[:, :6], "state_gripper": STATE[:, 6:7]},
    ),
    "berkeley_autolab_ur5": (
        {"robot_state": STATE[:, :15]},
        vectors(gripper_closedness_action=CLOSING),
        with_gripper(OPEN_AFTER),
        {"state": STATE[:, 6:14]},
    ),
    "viola": ({}, vectors(gripper_closedness_action=CLOSEDNESS), with_gripper(OPENNESS), {}),
    "roboturk": ({}, vectors(gripper_closedness_action=CLOSEDNESS[:, None]), with_gripper(OPENNESS), {}),
    "berkeley_cable_routing": ({}, vectors(), with_gripper(np.zeros(T)), {}),
    "toto": ({}, vectors(open_gripper=np.array([True, False] * 3)), with_gripper(np.array([1.0, 0.0] * 3)), {}),
    "bc_z": (
        {},
        {
            "future/xyz_residual": np.tile(MOTION[:, :3], (1, 10)),
            "future/axis_angle_residual": np.tile(MOTION[:, 3:], (1, 10)),
            "future/target_close": np.tile([[0], [1], [1], [0], [1], [0]], (1, 10)),
        },
        with_gripper(np.array([1, 0, 0, 1, 0, 1.0])),
        {},
    ),
    "taco_play": (
        {"robot_obs": STATE[:, :15]},
        {"rel_actions_world": with_gripper(np.array([-1, 1, 0.5, 2, 0, 1], dtype=np.float32))},
        with_gripper(np.array([0, 1, 0.5, 1, 0, 1])),
        {"state_eef": STATE[:, :6], "state_gripper": STATE[:, 7:8]},
    ),
    "language_table": (
        {"instruction": np.array([[112, 117, 115, 104, 0, 0]] * T)},
        MOTION[:, :2],
        np.concatenate([MOTION[:, :2], np.zeros((T, 4)), np.ones((T, 1))], axis=1),
        {},
    ),
    "stanford_hydra": (
        {"state": STATE},
        with_gripper(CLOSEDNESS),
        with_gripper(1 - CLOSEDNESS),
        {"eef_state": STATE[:, [0, 1, 2, 7, 8, 9]], "gripper_state": STATE[:, 21:22]},
    ),
    "dlr_edan_shared_control": ({"state": STATE}, with_gripper(CLOSEDNESS), with_gripper(1 - CLOSEDNESS), {}),
    **{
        name: ({"state": STATE}, with_gripper(CLOSEDNESS), with_gripper(OPENNESS), {"state": STATE[:, :8]})
        for name in ("austin_buds", "austin_sailor", "austin_sirius", "utaustin_mutex")
    },
    "libero": (
        {"state": STATE[:, :8]},
        with_gripper(CLOSEDNESS),
        with_gripper(OPENNESS),
        {"EEF_state": STATE[:, :6], "gripper_state": STATE[:, 6:8]},
    ),
    "nyu_franka_play": (
        {"state": STATE[:, :13]},
        np.concatenate([STATE[:, :7], MOTION, CLOSEDNESS[:, None], np.zeros((T, 1), np.float32)], axis=1),
        with_gripper(np.clip(CLOSEDNESS, 0, 1)),
        {"eef_state": STATE[:, 7:13]},
    ),
    "furniture_bench": (
        {"state": STATE[:, :9]},
        np.concatenate([MOTION[:, :3], QUATERNION, CLOSEDNESS[:, None]], axis=1),
        np.concatenate([MOTION[:, :3], TURN, OPENNESS[:, None]], axis=1),
        {"state": STATE[:, [0, 1, 2, 3, 4, 5, 6, 8]]},
    ),
    "iamlab_pick_insert": (
        {"state": STATE[:, :20]},
        np.concatenate([MOTION[:, :3], QUATERNION, CLOSEDNESS[:, None]], axis=1),
        np.concatenate([MOTION[:, :3], TURN, CLOSEDNESS[:, None]], axis=1),
        {"joint_state": STATE[:, :7], "gripper_state": STATE[:, 7:8]},
    ),
    "ucsd_kitchen": (
        {"state": STATE[:, :21]},
        np.concatenate([with_gripper(CLOSEDNESS), np.ones((T, 1), np.float32)], axis=1),
        with_gripper(CLOSEDNESS),
        {"joint_state": STATE[:, :7]},
    ),
    "cmu_stretch": (
        {"state": STATE[:, :4]},
        np.concatenate([with_gripper(CLOSEDNESS), np.ones((T, 1), np.float32)], axis=1),
        with_gripper(CLOSEDNESS),
        {
            "eef_state": np.concatenate([STATE[:, :3], np.zeros((T, 3), np.float32)], axis=1),
            "gripper_state": STATE[:, 3:4],
        },
    ),
    "berkeley_fanuc": (
        {"state": STATE[:, :13]},
        MOTION,
        with_gripper(1 - STATE[:, 6]),
        {"joint_state": STATE[:, :6], "gripper_state": STATE[:, 6:7]},
    ),
    "fmb": (
        {"eef_pose": STATE[:, :7], "state_gripper_pose": STATE[:, 7]},
        with_gripper(CLOSEDNESS),
        with_gripper(CLOSEDNESS),
        {"proprio": STATE[:, :8]},
    ),
    "dobbe": ({"state": STATE[:, :7]}, with_gripper(CLOSEDNESS), with_gripper(CLOSEDNESS), {"proprio": STATE[:, :7]}),
    "droid_baseact": (
        {"cartesian_position": STATE[:, :6], "gripper_position": STATE[:, 6:7]},
        {"cartesian_velocity": MOTION, "gripper_position": CLOSEDNESS[:, None]},
        with_gripper(1 - CLOSEDNESS),
        {"proprio": STATE[:, :7]},
    ),
    "tdroid": (
        {"cartesian_position": STATE[:, :6], "gripper_position": STATE[:, 6:7]},
        {"cartesian_velocity": MOTION, "gripper_position": np.array([[0], [0.5], [1], [0.5], [0.5], [0]])},
        with_gripper(np.array([1, 0, 0, 1, 1, 1])),
        {"proprio": STATE[:, :7]},
    ),
    "bridge_orig": (
        {"state": STATE[:, :7]},
        with_gripper(np.array([0, 1, 0.5, 0.02, 1, 1], dtype=np.float32)),
        np.concatenate([np.diff(STATE[1:, :6], axis=0), [[1], [0], [0], [1]]], axis=1),
        {"EEF_state": STATE[1:5, :6], "gripper_state": STATE[1:5, 6:7]},
    ),
    "bridge_oxe": (
        {"state": STATE[:, :7]},
        vectors(open_gripper=np.array([1, 0, 1, 0, 1, 1.0])),
        np.concatenate([np.diff(STATE[1:, :6], axis=0), [[0], [1], [0], [1]]], axis=1),
        {"EEF_state": STATE[1:5, :6], "gripper_state": STATE[1:5, 6:7]},
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_transform(name):
    observation, action, expected, states = CASES[name]
    result = standardize(name, {"observation": observation, "action": action, "language_instruction": "go"})
    assert result["action"].dtype == np.float32
    np.testing.assert_allclose(result["action"], expected, atol=1e-6)
    for key, values in states.items():
        np.testing.assert_array_equal(result["observation"][key], values)


def test_every_transform_is_tested():
    assert set(CASES) == set(TRANSFORMS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_recording_is_not_changed(name):
    observation, action, *_ = CASES[name]
    trajectory = {"observation": observation, "action": action}
    before = repr(trajectory)
    standardize(name, trajectory)
    assert repr(trajectory) == before


def test_steps_that_are_dropped_lose_their_frames_too():
    observation = {"state": STATE[:, :7], "image_0": [b"0", b"1", b"2", b"3", b"4", b"5"]}
    result = standardize("bridge_orig", {"observation": observation, "action": with_gripper(OPENNESS)})
    assert result["observation"]["image_0"] == [b"1", b"2", b"3", b"4"]


def test_language_table_spells_its_instruction():
    observation, action, *_ = CASES["language_table"]
    assert (
        standardize("language_table", {"observation": observation, "action": action})["language_instruction"] == "push"
    )


@pytest.mark.parametrize(
    ("name", "trajectory", "told"),
    [
        ("unheard_of", {}, "bridge_orig"),
        ("rt1", {"observation": {}, "action": {"world_vector": MOTION[:, :3]}}, "gripper_closedness_action"),
        ("austin_buds", {"observation": {}, "action": with_gripper(OPENNESS)}, "state"),
        ("dobbe", {"observation": {"state": STATE}, "action": MOTION}, r"\(6, 6\)"),
        ("rt1", {"observation": {}, "action": MOTION}, "rt1"),
        ("kuka", {**dict(zip(("observation", "action"), CASES["kuka"][:2], strict=True)), "observation": {
            "clip_function_input/base_pose_tool_reached": [b"no zlib"] * T, "gripper_closed": [b""] * T}}, "kuka"),
        ("iamlab_pick_insert", {"observation": {"state": STATE}, "action": np.full((T, 8), 0.9)}, "quaternion"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(name, trajectory, told):
    with pytest.raises(DatasetError, match=told):
        standardize(name, trajectory)


def test_a_row_that_unpacks_to_far_too_much_is_refused():
    bomb = [zlib.compress(bytes(10_000_000))] * T
    observation = {"clip_function_input/base_pose_tool_reached": bomb, "gripper_closed": bomb}
    with pytest.raises(DatasetError, match="kuka"):
        standardize("kuka", {"observation": observation, "action": COMMANDED})


def test_empty_trajectories_have_no_gripper_to_decide():
    assert gripper.binarize(np.zeros(0)).shape == (0,)
    assert gripper.absolute_from_relative(np.zeros(0)).shape == (0,)
