"""Small data sets in the form in which Open X-Embodiment publishes two of its own: fields, types and file names."""

import json
from pathlib import Path

import numpy as np
from made_episodes import jpeg, picture

from openvla_core.datasets.rlds.features import FEATURES, features_json, image, tensor, text
from openvla_core.datasets.rlds.reader import INFO
from openvla_core.datasets.rlds.tf_example import build_example
from openvla_core.datasets.rlds.tfrecord import RecordWriter

SIDE = 224
FLAGS = {name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
BRIDGE = {
    "observation": {
        **{f"image_{number}": image((SIDE, SIDE, 3), "jpeg") for number in range(4)},
        "state": tensor("float32", (7,)),
    },
    "action": tensor("float32", (7,)),
    "language_instruction": text(),
    **FLAGS,
}
RT1 = {
    "observation": {
        "image": image((SIDE, SIDE, 3), "jpeg"),
        "natural_language_instruction": text(),
        "base_pose_tool_reached": tensor("float32", (7,)),
        "gripper_closed": tensor("float32", (1,)),
    },
    "action": {
        "world_vector": tensor("float32", (3,)),
        "rotation_delta": tensor("float32", (3,)),
        "gripper_closedness_action": tensor("float32", (1,)),
        "terminate_episode": tensor("int32", (3,)),
    },
    **FLAGS,
}


def bridge_episode(seed: int, steps: int, instruction: str = "put the spoon on the towel") -> dict:
    rng = np.random.default_rng(seed)
    gripper = (np.arange(steps) % 4 < 2).astype(np.float32)
    pictures = {f"steps/observation/image_{number}": pictures_of(rng, steps) for number in range(4)}
    return {
        "steps/action": np.c_[rng.normal(0, 0.02, (steps, 6)), gripper].astype(np.float32),
        "steps/observation/state": rng.normal(0, 0.3, (steps, 7)).astype(np.float32),
        "steps/language_instruction": [instruction.encode()] * steps,
        **pictures,
        **flags(steps),
    }


def rt1_episode(seed: int, steps: int, instruction: str = "move the apple near the can") -> dict:
    """The gripper is told to close at the second step, to open at the fourth, and not told anything else."""
    rng = np.random.default_rng(seed)
    command = np.zeros((steps, 1), np.float32)
    command[1], command[3:4] = 1, -1
    return {
        "steps/action/world_vector": rng.normal(0, 0.05, (steps, 3)).astype(np.float32),
        "steps/action/rotation_delta": rng.normal(0, 0.1, (steps, 3)).astype(np.float32),
        "steps/action/gripper_closedness_action": command,
        "steps/action/terminate_episode": np.zeros((steps, 3), np.int64),
        "steps/observation/base_pose_tool_reached": rng.normal(0, 1, (steps, 7)).astype(np.float32),
        "steps/observation/gripper_closed": np.zeros((steps, 1), np.float32),
        "steps/observation/natural_language_instruction": [instruction.encode()] * steps,
        "steps/observation/image": pictures_of(rng, steps),
        **flags(steps),
    }


def pictures_of(rng: np.random.Generator, steps: int) -> list[bytes]:
    return [jpeg(picture(rng, SIDE)) for _ in range(steps)]


def flags(steps: int) -> dict:
    last = np.arange(steps) == steps - 1
    return {"steps/is_first": np.arange(steps) == 0, "steps/is_last": last, "steps/is_terminal": last}


def publish(root: Path, name: str, step: dict, episodes: list[dict], shards: int = 2) -> Path:
    """Writes `root`/name/1.0.0 as TFDS does; episodes are spread over the shards in order."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    parts = [list(part) for part in np.array_split(np.arange(len(episodes)), shards)]
    for index, part in enumerate(parts):
        writer = RecordWriter(folder / f"{name}-train.tfrecord-{index:05d}-of-{shards:05d}")
        for number in part:
            writer.add(build_example({**episodes[number], "episode_metadata/file_path": [b"somewhere"]}))
        writer.close()
    (folder / FEATURES).write_text(json.dumps(features_json(step, {"file_path": text()})), encoding="utf-8")
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "train",
        "shardLengths": [str(len(part)) for part in parts],
    }
    info = {"fileFormat": "tfrecord", "name": name, "splits": [split], "version": "1.0.0"}
    (folder / INFO).write_text(json.dumps(info), encoding="utf-8")
    return root / name
