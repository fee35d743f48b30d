"""The towers run apart and layer by layer give the bits of the model itself; compiled code is made once."""

import functools

import pytest
import torch
from tiny_models import COUNT, REFERENCE, inputs, tiny_model

from openvla_core.engine import decoder, engine
from openvla_core.engine.compiled import compile_layer, no_recompile
from openvla_core.engine.vision import encode_image, run_block, side_stream
from openvla_core.errors import ImageError
from openvla_core.model import OpenVLA, OpenVLAConfig


def one_tower():
    config = {
        "model_type": "openvla",
        "vision_backbone_id": "siglip-vit-so400m",
        "image_sizes": [56],
        "timm_model_kwargs": [{"depth": 3, "embed_dim": 16, "num_heads": 2}],
        "pad_token_id": 512,
        "text_config": {
            "vocab_size": 576, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 4,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    return OpenVLA(OpenVLAConfig.from_dict(config)).eval()


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [one_tower, tiny_model])
@pytest.mark.parametrize("batch", [1, 3])
@torch.inference_mode()
def test_patches_are_those_of_the_model_to_the_last_bit(make, dtype, batch):
    model = make().to(dtype)
    pixels = torch.randn(batch, model.config.channels, 56, 56)
    found = encode_image(model, pixels, side_stream(model))
    assert found.dtype == dtype
    assert torch.equal(found, model.encode_image(pixels))


@torch.inference_mode()
def test_the_last_block_of_a_tower_is_never_run():
    model = tiny_model()
    pixels = torch.randn(1, 6, 56, 56)
    expected = encode_image(model, pixels)
    for tower in (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer):
        for weight in tower.blocks[-1].parameters():
            weight.fill_(float("nan"))
    assert torch.equal(encode_image(model, pixels), expected)


@pytest.mark.parametrize("shape", [(1, 3, 56, 56), (1, 6, 14, 14), (1, 6, 56, 70)])
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ImageError, match="image processor"):
        encode_image(tiny_model(), torch.zeros(shape))


@torch.inference_mode()
def test_blocks_of_one_kind_share_their_compiled_code(fresh_compiler):
    """Two kinds of blocks and two lengths of sequences: the towers differ in both."""
    model = tiny_model()
    deeper = [torch.nn.ModuleList([tower.blocks[0], tower.blocks[1], tower.blocks[0]]) for tower in
              (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer)]  # fmt: skip
    model.vision_backbone.featurizer.blocks, model.vision_backbone.fused_featurizer.blocks = deeper
    compiled = compile_layer(run_block, "cpu", backend="aot_eager")
    pixels = torch.randn(2, 1, 6, 56, 56)
    encode_image(model, pixels[0], block=compiled)
    assert fresh_compiler["stats"]["unique_graphs"] == 2
    assert not fresh_compiler["graph_break"]
    with no_recompile():
        found = encode_image(model, pixels[1], block=compiled)
    torch.testing.assert_close(found, model.encode_image(pixels[1]), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_what_would_be_compiled_again_is_an_error_after_the_warm_up(fresh_compiler):
    compiled = compile_layer(torch.nn.functional.gelu, "cpu", backend="eager")
    compiled(torch.ones(2, 3))
    with no_recompile():
        compiled(torch.zeros(2, 3))
        with pytest.raises(RuntimeError, match="recompile"):
            compiled(torch.ones(2, 4))
    compiled(torch.ones(2, 4))


def test_a_layer_that_cannot_be_compiled_whole_is_an_error(fresh_compiler):
    def waits(x):
        torch._dynamo.graph_break()
        return x + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        compile_layer(waits, "cpu", backend="eager")(torch.ones(2))


@pytest.mark.parametrize("drafts", [False, True])
def test_a_compiled_engine_answers_alike_and_compiles_nothing_after_the_warm_up(monkeypatch, fresh_compiler, drafts):
    """Of the compiler everything but the code that it writes, which takes minutes on a CPU."""
    for module in (engine, decoder):
        monkeypatch.setattr(module, "compile_layer", functools.partial(compile_layer, backend="aot_eager"))
    model = tiny_model(layers=4)
    compiled = engine.Engine(model, buckets=(48,), drafts=drafts, graphs=False, compile_layers=True)
    plain = engine.Engine(model, buckets=(48,), drafts=drafts, graphs=False)
    compiled.warm_up(REFERENCE, COUNT)
    assert not fresh_compiler["graph_break"]
    # A block of each tower, a layer over the prompt, over its last row, and over the rows of a pass: not one per layer.
    assert fresh_compiler["stats"]["unique_graphs"] <= 5
    with no_recompile():
        for seed in range(4):
            given = inputs(6 + seed, seed)
            expected = plain.generate(REFERENCE, *given, COUNT)
            draft = expected.ids if seed % 2 else None
            assert compiled.generate(REFERENCE, *given, COUNT, draft).ids.tolist() == expected.ids.tolist()
