"""What `openvla doctor` says about a checkpoint is true, complete, readable, and needs no weights where it may not."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_core.doctor import examine
from openvla_core.errors import CheckpointError, ConfigError, OpenVLAError
from openvla_core.memory import activation_bytes, estimate_modes, kv_cache_bytes
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.weights import expected_shapes
from openvla_ros import cli

FULL = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "image_resize_strategy": "resize-naive",
    "pad_token_id": 32000,
    "text_config": {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064},
}


@pytest.fixture(scope="module")
def report(golden, golden_checkpoint):
    return examine(golden_checkpoint, dtype="bfloat16", adapter=golden / "fused_mini" / "lora_adapter")


@pytest.fixture
def copy(word_checkpoint, tmp_path):
    return shutil.copytree(word_checkpoint, tmp_path / "copy")


@pytest.fixture(scope="module")
def full_size(golden_checkpoint, tmp_path_factory):
    """The 7B model with 25 data sets; its two weight files have true headers and, where values would be, holes."""
    folder = tmp_path_factory.mktemp("full")
    for name in ("tokenizer.json", "preprocessor_config.json"):
        shutil.copy(golden_checkpoint / name, folder)
    action = json.loads((golden_checkpoint / "config.json").read_text())["norm_stats"]["bridge_orig"]
    names = ["bridge_orig", *(f"data_set_{i}_converted_externally_to_rlds" for i in range(24))]
    (folder / "config.json").write_text(json.dumps({**FULL, "norm_stats": dict.fromkeys(names, action)}))
    shapes = list(expected_shapes(OpenVLAConfig.from_dict(FULL)).items())
    weight_map = {}
    for number, part in ((1, shapes[:500]), (2, shapes[500:])):
        header, end = {}, 0
        for name, shape in part:
            start, end = end, end + 2 * shape.numel()
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        weight_map |= dict.fromkeys(header, path.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_every_fact_is_there(report, golden_policy):
    assert report.good
    assert [(t.pixels, t.depth, t.width, t.heads) for t in report.towers] == [(224, 3, 32, 2), (224, 4, 48, 3)]
    assert report.projector == [80, 320, 16, 16]
    assert (report.language.layers, report.language.hidden, report.language.kv_heads) == (2, 16, 2)
    assert report.language.rms_norm_eps == 1e-6
    assert report.parameters["total"] == sum(p.numel() for p in golden_policy.model.parameters())
    assert sum(tower.parameters for tower in report.towers) == report.parameters["vision"]
    assert [(file.name, file.tensors, file.dtypes) for file in report.files] == [("model.safetensors", 142, ["BF16"])]
    assert (report.tokens, report.action_ids) == (32001, (31744, 31999))
    assert [data_set.key for data_set in report.data_sets] == ["bridge_orig", "toy_arm"]
    first = report.data_sets[0].dimensions
    assert [(d.name, d.unit) for d in first[:4]] == [("x", "m"), ("y", "m"), ("z", "m"), ("roll", "rad")]
    assert (first[0].low, first[0].high) == (-0.02872725307941437, 0.028309678435325586)
    assert [d.scaled for d in first] == [True] * 6 + [False]


def test_the_text_shows_every_fact_in_120_columns(report):
    text = report.to_text()
    assert max(map(len, text.splitlines())) <= 120
    for part in (
        "vit_large_patch14_reg4_dinov2.lvd142m: 224 px", "depth 3", "80 > 320 > 16 > 16", "rms eps 1e-06",
        "1,304,575", "142 tensors", "BF16", r"take to <instruction>?\nOut:", "32001 tokens", "resize-naive",
        "mean 0.484375 0.455078 0.40625", "LoRA, rank 32, alpha 16, 1,279,680 parameters", "roll rad", "-0.0287",
        "60,064 trajectories", "gripper*", "self-test passed", "fp32", "bf16", "int8", "int4", "nf4",
        "none in this checkpoint",
    ):  # fmt: skip
        assert part in text, part


def test_the_json_holds_the_same_facts(report):
    values = json.loads(json.dumps(report.to_dict()))
    assert values["good"] is True
    assert values["language"]["kv_heads"] == 2
    assert values["data_sets"][0]["dimensions"][3] == {
        "name": "roll", "unit": "rad", "low": -0.08092105075716972, "high": 0.08192047759890528, "scaled": True,
    }  # fmt: skip
    assert [mode["mode"] for mode in values["memory"]["modes"]] == ["fp32", "bf16", "int8", "int4", "nf4"]


@pytest.mark.parametrize(("quantization", "dtype"), [("none", "float16"), ("int8", "bfloat16"), ("int8", "float32")])
def test_the_loaded_weights_take_as_many_bytes_as_predicted(golden_checkpoint, quantization, dtype):
    memory = examine(golden_checkpoint, dtype=dtype, quantization=quantization).memory
    assert memory.measured == memory.predicted > 0


def test_the_full_size_model_is_described_without_its_weights(full_size, golden):
    report = examine(full_size, load=False)
    counts = json.loads((golden / "param_counts_fullsize.json").read_text())
    assert report.parameters["total"] == 7_541_237_184
    assert "7541237184" in json.dumps(counts), "the published count"
    assert sum(file.tensors for file in report.files) == 982
    assert sum(file.bytes for file in report.files) == 2 * 7_541_237_184
    weights = {mode.mode: mode.weights for mode in report.memory.modes}
    assert weights["bf16"] == 2 * 7_541_237_184
    assert weights["fp32"] == 4 * 7_541_237_184
    decoder = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    rows = 32 * (4 * 4096 + 2 * 11008 + 4096)
    assert weights["int8"] == 2 * (7_541_237_184 - decoder) + decoder + 5 * rows
    assert weights["int4"] == 2 * (7_541_237_184 - decoder) + decoder // 2 + decoder // 128 * 4
    assert weights["int4"] < weights["nf4"] * 1.02 < weights["int8"] < weights["bf16"]
    assert report.memory.measured is None
    assert [finding.name for finding in report.findings] == ["convention", "statistics", "checksums"]
    lines = report.to_text().splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) < 140, "25 data sets stay readable"


def test_key_value_cache_of_the_7b_model():
    """32 layers x 4096 numbers, keys and values, two bytes: half a megabyte per token."""
    assert kv_cache_bytes(OpenVLAConfig.from_dict(FULL), 1, torch.bfloat16) == 524_288


def test_grouped_heads_need_a_smaller_cache():
    text = {**FULL["text_config"], "num_key_value_heads": 8}
    config = OpenVLAConfig.from_dict({**FULL, "text_config": text})
    assert kv_cache_bytes(config, 10, torch.bfloat16) == 10 * 524_288 // 4


def test_activations_grow_with_the_sequence_and_with_the_dtype():
    config = OpenVLAConfig.from_dict(FULL)
    sizes = [
        activation_bytes(config, tokens, 7, dtype, "none")
        for tokens, dtype in ((280, torch.bfloat16), (560, torch.bfloat16), (560, torch.float32))
    ]
    assert sizes == sorted(sizes)
    assert 10e6 < sizes[0] < 200e6
    assert activation_bytes(config, 280, 7, torch.bfloat16, "int8") == sizes[0] + 2 * 4096 * 11008


def test_a_mode_that_does_not_fit_the_model_says_why(word_checkpoint):
    modes = {mode.mode: mode for mode in examine(word_checkpoint, load=False).memory.modes}
    assert "16 inputs" in modes["int4"].problem
    assert modes["int8"].problem == ""


def test_estimates_do_not_need_values():
    with torch.device("meta"):
        model = OpenVLA(OpenVLAConfig.from_dict({**FULL, "timm_model_kwargs": [{"depth": 2}] * 2}))
    assert all(mode.total > 0 for mode in estimate_modes(model, 280, 7, on_cuda=True))


def test_without_loading_no_weight_is_read(copy, monkeypatch):
    import openvla_core.checkpoint

    def refuse(*args):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(openvla_core.checkpoint, "read_tensors", refuse)
    assert examine(copy, load=False).parameters["total"] > 0


def test_a_convention_that_is_not_understood_is_a_finding(copy):
    report = examine(copy, load=False)
    assert not report.good
    assert "convention    NOT USABLE" in report.to_text()


def test_statistics_that_cannot_be_used_are_a_finding(copy):
    (copy / "dataset_statistics.json").write_text(json.dumps({"table": {"action": {"q01": [1]}}}))
    text = examine(copy, load=False).to_text()
    assert "unnorm_key    table NOT USABLE" in text
    assert "statistics    NOT USABLE: table" in text


@pytest.mark.parametrize(("count", "rows"), [(2, 1), (14, 2)])
def test_actions_of_other_lengths_are_numbered(copy, count, rows):
    statistics = {"q01": [0.0] * count, "q99": [1.0] * count}
    (copy / "dataset_statistics.json").write_text(json.dumps({"two_arms": {"action": statistics}}))
    text = examine(copy, load=False).to_text()
    assert f"two_arms: {count} numbers" in text
    assert sum(line.strip().startswith("from ") for line in text.splitlines()) == rows


def test_a_model_that_ignores_its_image_is_not_good(copy, capsys):
    state = load_file(copy / "model.safetensors")
    state["projector.fc3.weight"].zero_()
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert cli.main(["doctor", str(copy)]) == 1
    assert "NOT USABLE: the answer does not depend on the image" in " ".join(capsys.readouterr().out.split())


def test_options_reach_the_checkpoint(golden, golden_checkpoint, capsys):
    options = ["--dtype", "bfloat16", "--quantization", "int8", "--json"]
    adapter = str(golden / "fused_mini" / "lora_adapter")
    assert cli.main(["doctor", str(golden_checkpoint), "--adapter", adapter, *options]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["memory"]["loaded"] == "int8 and bfloat16"
    assert values["adapter"].startswith(adapter)


@pytest.mark.parametrize(
    "options",
    [
        ["--quantization", "int5"],
        ["--dtype", "float8"],
        ["--device", "nowhere"],
        ["--adapter", "nowhere"],
        ["--quantization", "nf4"],
    ],
)
def test_an_option_that_cannot_be_used_is_one_line_and_exit_code_3(word_checkpoint, capsys, options):
    assert cli.main(["doctor", str(word_checkpoint), *options]) == cli.EXIT_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "Error: " in output.err


def test_a_checkpoint_that_cannot_be_read_is_one_line_and_exit_code_3(copy, capsys):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert cli.main(["doctor", str(copy), "--no-load"]) == cli.EXIT_ERROR
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(CheckpointError):
        examine(copy)


def test_the_errors_are_ours(word_checkpoint):
    with pytest.raises(ConfigError):
        examine(word_checkpoint, quantization="int16", load=False)
    with pytest.raises(OpenVLAError):
        examine("/nowhere")


def test_a_reader_who_has_seen_enough_is_no_error(word_checkpoint):
    """`openvla doctor CHECKPOINT | head -1` closes the pipe while there is more to say."""
    command = [sys.executable, "-m", "openvla_ros.cli", "doctor", str(word_checkpoint), "--no-load"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 1, "the convention of this checkpoint is no card"
    assert "BrokenPipe" not in errors
    assert "Traceback" not in errors


def test_ranges_are_those_the_policy_uses(golden_policy, report):
    from openvla_core.action_statistics import statistics_of

    for data_set in report.data_sets:
        statistics = statistics_of(golden_policy.statistics, data_set.key)
        ends = statistics.unnormalize(np.stack([-np.ones(7), np.ones(7)]))
        for index, dimension in enumerate(data_set.dimensions):
            if dimension.scaled:
                np.testing.assert_allclose([dimension.low, dimension.high], ends[:, index])
