"""The benchmark on the smallest models: what it reports is there and true. How long anything takes is never asked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from openvla_core.bench import command, tables
from openvla_core.bench.modes import ACCEPTANCES, DEFAULT, Workshop, all_modes, chosen_modes, sweep_name
from openvla_core.bench.quantized import quantized_copy
from openvla_core.bench.random_weights import checksum
from openvla_core.bench.rounds import Limits
from openvla_core.bench.subject import image, random_subject
from openvla_core.engine.engine import Engine
from openvla_core.errors import ConfigError

FIGURES = {"p50_ms", "p95_ms", "p99_ms", "hz", "tokens_equal", "actions", "peak_mb", "ratio_to_hf", "cpu_ms", "wall_ms"}
QUICK = ["--iters", "3", "--warm-up", "0"]


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    """All modes of the default but the quantized one, three rounds of the shipped checkpoint."""
    folder = tmp_path_factory.mktemp("bench")
    modes = ",".join(name for name in DEFAULT if name != "engine_int8")
    files = ["--json", str(folder / "a.json"), "--markdown", str(folder / "a.md")]
    assert command.main([*QUICK, "--modes", modes, *files]) == 0
    assert (folder / "a.md").read_text(encoding="utf-8").startswith("# One action: openvla-tiny-sim on cpu")
    return json.loads((folder / "a.json").read_text(encoding="utf-8"))


def test_json_has_every_figure_of_every_mode(result):
    names = ["hf", "hf_static", "eager", "engine", "policy", "engine_draft", *map(sweep_name, ACCEPTANCES)]
    assert list(result["modes"]) == names
    for figures in result["modes"].values():
        assert figures.keys() >= FIGURES
        assert len(figures["wall_ms"]) == figures["actions"] == result["iterations"] == 3
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    assert result["modes"]["hf"]["ratio_to_hf"] == 1.0
    assert {"date", "cpu", "cores", "threads", "versions"} <= result["environment"].keys()
    assert len(result["weights"]["checksum"]) == 64
    assert result["floors"]["none"]["floor_ms"] > 0


def test_exact_modes_give_the_tokens_of_generate(result):
    assert all(figures["exact"] and figures["tokens_equal"] for figures in result["modes"].values())
    assert result["different"] == []
    assert result["modes"]["hf"]["exactness"]["distinct_answers"] > 1, "the images do not matter to the model"


def test_stages_are_those_of_the_floors(result):
    for name in ("hf", "eager"):
        assert list(result["modes"][name]["stages_ms"]) == [
            "preprocess", "vision", "projector", "prefill", "decode", "post",
        ]  # fmt: skip
    assert "projector" not in result["modes"]["engine"]["stages_ms"]


def test_right_drafts_take_one_pass_and_wrong_ones_six(result):
    right, wrong = (result["modes"][sweep_name(p)] for p in (1.0, 0.0))
    assert right["passes"] == [1, 1, 1] and right["accepted"] == right["proposed"] > 0
    assert wrong["passes"] == [6, 6, 6] and wrong["accepted"] == 0


def test_tables_show_every_mode(result):
    times, *_ = tables.grids(result)
    assert [row[0] for row in times.rows] == list(result["modes"])
    assert "Drafts of a chosen quality" in tables.markdown(result)


def test_wrong_tokens_end_with_exit_code_1(monkeypatch, capsys):
    honest = Engine.generate

    def dishonest(self, decoder, *arguments, **named):
        made = honest(self, decoder, *arguments, **named)
        ids = made.ids.clone()
        ids[3] = decoder.first_id + (ids[3] - decoder.first_id + 1) % 256
        return replace(made, ids=ids)

    monkeypatch.setattr(Engine, "generate", dishonest)
    assert command.main([*QUICK, "--modes", "engine"]) == 1
    assert "Not exact: engine gave other tokens" in " ".join(capsys.readouterr().out.split())


def test_unknown_mode_is_answered_with_the_nearest(capsys):
    assert command.main(["--modes", "hf,engin"]) == 3
    assert "did you mean 'engine'?" in " ".join(capsys.readouterr().err.split())


def test_the_yardstick_is_measured_without_being_named():
    assert [mode.name for mode in chosen_modes(["engine_int8"])] == ["hf", "engine_int8"]


def test_absent_device_is_an_error_of_the_user(capsys):
    assert command.main(["--device", "cuda:99"]) == 3
    assert "cannot be used" in capsys.readouterr().err


def test_quantized_modes_are_compared_and_never_called_exact(small):
    subject = random_subject(small, "cpu", "bfloat16")
    limits = Limits(iterations=2, warm_up_s=0.0, stage_rounds=1)
    modes = chosen_modes(["engine_int8", "engine_fp8"])
    result = command.bench(subject, modes, limits, Console(quiet=True))
    figures = result["modes"]["engine_int8"]
    assert not figures["exact"] and figures["exactness"]["tokens"] == 14
    assert result["different"] == []
    assert "compute capability" in result["left_out"]["engine_fp8"]
    assert "Quantized: not exact" in [grid.title for grid in tables.grids(result)]


def test_a_quantized_copy_shares_everything_else(small):
    model = random_subject(small, "cpu", "float32").model
    twin = quantized_copy(model, "int8")
    shared = {name for name, p in twin.named_parameters() if p is dict(model.named_parameters()).get(name)}
    layers = {name for name, _ in model.named_parameters() if ".layers." in name and name.endswith("proj.weight")}
    assert shared == {name for name, _ in model.named_parameters()} - layers


def test_engines_with_and_without_drafts_hold_the_weights_once(small):
    subject = random_subject(small, "cpu", "float32")
    workshop = Workshop(subject)
    engines = [workshop.engine(), workshop.engine(drafts=True)]
    ids, pixels = subject.inputs(image(1))
    places = [p.data_ptr() for p in subject.model.parameters()]
    answers = [engine.generate(subject.decoder, ids, pixels, 7).ids for engine in engines * 2]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert [p.data_ptr() for p in subject.model.parameters()] == places


def test_random_weights_depend_on_the_seed_alone(small):
    first, again, other = (random_subject(small, "cpu", "float32", seed).model for seed in (1, 1, 2))
    assert checksum(first) == checksum(again) != checksum(other)


def test_random_models_answer_with_actions(small):
    """The head prefers action tokens, so that un-normalising has something to work on."""
    subject = random_subject(small, "cpu", "float32")
    answer = all_modes()["hf"].make(Workshop(subject))(image(0))
    assert answer.ids.min() >= subject.decoder.first_id and answer.ids.max() < subject.decoder.end_id
    assert np.isfinite(answer.action).all()


def test_the_yardstick_sees_the_pixels_of_the_policy(small):
    """Its own resizing and normalising, picture by picture as the published code does it, changes no bit."""
    subject = random_subject(small, "cpu", "float32")
    pixels, ids = all_modes()["hf"].make(Workshop(subject)).preprocess(image(3))
    expected_ids, expected = subject.inputs(image(3))
    assert torch.equal(pixels, expected) and torch.equal(ids, expected_ids)


def test_full_size_prompt_is_as_long_as_a_typical_one():
    from openvla_core.bench.subject import SENTENCE, stand_in_tokenizer
    from openvla_core.prompt import build_prompt

    assert len(stand_in_tokenizer().encode(build_prompt(SENTENCE)).ids) == 23


def test_too_few_rounds_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        command.run(command.build_parser().parse_args(["--iters", "0"]), Console(quiet=True))


def test_checkpoint_can_be_given(golden_checkpoint: Path):
    assert command.main([*QUICK, "--modes", "engine", str(golden_checkpoint)]) == 0
