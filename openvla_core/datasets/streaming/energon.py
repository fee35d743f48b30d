"""The same shards through Megatron-Energon, for data that lie in an object store or on too many disks to index here.

Prepare each folder of shards once, with the tool that Energon installs:

    energon prepare --non-interactive --split-parts 'train:.*' --split-parts 'val:$^' \\
        --sample-type CrudeWebdataset FOLDER

then `write_metadataset` says how the folders are mixed, and `task_encoder` makes of each step what ExampleBuilder
makes of it. Energon is not installed with this project: pip install megatron-energon. Tried with 7.4.1.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from openvla_core.datasets.oxe.mixture import Mixture
from openvla_core.datasets.streaming.sources import Step
from openvla_core.errors import DatasetError
from openvla_core.json_file import parse_object

PREPARED = Path(".nv-meta") / "dataset.yaml"


def write_metadataset(path: Path, mixture: Mixture, folders: Mapping[str, Path]) -> None:
    """Writes the YAML file that Energon opens: every data set with the share of samples it has in the mixture.

    folders: per data set, prepared folders of shards. Raises DatasetError for those that are not.
    """
    missing = [name for name in mixture.names if not (Path(folders.get(name, "")) / PREPARED).is_file()]
    if missing:
        raise DatasetError(f"run `energon prepare` on the shards of {', '.join(missing)} first.")
    blend = [
        {"weight": float(share), "path": str(Path(folders[name]).resolve())}
        for name, share in zip(mixture.names, mixture.probabilities, strict=True)
    ]
    content = {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": {"train": {"blend": blend}}}
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def step_of(sample: Mapping[str, Any]) -> Step:
    """One sample, {"jpg" or "png": bytes, "json": bytes}, as Energon and WebDataset hand it out: undecoded."""
    image = sample.get("jpg", sample.get("png"))
    if not isinstance(image, bytes) or not isinstance(sample.get("json"), bytes):
        raise DatasetError(f"the sample holds {sorted(map(str, sample))}; expected the undecoded files jpg and json.")
    label = parse_object(sample["json"], str(sample.get("__key__")))
    return Step(
        dataset=label["dataset"],
        episode=label["episode"],
        index=label["step"],
        image=image,
        instruction=label["instruction"],
        actions=np.array(label["actions"], dtype=np.float32),
        state={key: np.array(values, dtype=np.float32) for key, values in label["state"].items()},
        episode_name=str(label["episode_name"]),
    )


def task_encoder(make_example: Callable[[Step, np.random.Generator], Any], collate: Callable[[list[Any]], Any]) -> Any:
    """An Energon TaskEncoder for `get_train_dataset`. Raises DatasetError when Energon is not installed."""
    try:
        from megatron.energon import Cooker, DefaultTaskEncoder, stateless
    except ImportError as error:
        raise DatasetError(f"Energon cannot be used ({error}); pip install megatron-energon.") from error

    @stateless
    def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    class Encoder(DefaultTaskEncoder):
        decoder = None  # the picture is decoded as it is everywhere here
        cookers = (Cooker(unchanged),)

        # Energon seeds torch per sample and gives the same seed again when it restores one.
        @stateless(restore_seeds=True)
        def encode_sample(self, sample: dict[str, Any]) -> Any:
            seed = int(torch.randint(2**62, ()))
            return make_example(step_of(sample), np.random.default_rng(seed))

        def batch(self, samples: list[Any]) -> Any:
            return collate(samples)

        def encode_batch(self, batch: Any) -> Any:
            return batch

    return Encoder()
