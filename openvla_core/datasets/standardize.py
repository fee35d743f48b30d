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

from openvla_core.datasets.gripper import absolute_from_relative, binarize, clipped, invert
from openvla_core.errors import DatasetError
from openvla_core.rotations import to_euler_xyz, unit

Trajectory = dict[str, Any]
Transform = Callable[[Trajectory], Trajectory]
MAX_DECOMPRESSED = 1 << 16


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
    t = _steps(t, 1, None)
    action = t["action"]
    return _bridge_states({**t, "action": _joined(action[:, :6], binarize(action[:, -1]))})


def _bridge_oxe(t: Trajectory) -> Trajectory:
    t = _steps(t, 1, None)
    return _bridge_states({**t, "action": _motion(t, t["action"]["open_gripper"])})


def _bridge_states(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    moved = state[1:, :6] - state[:-1, :6]
    t = _steps(t, 0, -1)
    state = state[:-1]
    action = _joined(moved, t["action"][:, 6:])
    return _with(t, action, EEF_state=state[:, :6], gripper_state=state[:, -1:])


# Actions given as a world vector, a rotation and a gripper command.


def _rt1(t: Trajectory) -> Trajectory:
    return _with(t, _motion(t, _commanded(t)))


def _kuka(t: Trajectory) -> Trajectory:
    observation = t["observation"]
    pose, closed = "clip_function_input/base_pose_tool_reached", "gripper_closed"
    states = {pose: _unpacked(observation[pose], 7), closed: _unpacked(observation[closed], 1)}
    return _with(t, _motion(t, _commanded(t)), **states)


def _jaco_play(t: Trajectory) -> Trajectory:
    vector = t["action"]["world_vector"]
    action = _joined(vector, np.zeros_like(vector), _commanded(t))
    pose = t["observation"]["end_effector_cartesian_pos"]
    return _with(t, action, state_eef=pose[:, :6], state_gripper=pose[:, -1:])


def _berkeley_autolab_ur5(t: Trajectory) -> Trajectory:
    return _with(t, _motion(t, _commanded(t)), state=t["observation"]["robot_state"][:, 6:14])


def _closedness(t: Trajectory) -> Trajectory:
    """Viola and RoboTurk: how far the gripper is to close."""
    return _with(t, _motion(t, invert(clipped(t["action"]["gripper_closedness_action"]))))


def _berkeley_cable_routing(t: Trajectory) -> Trajectory:
    return _with(t, _motion(t, np.zeros(len(t["action"]["world_vector"]))))


def _toto(t: Trajectory) -> Trajectory:
    return _with(t, _motion(t, t["action"]["open_gripper"]))


def _bc_z(t: Trajectory) -> Trajectory:
    action = t["action"]
    motion = action["future/xyz_residual"][:, :3], action["future/axis_angle_residual"][:, :3]
    return _with(t, _joined(*motion, invert(_numbers(action["future/target_close"][:, :1]))))


# Actions given as one array.


def _taco_play(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["robot_obs"]
    relative = action["rel_actions_world"] if isinstance(action, Mapping) else t["rel_actions_world"]
    action = _joined(relative[:, :6], clipped(relative[:, -1:]))
    return _with(t, action, state_eef=state[:, :6], state_gripper=state[:, 7:8])


def _language_table(t: Trajectory) -> Trajectory:
    action = t["action"]
    letters = t["observation"].get("instruction")
    text = {} if letters is None else {"language_instruction": _text_of_codes(letters)}
    return _with(t, _joined(action, np.zeros((len(action), 4)), np.ones((len(action), 1)))) | text


def _stanford_hydra(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    pose = np.concatenate([state[:, :3], state[:, 7:10]], axis=1)
    return _with(t, _inverted(t["action"]), eef_state=pose, gripper_state=state[:, -3:-2])


def _inverted_gripper(t: Trajectory) -> Trajectory:
    return _with(t, _inverted(t["action"]))


def _clipped_inverted(t: Trajectory) -> Trajectory:
    """The Austin data sets: 1 closes; some go slightly beyond. The state is joints or pose, then the gripper."""
    action = t["action"]
    state = t["observation"]["state"]
    return _with(t, _joined(action[:, :6], invert(clipped(action[:, -1:]))), state=state[:, :8])


def _nyu_franka_play(t: Trajectory) -> Trajectory:
    action = t["action"]
    action = _joined(action[:, -8:-2], clipped(action[:, -2:-1]))
    return _with(t, action, eef_state=t["observation"]["state"][:, -6:])


def _furniture_bench(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["state"]
    action = _joined(action[:, :3], _euler(action[:, 3:7]), invert(clipped(action[:, -1:])))
    return _with(t, action, state=np.concatenate([state[:, :7], state[:, -1:]], axis=1))


def _iamlab_pick_insert(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["state"]
    action = _joined(action[:, :3], _euler(action[:, 3:7]), action[:, 7:8])
    return _with(t, action, joint_state=state[:, :7], gripper_state=state[:, 7:8])


def _ucsd_kitchen(t: Trajectory) -> Trajectory:
    return _with(t, t["action"][:, :-1], joint_state=t["observation"]["state"][:, :7])


def _berkeley_fanuc(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    gripper = state[:, 6:7]
    return _with(t, _joined(t["action"], invert(gripper)), joint_state=state[:, :6], gripper_state=gripper)


def _cmu_stretch(t: Trajectory) -> Trajectory:
    state = t["observation"]["state"]
    pose = np.concatenate([state[:, :3], np.zeros_like(state[:, :3])], axis=1)
    return _with(t, t["action"][:, :-1], eef_state=pose, gripper_state=state[:, -1:])


def _fmb(t: Trajectory) -> Trajectory:
    seen = t["observation"]
    return _with(t, t["action"], proprio=_joined(seen["eef_pose"], seen["state_gripper_pose"]))


def _dobbe(t: Trajectory) -> Trajectory:
    return _with(t, t["action"], proprio=t["observation"]["state"])


def _droid(t: Trajectory) -> Trajectory:
    commands, seen = t["action_dict"] if "action_dict" in t else t["action"], t["observation"]
    action = _joined(commands["cartesian_velocity"], invert(_numbers(commands["gripper_position"])))
    return _with(t, action, proprio=_joined(seen["cartesian_position"], seen["gripper_position"]))


def _tdroid(t: Trajectory) -> Trajectory:
    t = _droid(t)
    return {**t, "action": _joined(t["action"][:, :6], binarize(t["action"][:, -1]))}


def _libero(t: Trajectory) -> Trajectory:
    action, state = t["action"], t["observation"]["state"]
    action = _joined(action[:, :6], invert(clipped(action[:, -1:])))
    return _with(t, action, EEF_state=state[:, :6], gripper_state=state[:, -2:])


def swap_exterior_cameras(trajectory: Trajectory, swap: bool) -> Trajectory:
    """DROID films from two sides: in training either view may be the primary one, chosen once per trajectory."""
    if not swap:
        return trajectory
    seen = dict(trajectory["observation"])
    one, two = "exterior_image_1_left", "exterior_image_2_left"
    seen[one], seen[two] = seen[two], seen[one]
    return {**trajectory, "observation": seen}


def moving_steps(actions: np.ndarray, least: float = 1e-6) -> np.ndarray:
    """(T, 7) -> (T,) bool: false where none of the six motion numbers is above `least`. DROID drops these steps."""
    return (np.abs(actions[:, :6]) > least).any(axis=1)


# Small pieces.


def _with(t: Trajectory, action: np.ndarray, **states: np.ndarray) -> Trajectory:
    """The trajectory with this action and these parts of the state."""
    return {**t, "action": action, "observation": {**t["observation"], **states}}


def _joined(*parts: np.ndarray) -> np.ndarray:
    """(T,) and (T, n) side by side, (T, sum of n) float32."""
    columns = [_numbers(part) for part in parts]
    return np.concatenate([part[:, None] if part.ndim == 1 else part for part in columns], axis=1)


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _motion(t: Trajectory, gripper: np.ndarray) -> np.ndarray:
    """World vector, rotation and the gripper (T,) or (T, 1)."""
    return _joined(t["action"]["world_vector"], t["action"]["rotation_delta"], gripper)


def _commanded(t: Trajectory) -> np.ndarray:
    return absolute_from_relative(_numbers(t["action"]["gripper_closedness_action"]).reshape(-1))


def _inverted(action: np.ndarray) -> np.ndarray:
    return _joined(action[:, :6], invert(action[:, -1:]))


def _euler(quaternions: np.ndarray) -> np.ndarray:
    """(T, 4) x, y, z, w -> (T, 3) roll, pitch, yaw, radians."""
    turns = [unit(quaternion) for quaternion in quaternions]
    if any(turn is None for turn in turns):
        raise ValueError("a rotation is no quaternion of length 1")
    return np.array([to_euler_xyz(turn) for turn in turns if turn is not None]).reshape(-1, 3)


def _unpacked(packed: Any, width: int) -> np.ndarray:
    """(T,) ZLIB-compressed float32 -> (T, width); arrays that are numbers already pass."""
    if isinstance(packed, np.ndarray) and packed.dtype.kind == "f":
        return packed.reshape(-1, width)
    rows = [zlib.decompressobj().decompress(bytes(item), MAX_DECOMPRESSED) for item in packed]
    return np.stack([np.frombuffer(row, dtype="<f4").reshape(width) for row in rows])


def _text_of_codes(letters: Any) -> str:
    """(T, n) or (n,) Unicode numbers, ended by 0 -> text."""
    row = np.asarray(letters)
    codes = (row[0] if row.ndim == 2 else row).tolist()
    return "".join(map(chr, codes[: codes.index(0)] if 0 in codes else codes))


def _steps(t: Trajectory, start: int, stop: int | None) -> Trajectory:
    """Every part of the trajectory from one step to another."""

    def cut(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {key: cut(value) for key, value in values.items()}
        if isinstance(values, np.ndarray):
            return values[start:stop]
        # Frames know their length and one picture at a time, and need not know slices.
        return values if isinstance(values, str) else [values[i] for i in range(len(values))[start:stop]]

    return {**t, "observation": cut(t["observation"]), "action": cut(t["action"])}


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
    "dlr_edan_shared_control": _inverted_gripper,
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
