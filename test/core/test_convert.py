"""Weights of other projects: a Prismatic run, timm and transformers backbones, and files that would run code."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from openvla_core.checkpoint import load_checkpoint
from openvla_core.conversion.backbones import from_backbones, read_tower, resample_positions, tower_names
from openvla_core.conversion.prismatic import export_prismatic, from_prismatic, import_prismatic, to_prismatic
from openvla_core.convert import main
from openvla_core.errors import CheckpointError
from openvla_core.model.config import DINOV2, SIGLIP_224
from openvla_core.model.vision_backbone import VisionTransformer

SIDE = 56  # pixels: 16 patches


@pytest.fixture(scope="module")
def dinov2():
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=14
    )
    return randomized(Dinov2WithRegistersModel(config))


@pytest.fixture(scope="module")
def siglip():
    config = SiglipVisionConfig(
        hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=3, image_size=SIDE,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    return randomized(SiglipVisionModel(config))


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folders(dinov2, siglip, llama, tmp_path_factory):
    """The three backbones as transformers saves them."""
    root = tmp_path_factory.mktemp("backbones")
    for name, model in (("dinov2", dinov2), ("siglip", siglip), ("llama", llama)):
        model.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def llama_tokenizer(golden, tmp_path_factory):
    """The tokenizer of the language model alone, before the padding token was added."""
    folder = tmp_path_factory.mktemp("tokenizer")
    values = json.loads((golden / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<PAD>"]
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def golden_run(golden_checkpoint, tmp_path_factory):
    """The golden checkpoint as a Prismatic run."""
    run = tmp_path_factory.mktemp("prismatic") / "run"
    export_prismatic(golden_checkpoint, run)
    return run


@pytest.fixture(scope="module")
def golden_changes(golden_checkpoint):
    """What a run of a published size would not have to be told."""
    config = json.loads((golden_checkpoint / "config.json").read_text(encoding="utf-8"))
    return {key: config[key] for key in ("text_config", "timm_model_kwargs")}


def randomized(model):
    """Every tensor random, so that none can be left out or swapped unnoticed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tower_of(path, timm_id):
    config, state = read_tower(path, timm_id, SIDE)
    tower = VisionTransformer(config)
    tower.load_state_dict(state)
    return tower.eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_dinov2_of_transformers_gives_the_same_features(dinov2, folders, pixels):
    expected = dinov2(pixels, output_hidden_states=True).hidden_states[-2][:, 5:]
    torch.testing.assert_close(tower_of(folders / "dinov2", DINOV2)(pixels), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_siglip_of_transformers_gives_the_same_features(siglip, folders, pixels):
    expected = siglip(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(tower_of(folders / "siglip", SIGLIP_224)(pixels), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_parts_that_are_never_run_are_converted_too(siglip, folders, pixels):
    """The pooling head, written out here from our weights, gives what transformers' own gives."""
    tower = tower_of(folders / "siglip", SIGLIP_224)
    features = tower.norm(tower.blocks[-1](tower(pixels)))
    pool = tower.attn_pool
    query = pool.q(pool.latent.expand(len(pixels), -1, -1)).view(2, 1, 3, 16).transpose(1, 2)
    key, value = pool.kv(features).view(2, -1, 2, 3, 16).permute(2, 0, 3, 1, 4)
    x = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 1, 48)
    x = pool.proj(x)
    x = (x + pool.mlp(pool.norm(x)))[:, 0]
    torch.testing.assert_close(x, siglip(pixels).pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_timm_names_are_read_from_either_kind_of_file(golden_checkpoint, tmp_path, suffix):
    tower = load_checkpoint(golden_checkpoint).model.vision_backbone.featurizer
    state = {name.replace("scale_factor", "gamma"): t.contiguous() for name, t in tower.state_dict().items()}
    path = tmp_path / f"tower.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    config, read = read_tower(path, DINOV2, 224)
    assert (config.depth, config.embed_dim) == (3, 32)
    assert read.keys() == tower.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tower.state_dict().items())


def test_a_text_tower_beside_the_vision_tower_is_left_out(siglip):
    state = {f"vision_model.{name}": tensor for name, tensor in siglip.state_dict().items()}
    extra = {"text_model.head.weight": torch.zeros(2), "logit_scale": torch.zeros(1), "logit_bias": torch.zeros(1)}
    assert tower_names({**state, **extra}).keys() == tower_names(siglip.state_dict()).keys()


def test_position_embeddings_of_another_size_are_resampled():
    """A smooth ramp stays that ramp on a coarser grid; the right size is left alone to the last bit."""
    ramp = torch.linspace(-1, 1, 37)[:, None].expand(37, 37).reshape(1, 37 * 37, 1)
    coarse = resample_positions(ramp, 256).view(16, 16)
    expected = (torch.arange(16) + 0.5) / 16 * 37 - 0.5
    torch.testing.assert_close(coarse[2:-2, 5], (-1 + 2 * expected / 36)[2:-2], rtol=0, atol=1e-3)
    assert resample_positions(ramp, 37 * 37) is ramp


@torch.no_grad()
def test_a_new_model_is_assembled_from_backbones(folders, llama, llama_tokenizer, tmp_path, pixels):
    towers = {"dinov2": folders / "dinov2", "siglip": folders / "siglip"}
    out = from_backbones(tmp_path / "new", towers, folders / "llama", llama_tokenizer, image_size=SIDE, dtype="float32")
    checkpoint = load_checkpoint(out)
    config = checkpoint.config
    assert (config.language.vocab_size, config.language.pad_token_id, config.action_vocab_size) == (32064, 32000, 32000)
    assert (config.language.rms_norm_eps, config.language.num_key_value_heads) == (1e-5, 2)
    assert checkpoint.tokenizer.token_to_id("<PAD>") == 32000
    ids = torch.tensor([[1, 15, 22172, 3]])
    ours = checkpoint.model.language_model(ids).logits
    torch.testing.assert_close(ours[..., :32000], llama(ids).logits, rtol=1e-5, atol=1e-5)
    # New ids have the mean of all logits: no more likely than an average word.
    torch.testing.assert_close(ours[..., 32000:].amax(-1), llama(ids).logits.mean(-1), rtol=1e-4, atol=1e-5)
    features = tower_of(folders / "dinov2", DINOV2)(pixels)
    torch.testing.assert_close(checkpoint.model.vision_backbone.featurizer(pixels), features, rtol=0, atol=0)


def test_swapped_towers_are_noticed(folders):
    with pytest.raises(CheckpointError, match="swapped"):
        read_tower(folders / "siglip", DINOV2, SIDE)


def test_a_language_model_is_no_tower(folders):
    with pytest.raises(CheckpointError, match="not a vision transformer"):
        read_tower(folders / "llama", DINOV2, SIDE)


@torch.no_grad()
def test_a_prismatic_run_and_back_gives_identical_logits(
    golden_run, golden_checkpoint, golden_changes, tmp_path, golden_policy
):
    out = import_prismatic(golden_run, tmp_path / "back", golden_checkpoint, golden_changes)
    original, back = load_checkpoint(golden_checkpoint), load_checkpoint(out)
    ids, images = torch.tensor([[1, 512, 29871]]), torch.rand(1, 6, 224, 224)
    assert torch.equal(original.model(ids, None, images).logits, back.model(ids, None, images).logits)
    assert back.statistics == original.statistics
    assert back.config == original.config
    for name, tensor in back.model.state_dict().items():
        assert torch.equal(tensor, original.model.state_dict()[name]), name


def test_prismatic_names_are_those_of_its_training_code(golden_run):
    parts = torch.load(golden_run / "checkpoints" / "latest-checkpoint.pt", weights_only=True)["model"]
    assert "dino_featurizer.blocks.0.ls1.gamma" in parts["vision_backbone"]
    assert "siglip_featurizer.attn_pool.latent" in parts["vision_backbone"]
    assert set(parts["projector"]) == {f"projector.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}
    assert "llm.model.layers.1.mlp.up_proj.weight" in parts["llm_backbone"]
    assert parts["llm_backbone"]["llm.lm_head.weight"].dtype == torch.bfloat16


def test_names_of_a_single_tower_map_both_ways():
    names = [
        "vision_backbone.featurizer.blocks.0.norm1.weight",
        "projector.fc1.weight",
        "projector.fc2.bias",
        "language_model.model.norm.weight",
    ]
    state = {name: torch.zeros(1) for name in names}
    parts = to_prismatic(state)
    assert list(parts["vision_backbone"]) == ["featurizer.blocks.0.norm1.weight"]
    assert from_prismatic({"model": parts}).keys() == state.keys()


def test_a_vocabulary_without_padding_rows_is_padded(golden_run, golden_changes, llama_tokenizer, tmp_path):
    """Rows 32000 and above are new; the tokenizer gains <PAD>, so the action ids stay where they were."""
    run = shutil.copytree(golden_run, tmp_path / "run")
    path = run / "checkpoints" / "latest-checkpoint.pt"
    values = torch.load(path, weights_only=True)
    llm = values["model"]["llm_backbone"]
    for name in ("llm.model.embed_tokens.weight", "llm.lm_head.weight"):
        llm[name] = llm[name][:32000].clone()
    torch.save(values, path)
    back = load_checkpoint(import_prismatic(run, tmp_path / "out", llama_tokenizer, golden_changes))
    assert back.config.language.vocab_size == 32064
    assert back.config.action_vocab_size == 32000
    head = back.model.language_model.lm_head.weight
    torch.testing.assert_close(head[32063], head[:32000].mean(0), rtol=0, atol=1e-3)


def test_a_vla_run_names_only_the_model_it_began_with(golden_run, golden_changes, golden_checkpoint, tmp_path):
    run = shutil.copytree(golden_run, tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}}))
    back = load_checkpoint(import_prismatic(run, tmp_path / "out", golden_checkpoint, golden_changes))
    assert back.config_json["llm_backbone_id"] == "llama2-7b-pure"
    (run / "config.json").write_text(json.dumps({"vla": {"base_vlm": "my-own"}}))
    with pytest.raises(CheckpointError, match="'my-own', which is not known"):
        import_prismatic(run, tmp_path / "out2", golden_checkpoint, golden_changes)


class Malicious:
    """Unpickled the ordinary way, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["alone", "among the weights"])
def test_a_pickle_that_would_run_code_is_refused(golden_run, golden_checkpoint, tmp_path, place, capsys):
    run = shutil.copytree(golden_run, tmp_path / "run")
    path, written = run / "checkpoints" / "latest-checkpoint.pt", tmp_path / "written"
    evil = Malicious(written)
    torch.save(evil if place == "alone" else {**torch.load(path, weights_only=True), "note": evil}, path)
    assert main(["prismatic", str(run), str(tmp_path / "out"), "--tokenizer", str(golden_checkpoint)]) == 1
    assert "run code" in capsys.readouterr().err
    assert not written.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage"])
def test_a_damaged_torch_file_is_an_error(golden_run, golden_checkpoint, tmp_path, content):
    run = shutil.copytree(golden_run, tmp_path / "run")
    (run / "checkpoints" / "latest-checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_prismatic(run, tmp_path / "out", golden_checkpoint)


def test_a_file_without_the_three_parts_is_refused():
    with pytest.raises(CheckpointError, match="projector, llm_backbone"):
        from_prismatic({"model": {"vision_backbone": {"featurizer.norm.weight": torch.zeros(1)}}})
    parts = {"vision_backbone": {"resnet.weight": torch.zeros(1)}}
    parts |= {"projector": {"projector.0.weight": torch.zeros(1)}, "llm_backbone": {"llm.x": torch.zeros(1)}}
    with pytest.raises(CheckpointError, match=r"resnet\.weight"):
        from_prismatic({"model": parts})


def test_the_command_line_converts_both_ways(golden_checkpoint, golden_changes, tmp_path, capsys):
    run, out, changes = tmp_path / "run", tmp_path / "out", tmp_path / "changes.json"
    changes.write_text(json.dumps(golden_changes))
    assert main(["to-prismatic", str(golden_checkpoint), str(run)]) == 0
    arguments = ["prismatic", str(run), str(out), "--tokenizer", str(golden_checkpoint), "--config", str(changes)]
    assert main(arguments) == 0
    assert str(out) in capsys.readouterr().out
    assert (out / "tokenizer_config.json").is_file()
    assert Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id("<PAD>") == 32000
    assert main(arguments) == 1
    assert "already exists" in capsys.readouterr().err
