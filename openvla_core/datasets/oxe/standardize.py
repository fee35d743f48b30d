"""From the numbers each Open X-Embodiment data set recorded to one meaning of the seven action numbers.

A trajectory is a dict with "observation" (name -> array (T, ...) or sequence of T frames), "action" (array (T, D), or
name -> array) and, where there is one, "language_instruction". A transform returns a new one with action (T', 7)
float32: metres and radians of motion, and the gripper, 1 open to 0 closed, absolute. What was recorded stays under its
name beside the parts of the state that the transform adds; T' < T where steps are dropped.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from openvla_core.datasets.gripper import binarize, clipped, invert
from openvla_core.datasets.oxe.trajectories import (
    Trajectory,
    commanded_gripper,
    cut_steps,
    euler,
    inverted_gripper,
    joined,
    motion,
    numbers,
    text_of_codes,
    unpacked,
    with_parts,
)
from openvla_core.errors import DatasetError

Transform = Callable[[Trajectory], Trajectory]


def standardize(name: str, trajectory: Mapping[str, Any]) -> Trajectory:
    """The trajectory by the transform of this name. Raises DatasetError when it is unknown or a field is missing."""
    if name not in TRANSFORMS:
        raise DatasetError(f"standardisation {name!r} is unknown; choose one of {', '.join(sorted(TRANSFORMS))}.")
    given = {**trajectory, "observation": dict(trajectory.get("observation", {}))}
    try:
        result = TRANSFORMS[name](given)
        result["action"] = np.asarray(result["action"], dtype=np.float32)
    except KeyError as error:
        raise DatasetError(
            f"standardisation {name!r} needs the field {error}; the trajectory has the observations "
            f"{sorted(given['observation'])} and the actions {_names(given.get('action'))}."
        ) from error
    except (IndexError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise DatasetError(f"standardisation {name!r} cannot use this trajectory: {error}.") from error
    if result["action"].ndim != 2 or result["action"].shape[1] != 7:
        raise DatasetError(f"standardisation {name!r} made actions {result['action'].shape}; expected (T, 7).")
    return result


def _names(action: Any) -> Any:
    return sorted(action) if isinstance(action, Mapping) else getattr(action, "shape", None)


# Bridge: the labels are the differences of the states, not the commands.


def _bridge_orig(t: Trajectory) -> Trajectory:
    t = cut_steps(t, 1, None)
    action = t["action"]
    return _bridge_states({**t, "action": joined(action[:, :6], binarize(action[:, -1]))})


def _bridge_oxe(t: Trajectory) -> Trajectory:
    t = cut_steps(t, 1, None)
    return _bridge_states({**t, "action": motion(t, t["action"]["open_gripper"])})


def _bridge_states(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    moved = state[1:, :6] - state[:-1, :6]
    t = cut_steps(t, 0, -1)
    state = state[:-1]
    action = joined(moved, t["action"][:, 6:])
    return with_parts(t, action, EEF_state=state[:, :6], gripper_state=state[:, -1:])


# Actions given as a world vector, a rotation and a gripper command.


def _rt1(t: Trajectory) -> Trajectory:
    return with_parts(t, motion(t, commanded_gripper(t)))


def _kuka(t: Trajectory) -> Trajectory:
    observation = t["observation"]
    pose, closed = "clip_function_input/base_pose_tool_reached", "gripper_closed"
    states = {pose: unpacked(observation[pose], 7), closed: unpacked(observation[closed], 1)}
    return with_parts(t, motion(t, commanded_gripper(t)), **states)


def _jaco_play(t: Trajectory) -> Trajectory:
    vector = t["action"]["world_vector"]
    action = joined(vector, np.zeros_like(vector), commanded_gripper(t))
    pose = t["observation"]["end_effector_cartesian_pos"]
    return with_parts(t, action, state_eef=pose[:, :6], state_gripper=pose[:, -1:])


def _berkeley_autolab_ur5(t: Trajectory) -> Trajectory:
    return with_parts(t, motion(t, commanded_gripper(t)), state=t["observation"]["robot_state"][:, 6:14])


def _closedness(t: Trajectory) -> Trajectory:
    """Viola and RoboTurk: how far the gripper is to close."""
    return with_parts(t, motion(t, invert(clipped(t["action"]["gripper_closedness_action"]))))


def _berkeley_cable_routing(t: Trajectory) -> Trajectory:
    return with_parts(t, motion(t, np.zeros(len(t["action"]["world_vector"]))))


def _toto(t: Trajectory) -> Trajectory:
    return with_parts(t, motion(t, t["action"]["open_gripper"]))


def _bc_z(t: Trajectory) -> Trajectory:
    action = t["action"]
    motion = action["future/xyz_residual"][:, :3], action["future/axis_angle_residual"][:, :3]
    return with_parts(t, joined(*motion, invert(numbers(action["future/target_close"][:, :1]))))


# Actions given as one array.


def _taco_play(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["robot_obs"]
    relative = action["rel_actions_world"] if isinstance(action, Mapping) else t["rel_actions_world"]
    action = joined(relative[:, :6], clipped(relative[:, -1:]))
    return with_parts(t, action, state_eef=state[:, :6], state_gripper=state[:, 7:8])


def _language_table(t: Trajectory) -> Trajectory:
    action = t["action"]
    letters = t["observation"].get("instruction")
    text = {} if letters is None else {"language_instruction": text_of_codes(letters)}
    return with_parts(t, joined(action, np.zeros((len(action), 4)), np.ones((len(action), 1)))) | text


def _stanford_hydra(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    pose = np.concatenate([state[:, :3], state[:, 7:10]], axis=1)
    return with_parts(t, inverted_gripper(t["action"]), eef_state=pose, gripper_state=state[:, -3:-2])


def _only_inverted(t: Trajectory) -> Trajectory:
    return with_parts(t, inverted_gripper(t["action"]))


def _clipped_inverted(t: Trajectory) -> Trajectory:
    """The Austin data sets: 1 closes; some go slightly beyond. The state is joints or pose, then the gripper."""
    action = t["action"]
    state = t["observation"]["state"]
    return with_parts(t, joined(action[:, :6], invert(clipped(action[:, -1:]))), state=state[:, :8])


def _nyu_franka_play(t: Trajectory) -> Trajectory:
    action = t["action"]
    action = joined(action[:, -8:-2], clipped(action[:, -2:-1]))
    return with_parts(t, action, eef_state=t["observation"]["state"][:, -6:])


def _furniture_bench(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["state"]
    action = joined(action[:, :3], euler(action[:, 3:7]), invert(clipped(action[:, -1:])))
    return with_parts(t, action, state=np.concatenate([state[:, :7], state[:, -1:]], axis=1))


def _iamlab_pick_insert(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["state"]
    action = joined(action[:, :3], euler(action[:, 3:7]), action[:, 7:8])
    return with_parts(t, action, joint_state=state[:, :7], gripper_state=state[:, 7:8])


def _ucsd_kitchen(t: Trajectory) -> Trajectory:
    return with_parts(t, t["action"][:, :-1], joint_state=t["observation"]["state"][:, :7])


def _berkeley_fanuc(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    gripper = state[:, 6:7]
    return with_parts(t, joined(t["action"], invert(gripper)), joint_state=state[:, :6], gripper_state=gripper)


def _cmu_stretch(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    pose = np.concatenate([state[:, :3], np.zeros_like(state[:, :3])], axis=1)
    return with_parts(t, t["action"][:, :-1], eef_state=pose, gripper_state=state[:, -1:])


def _fmb(t: Trajectory) -> Trajectory:
    seen = t["observation"]
    return with_parts(t, t["action"], proprio=joined(seen["eef_pose"], seen["state_gripper_pose"]))


def _dobbe(t: Trajectory) -> Trajectory:
    return with_parts(t, t["action"], proprio=t["observation"]["state"])


def _droid(t: Trajectory) -> Trajectory:
    commands, seen = t["action_dict"] if "action_dict" in t else t["action"], t["observation"]
    action = joined(commands["cartesian_velocity"], invert(numbers(commands["gripper_position"])))
    return with_parts(t, action, proprio=joined(seen["cartesian_position"], seen["gripper_position"]))


def _tdroid(t: Trajectory) -> Trajectory:
    t = _droid(t)
    return {**t, "action": joined(t["action"][:, :6], binarize(t["action"][:, -1]))}


def _libero(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["state"]
    action = joined(action[:, :6], invert(clipped(action[:, -1:])))
    return with_parts(t, action, EEF_state=state[:, :6], gripper_state=state[:, -2:])


TRANSFORMS: dict[str, Transform] = {
    "austin_buds": _clipped_inverted,
    "austin_sailor": _clipped_inverted,
    "austin_sirius": _clipped_inverted,
    "bc_z": _bc_z,
    "berkeley_autolab_ur5": _berkeley_autolab_ur5,
    "berkeley_cable_routing": _berkeley_cable_routing,
    "berkeley_fanuc": _berkeley_fanuc,
    "bridge_orig": _bridge_orig,
    "bridge_oxe": _bridge_oxe,
    "cmu_stretch": _cmu_stretch,
    "dlr_edan_shared_control": _only_inverted,
    "dobbe": _dobbe,
    "droid_baseact": _droid,
    "fmb": _fmb,
    "furniture_bench": _furniture_bench,
    "iamlab_pick_insert": _iamlab_pick_insert,
    "jaco_play": _jaco_play,
    "kuka": _kuka,
    "language_table": _language_table,
    "libero": _libero,
    "nyu_franka_play": _nyu_franka_play,
    "roboturk": _closedness,
    "rt1": _rt1,
    "stanford_hydra": _stanford_hydra,
    "taco_play": _taco_play,
    "tdroid": _tdroid,
    "toto": _toto,
    "ucsd_kitchen": _ucsd_kitchen,
    "utaustin_mutex": _clipped_inverted,
    "viola": _closedness,
}
