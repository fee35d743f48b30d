"""Trains the tiny OpenVLA for the simulated arm: python training/train_tiny_sim.py --out DIR [--recipe FILE]."""

import argparse
from pathlib import Path

import yaml

from openvla_core.config import settings_from_mapping
from openvla_core.sim.rendering import prepare_headless

RECIPE = Path(__file__).parent / "recipes" / "tiny_sim.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint to write")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="YAML file with settings of the run")
    arguments = parser.parse_args()
    prepare_headless()  # MuJoCo decides how to render when it is imported, so this comes first.
    from openvla_core.training.tiny_sim import TinySimRecipe, TinySimTraining

    values = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8")) or {}
    out = TinySimTraining(settings_from_mapping(TinySimRecipe, values), arguments.out).run()
    print(f"trained checkpoint: {out}")


if __name__ == "__main__":
    main()
