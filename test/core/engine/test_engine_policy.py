"""The policy with the engine: the published answers, alone and in a batch, and an error for each bad request."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from openvla_core import load_policy
from openvla_core.errors import (
    ActionTokenError,
    ConfigError,
    ImageError,
    InstructionError,
    OpenVLAError,
    StatisticsError,
)
from openvla_core.policy import Policy, Prediction
from openvla_ros.policy_setup import PolicySettings, set_up_policy

RED, BLUE = "pick up the red cube", "pick up the blue cube to the red cube"


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize("decoding", ["reference", "constrained"])
@pytest.mark.parametrize("options", [{}, {"drafts": True}, {"engine": "eager"}], ids=["engine", "drafts", "eager"])
def test_the_published_tokens_come_out_of_every_way(golden, golden_checkpoint, decoding, options):
    policy = load_policy(golden_checkpoint, decoding=decoding, **options)
    samples = json.loads((golden / "fused_mini" / "golden.json").read_text(encoding="utf-8"))["samples"]
    requests = [(np.asarray(Image.open(golden / "images" / s["image"]).convert("RGB")), s["task"]) for s in samples]
    published = [sample["greedy_new_token_ids"][:7] for sample in samples]
    for _ in range(2):  # the second time with guesses, where there are any
        found = [policy.predict(*request, "toy_arm").tokens.ids.tolist() for request in requests]
        assert found == published
    batch = policy.predict_batch(requests, "toy_arm")
    assert [prediction.tokens.ids.tolist() for prediction in batch] == published
    assert (policy.generation.engine is None) == ("engine" in options)
    assert (policy.generation.figures.proposed > 0) == ("drafts" in options)


def test_an_attached_adapter_answers_as_in_the_plain_loop(golden, golden_checkpoint, image):
    adapter = golden / "fused_mini" / "lora_adapter"
    fast, plain = (load_policy(golden_checkpoint, adapter=adapter, engine=engine) for engine in ("auto", "eager"))
    first, second = (policy.predict(image, "pick up the cup", "toy_arm") for policy in (fast, plain))
    np.testing.assert_array_equal(first.tokens.ids, second.tokens.ids)
    np.testing.assert_allclose(first.tokens.probabilities, second.tokens.probabilities, rtol=1e-4)


def test_a_batch_gives_each_what_it_would_get_alone(word_checkpoint, image):
    policy = load_policy(word_checkpoint, largest_batch=2)
    requests = [(image, RED), (255 - image, BLUE), (image[:100], BLUE), (np.zeros_like(image), RED), (image, "pick")]
    for request, found in zip(requests, policy.predict_batch(requests), strict=True):
        alone = policy.predict(*request)
        np.testing.assert_array_equal(found.tokens.ids, alone.tokens.ids)
        np.testing.assert_allclose(found.tokens.probabilities, alone.tokens.probabilities, rtol=1e-4)
        np.testing.assert_array_equal(found.action, alone.action)


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_bad_requests_harm_no_other(word_checkpoint, image, engine):
    policy = load_policy(word_checkpoint, engine=engine)
    expected = policy.predict(image, RED)
    word = policy.processor.tokenizer.token_to_id("blue")
    with torch.no_grad():
        policy.model.language_model.model.embed_tokens.weight[word] = float("nan")
    requests = [
        (image, RED),
        (image, "fetch the banana"),
        (image.astype(np.float32), RED),
        (image, "pick up the blue cube"),
        (image, ""),
        (image, RED),
    ]
    found = policy.predict_batch(requests)
    kinds = [Prediction, InstructionError, ImageError, ActionTokenError, InstructionError, Prediction]
    assert [type(outcome) for outcome in found] == kinds
    for i in (0, 5):
        np.testing.assert_array_equal(found[i].tokens.ids, expected.tokens.ids)
    for request, outcome in zip(requests, found, strict=True):
        if isinstance(outcome, OpenVLAError):
            with pytest.raises(type(outcome)):
                policy.predict(*request)


def test_a_batch_of_nothing_and_of_bad_requests_only(word_checkpoint, image):
    policy = load_policy(word_checkpoint)
    assert policy.predict_batch([]) == []
    assert [type(outcome) for outcome in policy.predict_batch([(image, "")] * 2)] == [InstructionError] * 2
    with pytest.raises(StatisticsError, match="tabel"):
        policy.predict_batch([(image, RED)], unnorm_key="tabel")


def test_a_guess_does_not_survive_as_an_answer(word_checkpoint, image):
    """With drafts every answer is that of a policy without, whatever was seen before."""
    plain, drafted = load_policy(word_checkpoint), load_policy(word_checkpoint, drafts=True)
    noise = np.random.default_rng(1)
    for i in range(12):
        frame = image if i % 3 else noise.integers(0, 256, image.shape, dtype=np.uint8)
        sentence = RED if i % 4 else BLUE
        np.testing.assert_array_equal(
            drafted.predict_action_tokens(frame, sentence), plain.predict_action_tokens(frame, sentence)
        )
    figures = drafted.generation.figures
    assert 0 < figures.accepted <= figures.proposed
    assert figures.passes < plain.generation.figures.passes


def test_an_unknown_engine_is_refused(word_checkpoint):
    with pytest.raises(ConfigError, match="auto, eager"):
        load_policy(word_checkpoint, engine="turbo")


def test_the_node_sets_the_engine_up_and_says_so(word_checkpoint, tmp_path):
    from pathlib import Path

    card = Path(__file__).parents[3] / "config" / "conventions" / "sim_tabletop.yaml"
    settings = PolicySettings(checkpoint=str(word_checkpoint), convention=str(card), drafts=True)
    sentences: list[str] = []
    policy, _, seconds = set_up_policy(settings, sentences.append)
    assert isinstance(policy, Policy)
    assert policy.generation.engine is not None and policy.generation.engine.drafts
    assert any("Preparing the engine" in sentence for sentence in sentences)
    assert seconds > 0
    eager = set_up_policy(PolicySettings(checkpoint=str(word_checkpoint), convention=str(card), engine="eager"))[0]
    assert eager.generation.engine is None
