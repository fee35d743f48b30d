"""`openvla finetune`: recordings in, a policy out, with nothing else given and no ROS anywhere."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from openvla_core import load_policy
from openvla_core.action_statistics import ActionStatistics
from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import CheckpointError, ConfigError
from openvla_core.training.finetune import finetune, main, parse
from openvla_core.training.recipe import Recipe, load_recipe, recipe_from_mapping, resolved
from openvla_core.training.still import without_noise

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "test" / "core" / "datasets"))
try:
    from bag_tools import INSTRUCTION, Scribe, demonstration
finally:
    sys.path.pop(0)

QUICK = {"max_steps": 4, "batch_size": 4, "log_every": 1, "workers": 0, "device": "cpu", "validation_share": 0.3}


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Six recordings of a hand, of which one failed; the last is about a colour that the checkpoint has no word for."""
    root = tmp_path_factory.mktemp("bags") / "kitchen"
    root.mkdir()
    scribe = Scribe()
    for seed in range(6):
        tape = demonstration(seed, outcome="failure" if seed == 2 else "success")
        if seed == 5:
            tape.facts["instruction"] = tape.notes[INSTRUCTION][0].value = "pick up the purple cube"
        scribe.write(tape, root)
    return root


@pytest.fixture(scope="module")
def trained(bags, word_checkpoint, tmp_path_factory):
    """Trained by the command, in a process in which nothing of ROS can be imported."""
    out = tmp_path_factory.mktemp("trained") / "policy"
    code = (
        "import sys\n"
        "for name in ('rclpy', 'openvla_ros', 'std_msgs', 'sensor_msgs', 'mujoco'): sys.modules[name] = None\n"
        "from openvla_core.training.finetune import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--data", bags, "--base", word_checkpoint, "--out", out]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if "site-packages" in p)])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done


def test_it_trains_on_bags_without_ros_and_what_comes_out_is_a_policy(trained, word_checkpoint):
    out, done = trained
    assert str(out) in done.stdout and "step 4/4" in done.stderr
    policy = load_policy(out, verify=True)
    assert set(policy.statistics) == {"kitchen"}
    assert policy.convention["name"] == "sim_tabletop" and policy.convention["frame"] == "base"
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert np.isfinite(policy.predict_action(picture, "pick up the red cube")).all()
    before, after = (load_checkpoint(folder).model.state_dict() for folder in (word_checkpoint, out))
    assert [name for name in after if not torch.equal(before[name], after[name])]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert list((out / "tensorboard").glob("events.*"))


def test_the_card_tells_data_figures_and_recipe_and_the_report_is_there(trained, word_checkpoint):
    out, _ = trained
    card = json.loads((out / "training_card.json").read_text())
    assert card["data"]["names"] == ["kitchen"]
    assert card["data"]["episodes"] + card["data"]["validation_episodes"] == 5, "one of the six failed"
    assert card["steps"] == 4 and card["reason"] == "max_steps" and card["strategy"] == "lora"
    assert card["recipe"]["learning_rate"] == 5e-4 and card["base"] == word_checkpoint.name
    assert 0.0 <= card["metrics"]["training"]["accuracy"] <= 1.0
    assert card["recipe"] == {**card["recipe"], **QUICK}
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")


def test_a_tokenizer_of_words_learns_the_words_of_the_recordings(trained, word_checkpoint):
    out, _ = trained
    policy = load_policy(out)
    assert policy.check_instruction("pick up the purple cube") == "pick up the purple cube"
    card = json.loads((out / "training_card.json").read_text())
    assert {"purple", "green", "yellow"} >= set(card["new_words"]) and "purple" in card["new_words"]
    assert "pick up the purple cube" in card["instructions"]
    old, new = (load_checkpoint(folder, read_weights=False).tokenizer for folder in (word_checkpoint, out))
    assert old.get_vocab().items() <= new.get_vocab().items()
    assert sorted(new.get_vocab().values()) == list(range(new.get_vocab_size()))


def test_noise_is_no_motion_to_learn():
    """Thousandths of a radian brought to full size would hide what was shown; the gripper is never left out."""
    action = {
        "q01": [-0.02, -0.0005, -0.001, -0.003, -0.2, -0.001, 0.0], "q99": [0.02, 0.0004, 0.03, 0.004, 0.1, 0.0, 0.0],
        "min": [-1.0] * 7, "max": [1.0] * 7, "mean": [0.1] * 7, "std": [0.2] * 7, "mask": [True] * 6 + [False],
    }  # fmt: skip
    entry = {"action": action, "num_transitions": 5}
    quiet = without_noise(entry, {"translation_scale": 1.0, "rotation_scale": 1.0})
    still = [quiet["action"]["min"][i] == quiet["action"]["max"][i] for i in range(7)]
    assert still == [False, True, False, True, False, True, False]
    assert quiet["action"]["mask"] == action["mask"] and quiet["num_transitions"] == 5
    statistics = ActionStatistics.from_dict(quiet["action"])
    np.testing.assert_array_equal(statistics.constant, still)
    assert statistics.unnormalize(np.full(7, 0.7))[1] == 0.0
    millimetres = without_noise(entry, {"translation_scale": 0.001, "rotation_scale": 1.0})["action"]
    assert millimetres["q99"][:3] == [0.0, 0.0, 0.0], "0.03 mm are no motion"
    assert without_noise(entry, None) == entry, "published statistics stay as they are"


def recipe_for(trained, out, **changes) -> Recipe:
    """Of a training on the shards that the first training made of its bags, and from its base."""
    data, base = [str(trained[0] / "data" / "kitchen")], str(trained[0] / "base")
    strategy = {"strategy": "full", "learning_rate": 1e-3, "tensorboard": False}
    return recipe_from_mapping({**QUICK, **strategy, "data": data, "base": base, "out": str(out), **changes})


def test_an_existing_training_is_continued_only_when_asked(trained, tmp_path, capsys):
    recipe = recipe_for(trained, tmp_path / "out")
    finetune(dataclasses.replace(recipe, max_steps=2))
    with pytest.raises(ConfigError, match="--resume"):
        finetune(recipe)
    assert load_checkpoint(tmp_path / "out").training_card["steps"] == 2
    finetune(recipe, resume=True)
    assert "continuing at step 2" in capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.training_card["steps"] == 4
    steps = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in steps if event["kind"] == "step"] == [1, 2, 3, 4]
    finetune(dataclasses.replace(recipe, out=str(tmp_path / "whole")))
    straight = load_checkpoint(tmp_path / "whole").model.state_dict()
    assert [n for n, tensor in checkpoint.model.state_dict().items() if not torch.equal(tensor, straight[n])] == []


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    cv2.imwrite(str(folder / "a.png"), np.full((30, 30, 3), 80, np.uint8))
    lines = [{"image": "a.png", "question": "what robot?", "answer": "the blue robot"}] * 3
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_pairs_of_weight_zero_change_nothing_and_others_are_trained_on(trained, pairs, tmp_path):
    """The same weights to the last bit, and the same loss on actions."""
    weights, losses = {}, {}
    for name, settings in {
        "without": {},
        "zero": {"image_text": str(pairs), "image_text_weight": 0.0},
        "half": {"image_text": str(pairs), "image_text_weight": 0.5},
    }.items():
        out = tmp_path / name
        finetune(recipe_for(trained, out, **settings))
        weights[name] = load_checkpoint(out).model.state_dict()
        events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        losses[name] = [event["loss"] for event in events]
    same = [n for n, tensor in weights["without"].items() if torch.equal(tensor, weights["zero"][n])]
    assert len(same) == len(weights["without"]) and losses["without"] == losses["zero"]
    assert losses["half"] != losses["without"]
    assert set(load_policy(tmp_path / "half").statistics) == {"kitchen"}


# Options --------------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_recipe_is_an_option():
    given = {
        "--data": ["a", "b"], "--weights": ["1", "0.5"], "--base": ["c"], "--out": ["d"], "--strategy": ["full"],
        "--learning-rate": ["1e-4"], "--stop-accuracy": ["none"], "--compile": [], "--tensorboard": ["false"],
        "--wandb": ["arms"], "--seed": ["3"], "--bag-settings": ["e.yaml"],
    }  # fmt: skip
    recipe, resume = parse([part for option, values in given.items() for part in (option, *values)])
    assert recipe == recipe_from_mapping(
        {
            "data": ["a", "b"], "weights": [1.0, 0.5], "base": "c", "out": "d", "strategy": "full",
            "learning_rate": 1e-4, "stop_accuracy": None, "compile": True, "tensorboard": False, "wandb": "arms",
            "seed": 3, "bag_settings": "e.yaml",
        }
    )  # fmt: skip
    assert not resume
    for field in dataclasses.fields(Recipe):
        with pytest.raises(SystemExit):
            parse(["--help", f"--{field.name.replace('_', '-')}"])


def test_options_win_over_the_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text("strategy: full\nseed: 1\n")
    recipe, resume = parse(["--recipe", str(tmp_path / "recipe.yaml"), "--seed", "5", "--resume"])
    assert (recipe.strategy, recipe.seed, resume) == ("full", 5, True)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--learning-rat", "1e-4"], "Did you mean --learning-rate?"),
        (["--lora-ranks=8"], "Did you mean --lora-rank?"),
        (["--seed", "many"], "seed is 'many'; expected int"),
        (["--data", "x", "--out", "y"], "base is missing"),
        (["--base", "x", "--out", "y"], "data is missing"),
    ],
)
def test_what_cannot_be_meant_is_told_with_what_can(arguments, hint, capsys):
    assert main(arguments) == 3
    assert hint in capsys.readouterr().err


def test_an_unknown_key_in_a_recipe_is_told_with_the_nearest(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("learning_rte: 1e-4\n")
    assert main(["--recipe", str(tmp_path / "recipe.yaml")]) == 3
    assert "Did you mean 'learning_rate'?" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_understood(path):
    if path.stem == "tiny_sim":
        import yaml

        from openvla_core.config import settings_from_mapping
        from openvla_core.training.tiny_sim import TinySimRecipe

        settings_from_mapping(TinySimRecipe, yaml.safe_load(path.read_text()))
        return
    recipe = resolved(load_recipe(path))
    assert recipe.learning_rate == (2e-5 if recipe.strategy == "full" else 5e-4)


def test_a_checkpoint_that_is_none_is_refused_before_anything_is_written(trained, tmp_path):
    with pytest.raises(CheckpointError):
        finetune(recipe_for(trained, tmp_path / "out", base=str(tmp_path / "nothing")))
    assert not (tmp_path / "out").exists()
