"""A few recordings in every format that a lab may have them in."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

from openvla_core.datasets import command, convert
from openvla_core.datasets.bags.reader import BagSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets"))

from bag_tools import Scribe, demonstration

NAME = "kitchen"
EXACT = ("lerobot", "lerobot-v2.1", "rlds", "shards")
SENTENCES = ("pick up the red cube", "pick up the blue cube")  # which the checkpoint `words` knows


def bags(folder: Path, episodes: int = 4, failures: int = 0, cards: bool = True) -> Path:
    """Recordings of a hand, in turn about a red and a blue cube; the last ones failed."""
    root = folder / NAME
    root.mkdir(parents=True)
    scribe = Scribe()
    for number in range(episodes + failures):
        tape = demonstration(2 * number, outcome="success" if number < episodes else "failure")
        assert tape.facts["instruction"] in SENTENCES
        if not cards:
            del tape.facts["convention"]
        scribe.write(tape, root)
    return root


def written_as(kind: str, recordings: Path, folder: Path) -> Path:
    """The same by the commands that a lab has, under the same name; kind: one of EXACT or "hdf5"."""
    target = folder / NAME
    if kind == "hdf5":
        target.mkdir(parents=True)
        for number, episode in enumerate(BagSource(recordings)):
            if episode.success:  # HDF5 has no word for a failure
                _as_robomimic(episode, target / f"task_{number}.hdf5")
    elif kind == "shards":
        target.parent.mkdir(parents=True, exist_ok=True)
        assert command.main(["shard", str(recordings), str(target)]) == 0
    else:
        assert convert.main([str(recordings), str(target), "--to", kind, "--quiet"]) == 0
    return target


def _as_robomimic(episode, path: Path) -> None:
    """One file has one sentence."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": episode.instruction})
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": episode.rate_hz}})
        demo = data.create_group("demo_0")
        demo["actions"] = episode.actions
        demo["rewards"] = np.array([0] * (len(episode) - 1) + [1], np.uint8)
        demo["obs/agentview_image"] = np.stack([episode.images["primary"][step] for step in range(len(episode))])
