"""The pieces that openvla_core.datasets.oxe.standardize puts its transforms together from."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from openvla_core.datasets.gripper import absolute_from_relative, invert
from openvla_core.images import decode_compressed
from openvla_core.rotations import to_euler_xyz, unit

Trajectory = dict[str, Any]
MAX_DECOMPRESSED = 1 << 16  # bytes of one unpacked row; what is larger is no state


def with_parts(t: Trajectory, action: np.ndarray, **states: np.ndarray) -> Trajectory:
    """The trajectory with this action and these parts of the state."""
    return {**t, "action": action, "observation": {**t["observation"], **states}}


def joined(*parts: np.ndarray) -> np.ndarray:
    """(T,) and (T, n) side by side, (T, sum of n) float32."""
    columns = [numbers(part) for part in parts]
    return np.concatenate([part[:, None] if part.ndim == 1 else part for part in columns], axis=1)


def numbers(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def motion(t: Trajectory, gripper: np.ndarray) -> np.ndarray:
    """World vector, rotation and the gripper (T,) or (T, 1)."""
    return joined(t["action"]["world_vector"], t["action"]["rotation_delta"], gripper)


def commanded_gripper(t: Trajectory) -> np.ndarray:
    return absolute_from_relative(numbers(t["action"]["gripper_closedness_action"]).reshape(-1))


def inverted_gripper(action: np.ndarray) -> np.ndarray:
    return joined(action[:, :6], invert(action[:, -1:]))


def euler(quaternions: np.ndarray) -> np.ndarray:
    """(T, 4) x, y, z, w -> (T, 3) roll, pitch, yaw, radians."""
    turns = [unit(quaternion) for quaternion in quaternions]
    if any(turn is None for turn in turns):
        raise ValueError("a rotation is no quaternion of length 1")
    return np.array([to_euler_xyz(turn) for turn in turns if turn is not None]).reshape(-1, 3)


def unpacked(packed: Any, width: int) -> np.ndarray:
    """(T,) ZLIB-compressed float32 -> (T, width); arrays that are numbers already pass."""
    if isinstance(packed, np.ndarray) and packed.dtype.kind == "f":
        return packed.reshape(-1, width)
    rows = [zlib.decompressobj().decompress(bytes(item), MAX_DECOMPRESSED) for item in packed]
    return np.stack([np.frombuffer(row, dtype="<f4").reshape(width) for row in rows])


def text_of_codes(letters: Any) -> str:
    """(T, n) or (n,) Unicode numbers, ended by 0 -> text."""
    row = np.asarray(letters)
    codes = (row[0] if row.ndim == 2 else row).tolist()
    return "".join(map(chr, codes[: codes.index(0)] if 0 in codes else codes))


def cut_steps(t: Trajectory, start: int, stop: int | None) -> Trajectory:
    """Every part of the trajectory from one step to another."""

    def cut(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {key: cut(value) for key, value in values.items()}
        if isinstance(values, (np.ndarray, list, tuple)):
            return values[start:stop]
        # Whatever else is a sequence are frames: they stay the files they are.
        return values if isinstance(values, str) else ChosenFrames(values, np.arange(len(values))[start:stop])

    return {**t, "observation": cut(t["observation"]), "action": cut(t["action"])}


class ChosenFrames:
    """Some frames of another sequence, at the places `chosen` (K,): of Frames, of JPEG or PNG files, or of pixels."""

    def __init__(self, frames: Any, chosen: np.ndarray) -> None:
        self._frames, self._chosen = frames, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> np.ndarray:
        frame = self._frames[int(self._chosen[index])]
        return decode_compressed(frame) if isinstance(frame, bytes) else np.asarray(frame)

    def encoded(self, index: int) -> bytes | None:
        place = int(self._chosen[index])
        if hasattr(self._frames, "encoded"):
            return self._frames.encoded(place)
        frame = self._frames[place]
        return frame if isinstance(frame, bytes) else None
