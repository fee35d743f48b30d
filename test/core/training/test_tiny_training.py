"""The tiny OpenVLA's training: what it computes is what the policy computes later, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from openvla_core.action_statistics import ActionStatistics, compute_statistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.config import settings_from_mapping
from openvla_core.errors import ConfigError
from openvla_core.image_processor import ImageProcessor
from openvla_core.model.config import OpenVLAConfig
from openvla_core.model.openvla import OpenVLA
from openvla_core.prompt import SPACE, build_prompt, with_trailing_space
from openvla_core.sim.tasks import ALL_TASKS, COLORS, all_sentences
from openvla_core.training.batches import Batches
from openvla_core.training.packing import Packing, Sentences
from openvla_core.training.sim_frames import make_frames
from openvla_core.training.tiny_checkpoint import tiny_config, tiny_preprocessor_config, tiny_tokenizer
from openvla_core.training.tiny_model import TinyTrainingModel, choose_actions, initialize, take
from openvla_core.training.tiny_sim import TinySimRecipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def frames():
    return make_frames("random", 24, seed=1)


@pytest.fixture(scope="module")
def statistics(frames):
    return ActionStatistics.from_dict(compute_statistics(frames.actions.reshape(-1, 7)))


@pytest.fixture
def learner():
    torch.manual_seed(0)
    config = OpenVLAConfig.from_dict(tiny_config())
    model = OpenVLA(config, attn_implementation="eager")
    initialize(model)
    tokenizer = tiny_tokenizer()
    packing = Packing(Sentences.build(all_sentences(), tokenizer, COLORS), config.patches, instructions=4)
    colors = torch.tensor([tokenizer.token_to_id(color) for color in COLORS])
    return TinyTrainingModel(model, packing, colors, eos_id=2)


def make_batches(frames, statistics, instructions=4):
    batches = Batches(statistics, 512, instructions, seed=0)
    batches.add(frames, 1.0)
    return batches


def test_packed_instructions_see_only_the_image_and_themselves(frames, statistics, learner):
    """Each block must give the logits of the plain, unpacked model on that one sentence."""
    batch = make_batches(frames, statistics).draw(3)
    model, packing, tokenizer = learner.model, learner.packing, tiny_tokenizer()
    ids, rows = packing.fill(batch.sentence, batch.actions)
    embed = model.language_model.model.embed_tokens
    shared = embed(packing.sentences.shared)[None].expand(3, -1, -1)
    embeddings = torch.cat([shared[:, :1], model.encode_image(batch.pixels), shared[:, 1:], embed(ids)], dim=1)
    hidden = model.language_model.model(
        inputs_embeds=embeddings,
        attention_mask=packing.mask,
        position_ids=packing.position_ids.expand(3, -1),
        use_cache=False,
    ).last_hidden_state
    packed = model.language_model.lm_head(take(hidden, rows))
    for image in range(3):
        for block in range(4):
            text = all_sentences()[batch.sentence[image, block]]
            prompt = with_trailing_space(tokenizer.encode(build_prompt(text)).ids, tokenizer.token_to_id(SPACE))
            plain = torch.tensor([prompt + batch.actions[image, block].tolist()])
            logits = model(plain, None, batch.pixels[image : image + 1]).logits[0, -8:]
            torch.testing.assert_close(packed[image, block], logits, atol=1e-4, rtol=0)


def test_training_pixels_equal_the_policy_processor(frames, statistics):
    batches = make_batches(frames, statistics)
    processor = ImageProcessor.from_dict(tiny_preprocessor_config())
    trained = batches.normalize_images(torch.from_numpy(frames.images[:4])).numpy()
    for image, pixels in zip(frames.images[:4], trained, strict=True):
        np.testing.assert_allclose(processor(image).reshape(pixels.shape), pixels, atol=1e-6)


def test_named_cube_label_and_sentence_agree(frames, statistics):
    batch = make_batches(frames, statistics).draw(24)
    for sentence, color in zip(batch.sentence.flatten(), batch.truth.colors.flatten(), strict=True):
        assert COLORS[color] in all_sentences()[sentence]


def test_labels_are_the_experts_actions(frames, statistics):
    """Within one bin, and cut at the quantiles."""
    batch = make_batches(frames, statistics).draw(8)
    decoded = statistics.unnormalize(ActionTokenizer(512).decode(batch.actions.numpy()))[..., :3]
    low, high = statistics.q01[:3], statistics.q99[:3]
    error = np.abs(decoded - np.clip(batch.truth.steps.numpy(), low, high))
    assert (error <= (high - low) / 255).all()


def test_it_learns_a_handful_of_frames(frames, statistics, learner):
    batches = make_batches(frames, statistics)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss, values = learner.loss(batches.draw(6))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        losses.append(values["action"])
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def test_every_executed_parameter_gets_a_gradient(frames, statistics, learner):
    loss, _ = learner.loss(make_batches(frames, statistics).draw(4))
    loss.backward()
    without = {name for name, p in learner.model.named_parameters() if p.grad is None}
    assert without, "the last block of each tower is never executed"
    assert all(".blocks.4." in n or ".norm." in n or "attn_pool" in n for n in without if "vision_backbone" in n)
    assert not [name for name in without if "vision_backbone" not in name]


def test_chosen_actions_are_action_ids(frames, statistics, learner):
    packing = Packing(learner.packing.sentences, 64, instructions=1)
    batch = make_batches(frames, statistics, instructions=1).draw(5)
    ids = choose_actions(learner.model.eval(), packing, batch.pixels, batch.sentence[:, 0], 0.0, None)
    assert ids.shape == (5, 7)
    assert ((ids >= 256) & (ids < 512)).all()


def test_shipped_recipe_is_understood():
    values = yaml.safe_load((ROOT / "training/recipes/tiny_sim.yaml").read_text())
    recipe = settings_from_mapping(TinySimRecipe, values)
    assert recipe.main_steps == values["main_steps"]


def test_misspelt_recipe_key_is_named():
    with pytest.raises(ConfigError, match="main_steps"):
        settings_from_mapping(TinySimRecipe, {"main_step": 3})


def test_frames_know_all_tasks(frames):
    assert frames.actions.shape == (24, len(ALL_TASKS), 7)
    assert np.abs(np.linalg.norm(frames.actions[..., :3], axis=-1)).max() <= 0.0501
