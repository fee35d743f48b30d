"""Recipes: nothing unknown, nothing of the wrong kind, defaults of the strategy."""

import json
from pathlib import Path

import pytest

from openvla_core.errors import ConfigError
from openvla_core.training.recipe import (
    Recipe,
    load_recipe,
    parse_overrides,
    recipe_from_mapping,
    resolved,
    to_mapping,
)

RECIPES = Path(__file__).resolve().parents[3] / "training" / "recipes"


def test_a_file_is_read_and_overridden(tmp_path):
    file = tmp_path / "recipe.yaml"
    # YAML takes 3e-4, without a point, for text.
    file.write_text("strategy: full\ndata: bags\nlearning_rate: 3e-4\nstop_accuracy: null\n")
    recipe = load_recipe(file, {"batch_size": 2, "out": "there"})
    assert (recipe.strategy, recipe.data, recipe.learning_rate) == ("full", ("bags",), 3e-4)
    assert (recipe.stop_accuracy, recipe.batch_size, recipe.out) == (None, 2, "there")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rat": 1e-4}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"batch_size": None}, "batch_size"),
        ({"compile": 1}, "compile"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"strategy": "lora2"}, "lora"),
        ({"data": ["a", 3]}, "data"),
        ({"data": ["a", "b"], "weights": [1.0]}, "weights"),
        ({"strategy": "lora", "quantization": "nf4"}, "qlora"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(values, words):
    with pytest.raises(ConfigError, match=words):
        recipe_from_mapping(values)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "\x00"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_recipe(file)


def test_defaults_are_those_of_the_strategy():
    full, lora = resolved(Recipe(strategy="sandwich")), resolved(Recipe(strategy="lora", lora_rank=8))
    assert (full.learning_rate, full.weight_decay, full.clip_norm) == (2e-5, 0.0, 1.0)
    assert (lora.learning_rate, lora.weight_decay, lora.clip_norm) == (5e-4, 0.01, 0.0)
    assert (lora.lora_alpha, resolved(Recipe(lora_rank=64)).lora_alpha) == (8.0, 16.0)
    assert resolved(Recipe(strategy="qlora")).quantization == "nf4"
    assert resolved(Recipe(strategy="lora", weight_decay=0.0)).weight_decay == 0.0


def test_plain_values_are_read_again_as_the_same_recipe():
    recipe = resolved(Recipe(data=("a", "b"), weights=(1.0, 2.0), stop_accuracy=None))
    assert recipe_from_mapping(json.loads(json.dumps(to_mapping(recipe)))) == recipe


def test_overrides_are_names_and_values():
    assert parse_overrides(["data=[a, b]", "compile=true"]) == {"data": ["a", "b"], "compile": True}
    with pytest.raises(ConfigError, match="name and a value"):
        parse_overrides(["compile"])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_along_are_understood(path):
    if path.stem != "tiny_sim":  # of another training, with settings of its own
        load_recipe(path)
