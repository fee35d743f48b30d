"""A merged checkpoint has the bits PEFT would give it, file by file, or it is not there."""

import json
import math
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openvla_core import load_policy
from openvla_core.adapter import merge_adapter
from openvla_core.checkpoint import load_checkpoint, save_checkpoint
from openvla_core.errors import CheckpointError
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.training.lora import LoraSettings, adapter_config, adapter_tensors, add_adapters
from openvla_core.training.merge import main, merge
from openvla_core.training.result import Adapter, write_adapter
from openvla_core.training.tiny_checkpoint import tiny_config, tiny_preprocessor_config, tiny_tokenizer
from openvla_core.weights import stored_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def adapter(golden, tmp_path):
    """A copy of the published fine-tuning's adapter, to be changed."""
    return shutil.copytree(golden / "fused_mini" / "lora_adapter", tmp_path / "adapter")


def change_config(adapter, **changes):
    path = adapter / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(adapter, change):
    state = load_file(adapter / WEIGHTS)
    change(state)
    save_file(state, adapter / WEIGHTS)


def by_peft(base, adapter, dtype="bfloat16"):
    model = load_checkpoint(base, dtype=dtype).model
    merge_adapter(model, adapter)
    return model.state_dict()


def of(folder, dtype="bfloat16"):
    return load_checkpoint(folder, dtype=dtype).model.state_dict()


def assert_equal(given, expected):
    assert list(given) == list(expected)
    assert [name for name in given if not torch.equal(given[name], expected[name])] == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 64, r"vision_backbone\.featurizer\.blocks\.0\.attn\.qkv": 2}},
    ],
    ids=["published", "rslora", "alpha-pattern"],
)
def test_the_bits_are_those_of_peft(adapter, golden_checkpoint, tmp_path, changes):
    """Convolutions, the head and layers that are never run included; the base is bfloat16, as published."""
    change_config(adapter, **changes)
    merged = of(merge(adapter, golden_checkpoint, tmp_path / "merged"))
    assert_equal(merged, by_peft(golden_checkpoint, adapter))
    base = of(golden_checkpoint)
    changed = [name for name in merged if not torch.equal(merged[name], base[name])]
    assert len(changed) == 53, "an adapter that changes nothing shows nothing"


def test_another_dtype_can_be_asked_for(adapter, golden_checkpoint, tmp_path):
    merged = of(merge(adapter, golden_checkpoint, tmp_path / "merged", "float32"), "float32")
    assert_equal(merged, by_peft(golden_checkpoint, adapter, "float32"))


def test_shards_stay_shards(adapter, golden_checkpoint, tmp_path):
    base = load_checkpoint(golden_checkpoint, dtype="bfloat16").save(tmp_path / "base", max_shard_bytes=500_000)
    shards = sorted(path.name for path in base.glob("model-*.safetensors"))
    assert len(shards) > 2
    merged = merge(adapter, base, tmp_path / "merged")
    load_checkpoint(merged, verify=True)
    assert sorted(path.name for path in merged.glob("*.safetensors")) == shards
    assert (merged / "model.safetensors.index.json").is_file()
    assert_equal(of(merged), by_peft(golden_checkpoint, adapter))


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at a time; views of one memory count once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._held: dict[int, tuple[int, list[weakref.ref]]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: torch.Tensor) -> None:
        held = {at: (size, [one for one in users if one() is not None]) for at, (size, users) in self._held.items()}
        self._held = {at: (size, users) for at, (size, users) in held.items() if users}
        memory = tensor.untyped_storage()
        size, users = self._held.get(memory.data_ptr(), (memory.nbytes(), []))
        self._held[memory.data_ptr()] = size, [*users, weakref.ref(tensor)]
        self.most = max(self.most, sum(size for size, _ in self._held.values()))


def test_no_more_than_two_tensors_of_the_base_are_in_memory(tmp_path):
    """With what is added to one, and the adapter. A merge that held the model, or a file of it, would show."""
    config = tiny_config(width=64, layers=12, tower_width=32, tower_depth=6)
    torch.manual_seed(0)
    model = OpenVLA(OpenVLAConfig.from_dict(config)).to(torch.bfloat16)
    statistics = {"table": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7}}}
    base = save_checkpoint(
        tmp_path / "whole", model, config, tiny_tokenizer(), statistics, tiny_preprocessor_config(),
    )  # fmt: skip
    base = load_checkpoint(base, dtype="bfloat16").save(tmp_path / "base", max_shard_bytes=300_000)
    settings = LoraSettings(rank=2, alpha=4.0)
    add_adapters(model, settings)
    factors = {name: torch.ones(tensor.shape) * 0.1 for name, tensor in adapter_tensors(model.state_dict()).items()}
    write_adapter(tmp_path / "adapter", Adapter(adapter_config(model, settings, "base"), factors))
    counts = [math.prod(entry.shape) for entry in stored_tensors(base).values()]
    with Alive() as alive:
        merge(tmp_path / "adapter", base, tmp_path / "merged")
    adapter_bytes = sum(tensor.nbytes for tensor in factors.values())
    allowed = adapter_bytes + max(counts) * (2 * 2 + 4)  # two in bfloat16, the sum of one in float32
    assert len(list(base.glob("model-*.safetensors"))) > 5
    assert sum(counts) * 2 > 3 * allowed, "or the whole model would be allowed"
    assert adapter_bytes < alive.most <= allowed
    assert_equal(of(tmp_path / "merged"), by_peft(base, tmp_path / "adapter"))


def test_what_a_training_left_beside_its_adapter_comes_along(adapter, golden_checkpoint, tmp_path):
    action = {"q01": [-1.0] * 7, "q99": [2.0] * 7}
    (adapter / "dataset_statistics.json").write_text(json.dumps({"mine": {"action": action}}))
    policy = load_policy(merge(adapter, golden_checkpoint, tmp_path / "merged"))
    assert set(policy.statistics) == {"mine"}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["norm_stats"] == policy.statistics


def test_weights_that_an_adapter_brings_whole_replace_those_of_the_base(adapter, golden_checkpoint, tmp_path):
    """An old PEFT saves the head beside the factors that change it."""
    name = "base_model.model.language_model.lm_head.base_layer.weight"
    head = load_checkpoint(golden_checkpoint, dtype="bfloat16").model.language_model.lm_head.weight
    change_weights(adapter, lambda state: state.update({name: torch.zeros_like(head)}))
    merged = of(merge(adapter, golden_checkpoint, tmp_path / "merged"))["language_model.lm_head.weight"]
    state = load_file(adapter / WEIGHTS)
    down, up = (state[f"base_model.model.language_model.lm_head.lora_{side}.weight"].float() for side in "AB")
    assert torch.equal(merged, (up @ down * 0.5).to(torch.bfloat16))


A = "base_model.model.projector.fc1.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(A), "projector.fc1.weight has one of its two factors"),
        (lambda state: state.update({A: torch.zeros(32, 7)}), "projector.fc1.weight with shape"),
        (lambda state: state.update({A: torch.zeros(5, 80)}), "projector.fc1.weight with shape None"),
        (lambda state: state.update({A: state[A] * float("nan")}), "not finite"),
        (lambda state: state.update({"base_model.model.arm.lora_A.weight": torch.zeros(4, 4),
                                     "base_model.model.arm.lora_B.weight": torch.zeros(4, 4)}), "arm.weight"),
    ],
    ids=["half", "other-base", "factors-apart", "nan", "unknown"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_leaves_nothing(adapter, golden_checkpoint, tmp_path, change, message):
    change_weights(adapter, change)
    with pytest.raises(CheckpointError, match=message):
        merge(adapter, golden_checkpoint, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_dora_is_refused(adapter, golden_checkpoint, tmp_path):
    change_config(adapter, use_dora=True)
    with pytest.raises(CheckpointError, match="DoRA"):
        merge(adapter, golden_checkpoint, tmp_path / "merged")


def test_nothing_is_overwritten_and_the_command_says_so(adapter, golden_checkpoint, tmp_path, capsys):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "thesis.txt").write_text("finished")
    arguments = [str(adapter), "--base", str(golden_checkpoint), "--out"]
    assert main([*arguments, str(tmp_path / "merged")]) == 3
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "merged" / "thesis.txt").read_text() == "finished"
    assert main([*arguments, str(tmp_path / "other")]) == 0
    assert "other" in capsys.readouterr().out
