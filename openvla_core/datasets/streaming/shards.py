"""Data sets as tar files of some thousand steps each, readable by WebDataset and Energon, and here by step number.

A folder holds <name>-000000.tar, <name>-000001.tar, ..., index.npy and dataset.json. Each step is two members, key.jpg
(or key.png), as it was recorded, and key.json with "instruction", "actions", "state" and where it comes from; the key
is made of the episode's and the step's number. index.npy says where each step lies, so any one is one read away.
dataset.json tells what the numbers mean: the statistics and the convention card of the actions.
openvla_core.datasets.streaming.shard_writer writes such folders.
"""

import os
from collections import OrderedDict
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from openvla_core.datasets.streaming.sources import Step
from openvla_core.errors import CheckpointError, DatasetError
from openvla_core.json_file import parse_object

FORMAT = "openvla-shards-1"
MAX_SAMPLE_BYTES = 64 << 20

# image: where its bytes begin; label: those of key.json. Both within the tar file number `shard`.
INDEX = np.dtype([("shard", "<u4"), ("image", "<u8"), ("image_bytes", "<u4"), ("label", "<u8"), ("label_bytes", "<u4")])


class ShardSource:
    """The steps of a folder that write_shards wrote, each by one read. The index stays on the disk."""

    def __init__(self, folder: str | Path, keep_open: int = 32) -> None:
        """keep_open: files held open, per process. Raises DatasetError when the folder is incomplete or damaged."""
        self.folder = Path(folder)
        self.description = _description(self.folder)
        self.name: str = self.description["name"]
        self._ends = np.cumsum([shard["steps"] for shard in self.description["shards"]], dtype=np.int64)
        self._index = _index(self.folder, int(self._ends[-1]))
        self._files: OrderedDict[int, int] = OrderedDict()
        self._keep_open = keep_open

    @property
    def block_ends(self) -> np.ndarray:
        return self._ends

    @property
    def statistics(self) -> dict[str, Any]:
        """As one entry of dataset_statistics.json."""
        return self.description["statistics"]

    @property
    def convention(self) -> dict[str, Any] | None:
        """The card of the actions; None when the episodes carried none."""
        return self.description.get("convention")

    @property
    def transitions(self) -> int:
        """The recorded steps, with those that are not trained on: what the mixtures weigh a data set by."""
        return int(self.statistics.get("num_transitions", len(self)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Step:
        """Raises DatasetError, naming file and step, when what is there is not what was written."""
        row = self._index[index]
        shard, start, end = int(row["shard"]), int(row["image"]), int(row["label"]) + int(row["label_bytes"])
        name = self.description["shards"][shard]["file"]
        if not 0 <= end - start <= MAX_SAMPLE_BYTES:
            raise DatasetError(f"{self.folder}/index.npy is damaged at step {index}; write the shards again.")
        data = os.pread(self._file(shard), end - start, start)
        try:
            label = parse_object(data[int(row["label"]) - start :], f"step {index} of {name}")
            actions = np.array(label["actions"], dtype=np.float32)
            state = {key: np.array(values, dtype=np.float32) for key, values in label["state"].items()}
            return Step(
                dataset=self.name,
                episode=int(label["episode"]),
                index=int(label["step"]),
                image=data[: int(row["image_bytes"])],
                instruction=str(label["instruction"]),
                actions=actions.reshape(1 + int(self.description["future"]), -1),
                state=state,
                episode_name=str(label["episode_name"]),
            )
        except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"step {index} in {self.folder / name} is damaged ({str(error)[:200]}). Copy the file again."
            ) from error

    def close(self) -> None:
        """Closes the files; they open again when they are needed."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            path = self.folder / self.description["shards"][shard]["file"]
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise DatasetError(f"{path} cannot be opened ({error}). Copy the data set again.") from error
            if len(self._files) > self._keep_open:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return self._files[shard]


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        description = parse_object(path.read_bytes(), str(path))
        shards, facts = description["shards"], (description["name"], description["future"], description["statistics"])
        if description["format"] != FORMAT or not shards or not isinstance(facts[0], str) or not 0 <= facts[1] < 1000:
            raise ValueError(f"format {description['format']!r}, expected {FORMAT!r} with shards")
        if not isinstance(description.get("convention"), (dict, NoneType)):
            raise ValueError("its convention card is none")
        for shard in shards:
            if type(shard["steps"]) is not int or shard["steps"] < 1 or Path(shard["file"]).name != shard["file"]:
                raise ValueError(f"shard {shard!r}")
            size = (folder / shard["file"]).stat().st_size
            if size != shard["bytes"]:
                raise ValueError(f"{shard['file']} has {size} bytes, {shard['bytes']} were written")
    except (OSError, CheckpointError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{folder} is not a complete data set of shards ({str(error)[:300]}). Give a folder that was written by "
            "openvla_core.datasets.streaming.shards, and copy all of it."
        ) from error
    return description


def _index(folder: Path, steps: int) -> np.ndarray:
    path = folder / "index.npy"
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}). Copy the data set again.") from error
    if index.dtype != INDEX or index.shape != (steps,):
        raise DatasetError(f"{path} holds {index.dtype} {index.shape}; expected {steps} places. Copy it again.")
    return index
