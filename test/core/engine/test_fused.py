"""One copy of the weights, which model and engine share whatever happens to it."""

import copy

import pytest
import torch
from tiny_models import COUNT, REFERENCE, inputs, published, tiny_model
from torch import nn

from openvla_core.checkpoint import load_checkpoint
from openvla_core.checkpoint_saving import save_checkpoint
from openvla_core.decoding import Decoder, generate
from openvla_core.engine.engine import Engine
from openvla_core.json_file import read_json
from openvla_core.quantization import quantize_language_model

GIVEN = inputs(12, 0)


def answer(engine: Engine) -> list[int]:
    return engine.generate(REFERENCE, *GIVEN, COUNT).ids.tolist()


def test_the_weights_exist_once():
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    Engine(model)
    for layer in model.language_model.model.layers:
        for part, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj")), (layer.mlp, ("gate_proj", "up_proj"))):
            weights = [part.get_submodule(name).weight for name in names]
            assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
            assert weights[0].untyped_storage().nbytes() == sum(weight.nbytes for weight in weights)
            assert all(weight.is_contiguous() for weight in weights)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_weight_that_is_changed_in_place_is_what_the_engine_runs():
    model = tiny_model()
    engine = Engine(model)
    before = answer(engine)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "self_attn.o_proj"):
        with torch.no_grad():
            model.language_model.model.layers[1].get_submodule(name).weight.neg_()
        after = answer(engine)
        assert after == published(model, *GIVEN)[0].tolist()
        assert after != before
        before = after


def test_training_goes_on_through_the_shared_weights():
    model = tiny_model()
    engine = Engine(model)
    before = answer(engine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(GIVEN[0], None, GIVEN[1], labels=GIVEN[0]).loss.backward()
    optimizer.step()
    after = answer(engine)
    assert after == published(model, *GIVEN)[0].tolist()
    assert after != before


def test_a_state_dict_that_is_loaded_is_what_the_engine_runs():
    model, other = tiny_model(), tiny_model()
    with torch.no_grad():
        for weight in other.language_model.parameters():
            weight.mul_(-1.1)
    engine = Engine(model)
    for assign in (False, True):
        model.load_state_dict({name: weight.clone() for name, weight in other.state_dict().items()}, assign=assign)
        assert answer(engine) == published(other, *GIVEN)[0].tolist()


def test_a_model_that_is_moved_to_another_dtype_is_noticed():
    model = tiny_model()
    engine = Engine(model)
    answer(engine)
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16).language_model.model.rotary_emb.inv_freq = frequencies
    found = engine.generate(REFERENCE, *GIVEN, COUNT)
    assert torch.equal(found.logits, Engine(model).generate(REFERENCE, *GIVEN, COUNT).logits)
    assert engine.passes.dtype == torch.bfloat16


def test_a_copy_of_the_model_is_its_own():
    model = tiny_model()
    engine = Engine(model)
    before = answer(engine)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.language_model.model.layers[0].self_attn.q_proj.weight.zero_()
    assert answer(engine) == before


def test_a_hook_on_a_projection_is_called():
    """Whoever looks at a layer, or changes what comes out of it, is not passed by."""
    model = tiny_model()
    engine = Engine(model)
    before = answer(engine)
    handle = model.language_model.model.layers[0].self_attn.v_proj.register_forward_hook(lambda *given: -given[2])
    changed = answer(engine)
    assert changed == published(model, *GIVEN)[0].tolist()
    assert changed != before
    handle.remove()
    assert answer(engine) == before


def test_a_checkpoint_is_saved_and_loaded_as_before(golden_checkpoint, tmp_path):
    checkpoint = load_checkpoint(golden_checkpoint)
    model = checkpoint.model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    Engine(model)
    saved = save_checkpoint(
        tmp_path / "saved",
        model,
        read_json(golden_checkpoint / "config.json"),
        golden_checkpoint / "tokenizer.json",
        checkpoint.statistics,
        read_json(golden_checkpoint / "preprocessor_config.json"),
        dtype="bfloat16",
    )
    again = load_checkpoint(saved).model.state_dict()
    assert again.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in again.items())


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("drafts", [False, True])
def test_an_attached_adapter_runs_in_its_own_modules(kv_heads, drafts):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = tiny_model(kv_heads)
    engine = Engine(model, drafts=drafts)
    before = answer(engine)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj", "lm_head"]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()
    assert isinstance(adapted, PeftModel)
    for seed in range(5):
        given = inputs(12, seed)
        ids, logits = generate(model, REFERENCE, *given, COUNT)
        found = engine.generate(REFERENCE, *given, COUNT, ids)
        assert found.ids.tolist() == ids.tolist()
        assert (found.logits - logits).abs().max() <= 1e-4
    assert answer(engine) != before
    adapted.merge_and_unload()
    merged = answer(engine)
    assert type(model.language_model.model.layers[0].self_attn.q_proj) is nn.Linear
    assert merged == published(model, *GIVEN)[0].tolist()


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_decoder_runs_in_its_own_modules(mode):
    model = tiny_model(hidden=128)
    engine = Engine(model)
    with torch.no_grad():  # int4 wants inputs in groups
        for layer in model.language_model.model.layers:
            layer.mlp.gate_proj = nn.Linear(128, 256, bias=False)
            layer.mlp.up_proj = nn.Linear(128, 256, bias=False)
            layer.mlp.down_proj = nn.Linear(256, 128, bias=False)
    quantize_language_model(model, mode)
    for seed in range(3):
        given = inputs(12, seed)
        ids, logits = generate(model, Decoder("constrained", 256, 512), *given, COUNT)
        found = engine.generate(Decoder("constrained", 256, 512), *given, COUNT)
        assert found.ids.tolist() == ids.tolist()
        assert (found.logits - logits).abs().max() <= 1e-3
