"""The Open X-Embodiment data sets OpenVLA was trained on: their weights, their field names and what is left out."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openvla_core.datasets.episode import PRIMARY, SECONDARY, WRIST, Episode, Frames, PixelFrames
from openvla_core.datasets.oxe.curation import DROP_STILL_STEPS
from openvla_core.datasets.oxe.standardize import standardize
from openvla_core.datasets.oxe.trajectories import ChosenFrames
from openvla_core.datasets.streaming.shuffle import mixed
from openvla_core.errors import DatasetError

# The three mixtures, in the order of DatasetCard.weights: all of them take Octo's weights as their start.
MIXTURES = ("oxe_magic_soup", "oxe_magic_soup_plus", "oxe_magic_soup_plus_minus")

PAD = "-"  # a number of the state that this robot does not have: 0
LANGUAGE = ("language_instruction", "natural_language_instruction")
_CONVERTED = "_dataset_converted_externally_to_rlds"
_CONVERTED_SHORT = "_converted_externally_to_rlds"


@dataclass(frozen=True)
class DatasetCard:
    """Where a data set keeps what is needed.

    weights: per mixture of MIXTURES, None where it is not a member. images: camera -> name of its frames. state: names
    that are put side by side, PAD for one 0. state_encoding: "POS_EULER", "POS_QUAT", "JOINT" or "NONE".
    transform: of openvla_core.datasets.oxe.standardize. drop_still_steps: see curation.trained_steps. swap_cameras:
    either of the first two cameras may be the primary one, drawn for every trajectory. rate_hz: 0 where it is not known
    here.
    """

    weights: tuple[float | None, float | None, float | None]
    images: Mapping[str, str]
    state: tuple[str, ...]
    state_encoding: str
    transform: str
    drop_still_steps: bool = False
    swap_cameras: bool = False
    rate_hz: float = 0.0


def _card(
    weights: tuple[float | None, float | None, float | None],
    images: str,
    state: str,
    encoding: str,
    transform: str,
    drop_still_steps: bool = False,
    swap_cameras: bool = False,
) -> DatasetCard:
    """images: primary, secondary and wrist, separated by blanks, "-" where there is none."""
    cameras = dict(zip((PRIMARY, SECONDARY, WRIST), images.split(), strict=True))
    present = {camera: name for camera, name in cameras.items() if name != "-"}
    return DatasetCard(weights, present, tuple(state.split()), encoding, transform, drop_still_steps, swap_cameras)


_RT1, _KUKA = 0.54087122203, 0.8341046294
_ONE, _TWO = (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)
_EIGHT_PADS = " ".join([PAD] * 8)

DATASETS: dict[str, DatasetCard] = {
    "fractal20220817_data": _card(
        (_RT1, _RT1, 1.0), "image - -", "base_pose_tool_reached gripper_closed", "POS_QUAT", "rt1"
    ),
    "kuka": _card(
        (_KUKA, _KUKA, _KUKA), "image - -", "clip_function_input/base_pose_tool_reached gripper_closed", "POS_QUAT",
        "kuka",
    ),
    "bridge_orig": _card(_ONE, "image_0 image_1 -", "EEF_state - gripper_state", "POS_EULER", "bridge_orig"),
    "taco_play": _card(_TWO, "rgb_static - rgb_gripper", "state_eef - state_gripper", "POS_EULER", "taco_play"),
    "jaco_play": _card(_ONE, "image - image_wrist", "state_eef - state_gripper", "POS_EULER", "jaco_play"),
    "berkeley_cable_routing": _card(
        _ONE, "image top_image wrist45_image", "robot_state -", "JOINT", "berkeley_cable_routing"
    ),
    "roboturk": _card(_TWO, "front_rgb - -", _EIGHT_PADS, "NONE", "roboturk"),
    "viola": _card(_TWO, "agentview_rgb - eye_in_hand_rgb", "joint_states gripper_states", "JOINT", "viola"),
    "berkeley_autolab_ur5": _card(_TWO, "image - hand_image", "state", "POS_QUAT", "berkeley_autolab_ur5"),
    "toto": _card(_ONE, "image - -", "state -", "JOINT", "toto"),
    "language_table": _card(
        (0.1, 0.1, None), "rgb - -", "effector_translation - - - - - -", "POS_EULER", "language_table"
    ),
    f"stanford_hydra{_CONVERTED}": _card(
        _TWO, "image - wrist_image", "eef_state - gripper_state", "POS_EULER", "stanford_hydra"
    ),
    f"austin_buds{_CONVERTED}": _card(_ONE, "image - wrist_image", "state", "JOINT", "austin_buds"),
    f"nyu_franka_play{_CONVERTED}": _card(
        (3.0, 3.0, 3.0), "image image_additional_view -", "eef_state - -", "POS_EULER", "nyu_franka_play"
    ),
    f"furniture_bench{_CONVERTED}": _card(
        (0.1, 0.1, 0.1), "image - wrist_image", "state", "POS_QUAT", "furniture_bench"
    ),
    f"ucsd_kitchen{_CONVERTED}": _card(_TWO, "image - -", "joint_state -", "JOINT", "ucsd_kitchen"),
    f"austin_sailor{_CONVERTED}": _card(_ONE, "image - wrist_image", "state", "POS_QUAT", "austin_sailor"),
    f"austin_sirius{_CONVERTED}": _card(_ONE, "image - wrist_image", "state", "POS_QUAT", "austin_sirius"),
    f"dlr_edan_shared_control{_CONVERTED_SHORT}": _card(
        _ONE, "image - -", "state -", "POS_EULER", "dlr_edan_shared_control"
    ),
    f"iamlab_cmu_pickup_insert{_CONVERTED_SHORT}": _card(
        _ONE, "image - wrist_image", "joint_state gripper_state", "JOINT", "iamlab_pick_insert"
    ),
    "utaustin_mutex": _card(_ONE, "image - wrist_image", "state", "JOINT", "utaustin_mutex"),
    "berkeley_fanuc_manipulation": _card(
        _TWO, "image - wrist_image", "joint_state - gripper_state", "JOINT", "berkeley_fanuc"
    ),
    "cmu_stretch": _card(_ONE, "image - -", "eef_state - gripper_state", "POS_EULER", "cmu_stretch"),
    "bc_z": _card(
        (None, 0.2, 0.2), "image - -", "present/xyz present/axis_angle - present/sensed_close", "POS_EULER", "bc_z"
    ),
    "fmb_dataset": _card((None, 1.0, 1.0), "image_side_1 image_side_2 image_wrist_1", "proprio", "POS_EULER", "fmb"),
    "dobbe": _card((None, 0.2, 0.2), "wrist_image - -", "proprio", "POS_EULER", "dobbe"),
    "droid": _card(
        (None, 0.06, None), "exterior_image_1_left exterior_image_2_left wrist_image_left", "proprio", "POS_QUAT",
        "droid_baseact", drop_still_steps=True, swap_cameras=True,
    ),
}  # fmt: skip


def mixture_weights(mixture: str) -> dict[str, float]:
    """Data set -> weight, for one of MIXTURES. Raises DatasetError for another name."""
    if mixture not in MIXTURES:
        raise DatasetError(f"mixture {mixture!r} is unknown; choose one of {', '.join(MIXTURES)}.")
    column = MIXTURES.index(mixture)
    weights = {name: card.weights[column] for name, card in DATASETS.items()}
    return {name: weight for name, weight in weights.items() if weight is not None}


def to_episode(
    dataset: str, trajectory: Mapping[str, Any], name: str, card: DatasetCard | None = None, seed: int = 0
) -> Episode | None:
    """One recorded trajectory (its form: openvla_core.datasets.oxe.standardize) as an episode with state "proprio".

    card: where the data set keeps things; by default that of DATASETS. name: unique in the data set. seed: with the
    name decides what is drawn for this trajectory, the same at every call. Returns None for what training leaves out:
    no instruction, or no step. Raises DatasetError when fields are missing.
    """
    card = card_of(dataset) if card is None else card
    given = standardize(card.transform, trajectory)
    instruction, actions, seen = _instruction(given), given["action"], given["observation"]
    if not instruction or not len(actions):
        return None
    missing = [key for key in (*card.images.values(), *card.state) if key not in seen and key != PAD]
    if missing:
        raise DatasetError(f"{dataset}: a trajectory lacks {', '.join(missing)}; it has {', '.join(sorted(seen))}.")
    swapped = card.swap_cameras and bool(mixed(seed, zlib.crc32(f"{dataset}/{name}".encode())) & 1)
    steps = np.arange(len(actions), dtype=np.float64)
    return Episode(
        name=name,
        instruction=instruction,
        images={camera: _frames(seen[key]) for camera, key in _cameras(card, swapped).items()},
        actions=actions,
        state={"proprio": _state(seen, card.state, len(actions))},
        times_s=steps / card.rate_hz if card.rate_hz else steps,
        rate_hz=card.rate_hz,
        metadata={
            "source": dataset,
            "state_encoding": card.state_encoding,
            **({DROP_STILL_STEPS: True} if card.drop_still_steps else {}),
            **({"swapped_cameras": swapped} if card.swap_cameras else {}),
        },
    )


def card_of(dataset: str) -> DatasetCard:
    """Raises DatasetError for a data set that is not in DATASETS."""
    if dataset not in DATASETS:
        raise DatasetError(
            f"{dataset!r} is not in the mixtures; give its DatasetCard, or one of {', '.join(DATASETS)}."
        )
    return DATASETS[dataset]


def _cameras(card: DatasetCard, swapped: bool) -> dict[str, str]:
    """Camera -> name of its frames."""
    others = {PRIMARY: SECONDARY, SECONDARY: PRIMARY} if swapped else {}
    return {others.get(camera, camera): name for camera, name in card.images.items()}


def _instruction(trajectory: Mapping[str, Any]) -> str:
    for place in (trajectory, trajectory["observation"]):
        for key in LANGUAGE:
            if key in place:
                return _text(place[key])
    return ""


def _text(value: Any) -> str:
    """The sentence; where it is repeated at every step, the first one."""
    if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) > 0:
        value = value[0] if len(value) else ""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _state(seen: Mapping[str, Any], names: tuple[str, ...], steps: int) -> np.ndarray:
    """(T, n) float32: the named parts side by side."""
    parts = [np.zeros((steps, 1)) if name == PAD else np.asarray(seen[name]).reshape(steps, -1) for name in names]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _frames(frames: Any) -> Frames:
    """Frames of an array or a sequence of pictures or their files."""
    if hasattr(frames, "encoded"):
        return frames
    return PixelFrames(frames) if isinstance(frames, np.ndarray) else ChosenFrames(frames, np.arange(len(frames)))
