"""features.json of a TFDS data set: which names an Example has, and what their lists of numbers and bytes mean."""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.datasets.episode import EncodedFrames
from openvla_core.datasets.lerobot.files import read_object
from openvla_core.datasets.rlds.tf_example import Value
from openvla_core.errors import DatasetError

FEATURES = "features.json"
STEPS = "steps"
_PACKAGE = "tensorflow_datasets.core.features."
MAX_DEPTH = 16
MAX_UNPACKED = 64 * 1024 * 1024
STRINGS = ("string", "object")


@dataclass(frozen=True)
class Feature:
    """One leaf of the tree. path: names from the root, in an Example joined by '/'.

    shape: of one step, or of the whole outside the steps. encoding: "none", "bytes" or "zlib"; "image" for picture
    files and "text" for strings, which stay bytes.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    encoding: str

    @property
    def key(self) -> str:
        return "/".join(self.path)

    @property
    def in_steps(self) -> bool:
        return self.path[0] == STEPS

    def decode(self, value: Value, steps: int) -> Any:
        """(steps, *shape) of the dtype, EncodedFrames, or a list of byte strings; DatasetError when it is none."""
        if self.encoding in ("image", "text") or (self.encoding == "none" and self.dtype in STRINGS):
            files = self._bytes(value, steps * (1 if self.encoding in ("image", "text") else math.prod(self.shape)))
            return EncodedFrames(files) if self.encoding == "image" else files
        try:
            if self.encoding == "none":
                if not isinstance(value, np.ndarray) and value:
                    raise ValueError("byte strings instead of numbers")
                numbers = np.asarray(value)
            else:
                files = self._bytes(value, steps)
                unpacked = [_inflated(file) if self.encoding == "zlib" else file for file in files]
                numbers = np.frombuffer(b"".join(unpacked), np.dtype(self.dtype).newbyteorder("<"))
            return numbers.reshape(steps, *self.shape).astype(self.dtype)
        except (ValueError, TypeError, zlib.error) as error:
            raise DatasetError(f"{self.key!r} does not hold {steps} x {self.shape} {self.dtype}: {error}.") from error

    def steps_of(self, value: Value) -> int:
        """How many steps the value has; -1 when the shape does not tell."""
        size = 1 if self.encoding != "none" else math.prod(self.shape)
        return len(value) // size if size else -1

    def _bytes(self, value: Value, count: int) -> list[bytes]:
        if isinstance(value, np.ndarray) or len(value) != count:
            kind = "numbers" if isinstance(value, np.ndarray) else "byte strings"
            raise DatasetError(f"{self.key!r} holds {len(value)} {kind}; expected {count} byte strings.")
        return value


def read_features(folder: Path) -> list[Feature]:
    """The leaves that this release can read; sequences within a step and parts of unknown size are left out.

    Raises DatasetError when the file is missing, damaged, or has no steps.
    """
    try:
        features = list(_leaves(read_object(folder / FEATURES), ()))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{folder / FEATURES} is damaged ({error!r}). Copy the data set again.") from error
    if not any(feature.in_steps for feature in features):
        raise DatasetError(f"{folder} has no {STEPS!r} in {FEATURES}; this is not a data set of episodes (RLDS).")
    return features


def features_json(step: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of features.json from trees of leaves made by `tensor`, `image` and `text`."""
    dataset = {
        "pythonClassName": _PACKAGE + "dataset_feature.Dataset",
        "sequence": {"feature": _node(step), "length": "-1"},
    }
    return _node({STEPS: dataset, "episode_metadata": _node(metadata)})


def tensor(dtype: str, shape: tuple[int, ...] = (), encoding: str = "none") -> dict[str, Any]:
    python_class = "tensor_feature.Tensor" if shape or encoding != "none" else "scalar.Scalar"
    described = {"dtype": dtype, "encoding": encoding, "shape": _dimensions(shape)}
    return {"pythonClassName": _PACKAGE + python_class, "tensor": described}


def image(shape: tuple[int, ...], encoding_format: str) -> dict[str, Any]:
    described = {"dtype": "uint8", "encodingFormat": encoding_format, "shape": _dimensions(shape)}
    return {"pythonClassName": _PACKAGE + "image_feature.Image", "image": described}


def text() -> dict[str, Any]:
    return {"pythonClassName": _PACKAGE + "text_feature.Text", "text": {}}


def _leaves(node: Mapping[str, Any], path: tuple[str, ...], in_steps: bool = False) -> Iterator[Feature]:
    if len(path) > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            yield from _leaves(child, (*path, name), in_steps)
    elif "sequence" in node:
        # Only the steps themselves; a sequence within a step has lengths of its own.
        if path == (STEPS,) and not in_steps:
            yield from _leaves(node["sequence"]["feature"], path, True)
    elif "image" in node:
        yield Feature(path, (), str(node["image"].get("dtype", "uint8")), "image")
    elif "text" in node:
        yield Feature(path, (), "string", "text")
    elif "classLabel" in node:
        yield Feature(path, (), "int64", "none")
    elif "tensor" in node:
        shape = tuple(int(size) for size in node["tensor"].get("shape", {}).get("dimensions", []))
        dtype = str(node["tensor"]["dtype"])
        encoding = str(node["tensor"].get("encoding") or "none")
        if all(size >= 0 for size in shape) and encoding in ("none", "bytes", "zlib"):
            if dtype not in STRINGS:
                np.dtype(dtype)
            yield Feature(path, shape, dtype, encoding)


def _node(children: Mapping[str, Any]) -> dict[str, Any]:
    described = {name: child if "pythonClassName" in child else _node(child) for name, child in children.items()}
    return {"pythonClassName": _PACKAGE + "features_dict.FeaturesDict", "featuresDict": {"features": described}}


def _dimensions(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dimensions": [str(size) for size in shape]} if shape else {}


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(data, MAX_UNPACKED)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError(f"packed data are cut off or unpack to more than {MAX_UNPACKED // 2**20} MiB")
    return plain
