"""An untrained tiny OpenVLA in the published layout: it acts at random, but it is complete."""

import sys
from pathlib import Path

import torch

from openvla_core.checkpoint import save_checkpoint
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.sim.tasks import all_sentences
from openvla_core.training import tiny_checkpoint as tiny

STATISTICS = {
    "sim_tabletop": {
        "action": {
            "q01": [-0.05, -0.05, -0.05, 0.0, 0.0, 0.0, 0.0],
            "q99": [0.05, 0.05, 0.05, 0.0, 0.0, 0.0, 1.0],
            "mask": [True, True, True, True, True, True, False],
        }
    }
}


def write(directory: Path, *, nan: bool = False, with_card: bool = True) -> Path:
    """Writes the checkpoint; `nan` damages it so that its logits are not finite."""
    torch.manual_seed(0)
    config = tiny.tiny_config(width=64, layers=2, tower_width=32, tower_depth=3)
    model = OpenVLA(OpenVLAConfig.from_dict(config))
    if nan:
        model.language_model.lm_head.weight.data.fill_(float("nan"))
    extra = {"training_card.json": {"instructions": list(all_sentences()[:8])}}
    if with_card:
        extra["action_convention.json"] = tiny.tiny_convention()
    return save_checkpoint(
        directory,
        model,
        config,
        tiny.tiny_tokenizer(),
        STATISTICS,
        tiny.tiny_preprocessor_config(),
        extra_json=extra,
    )


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
