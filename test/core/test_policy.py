"""The public face: one frame and one sentence to one action, or an error a person can act on."""

import json
import shutil

import numpy as np
import pytest
import torch

from openvla_core import load_policy
from openvla_core.errors import (
    ActionTokenError,
    CheckpointError,
    ConfigError,
    ImageError,
    InstructionError,
    StatisticsError,
)

SENTENCE = "pick up the red cube"


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def policy(word_checkpoint):
    return load_policy(word_checkpoint)


def test_a_prediction_is_complete(policy, image):
    prediction = policy.predict(image, SENTENCE)
    assert prediction.unnorm_key == "table"
    assert prediction.tokens.ids.dtype == np.int64
    assert ((prediction.tokens.ids >= 256) & (prediction.tokens.ids < 512)).all()
    assert prediction.action.shape == (7,)
    assert prediction.action.dtype == np.float64
    assert np.abs(prediction.normalized.values).max() < 1.0
    assert ((prediction.tokens.probabilities > 0) & (prediction.tokens.probabilities <= 1)).all()
    assert ((prediction.tokens.entropies >= 0) & (prediction.tokens.entropies <= np.log(576) + 1e-3)).all()
    np.testing.assert_array_equal(policy.predict_action(image, SENTENCE), prediction.action)
    np.testing.assert_array_equal(policy.predict_action_tokens(image, SENTENCE), prediction.tokens.ids)


def test_the_processor_gives_what_the_model_takes(policy, image):
    inputs = policy.processor(image, SENTENCE)
    assert inputs["input_ids"].dtype == torch.int64
    assert inputs["input_ids"][0, 0] == 1
    assert inputs["pixel_values"].shape == (1, 6, 112, 112)
    output = policy.model(**inputs, labels=inputs["input_ids"])
    assert output.logits.shape == (1, 64 + inputs["input_ids"].shape[1], 576)
    assert torch.isfinite(output.loss)


def test_padding_changes_nothing(policy, image):
    inputs = policy.processor(image, SENTENCE)
    padded = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 3), value=512),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 3)),
        "pixel_values": inputs["pixel_values"],
    }
    with torch.no_grad():
        plain, other = policy.model(**inputs).logits, policy.model(**padded).logits
    torch.testing.assert_close(other[:, : plain.shape[1]], plain, rtol=0, atol=1e-5)


def test_cached_decoding_equals_one_full_pass(policy, image):
    """The key-value cache is an optimisation, so leaving it out must not change a token."""
    ids = policy.predict_action_tokens(image, SENTENCE)
    prompt = policy.processor.generation_ids(SENTENCE)
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *ids[:-1]]]), None, policy.processor.pixel_values(image)).logits[
            0, -len(ids) :, 256:512
        ]
    np.testing.assert_array_equal(logits.argmax(-1).numpy() + 256, ids)


def test_reference_decoding_refuses_text_instead_of_moving(word_checkpoint, image):
    reference = load_policy(word_checkpoint, decoding="reference")
    with torch.no_grad():
        reference.model.language_model.lm_head.weight[256:512] = 0.0
        reference.model.language_model.lm_head.weight[2] *= 50.0
        reference.model.language_model.lm_head.weight[4] = -reference.model.language_model.lm_head.weight[2]
    with pytest.raises(ActionTokenError, match="ended its answer after 1 of 7"):
        reference.predict(image, SENTENCE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("row", [300, 20])
def test_an_output_that_is_not_finite_is_refused(word_checkpoint, image, value, temperature, row):
    broken = load_policy(word_checkpoint, temperature=temperature)
    with torch.no_grad():
        broken.model.language_model.lm_head.weight[row] = value
    with pytest.raises(ActionTokenError, match="not finite"):
        broken.predict(image, SENTENCE)


def test_sampling_repeats_with_its_seed_and_stays_among_actions(word_checkpoint, image):
    def draws(seed):
        policy = load_policy(word_checkpoint, temperature=1.0, seed=seed)
        return np.stack([policy.predict_action_tokens(image, SENTENCE) for _ in range(5)])

    first = draws(7)
    np.testing.assert_array_equal(first, draws(7))
    assert (first != draws(8)).any()
    assert len(np.unique(first)) > 7
    assert first.min() >= 256
    assert first.max() < 512


def test_sampling_follows_the_probabilities_of_the_model():
    """Half the weight on each of two ids: both are drawn, about equally often, and nothing else."""
    from openvla_core.decoding import Decoder

    decoder = Decoder("constrained", 256, 512, temperature=1.0, generator=torch.Generator().manual_seed(0))
    logits = torch.full((576,), -50.0)
    logits[[300, 400]] = 0.0
    logits[10] = 90.0  # a text token, however likely
    drawn = [int(decoder.choose(logits)) for _ in range(400)]
    assert set(drawn) == {300, 400}
    assert 140 < drawn.count(300) < 260


@pytest.mark.parametrize(
    "options",
    [
        {"decoding": "beam"},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 0.5, "decoding": "reference"},
    ],
)
def test_impossible_decoding_options_are_refused(word_checkpoint, options):
    with pytest.raises(ConfigError):
        load_policy(word_checkpoint, **options)


def test_an_unknown_unnorm_key_is_refused_when_loading_and_when_asking(word_checkpoint, policy, image):
    with pytest.raises(StatisticsError, match="table"):
        load_policy(word_checkpoint, unnorm_key="tabel")
    with pytest.raises(StatisticsError, match="table"):
        policy.predict(image, SENTENCE, unnorm_key="tabel")


def test_several_data_sets_need_a_choice(golden_policy, image):
    with pytest.raises(StatisticsError, match="bridge_orig, toy_arm"):
        golden_policy.predict(image, "pick up the cup")


def test_a_frame_that_is_not_rgb_is_refused(policy):
    with pytest.raises(ImageError):
        policy.predict(np.zeros((112, 112), np.uint8), SENTENCE)


def test_instructions_are_checked_before_they_reach_the_model(policy, image):
    assert policy.check_instruction("  Pick up the RED cube ") == "Pick up the RED cube"
    for text in ("", "pick\nup", "a" * 600):
        with pytest.raises(InstructionError):
            policy.check_instruction(text)
        with pytest.raises(InstructionError):
            policy.predict(image, text)


def test_unknown_words_are_listed_with_known_sentences(policy):
    with pytest.raises(InstructionError, match=r"grasp, mug.*pick up the red cube; pick up the blue cube"):
        policy.check_instruction("grasp the red mug")


def test_a_byte_level_tokenizer_knows_every_word(golden_policy):
    assert golden_policy.check_instruction("zażółć the 🤖 cup") == "zażółć the 🤖 cup"


def test_a_sentence_too_long_for_the_model_is_refused(golden_policy):
    """512 emoji are 2048 byte tokens, more than fit beside the image."""
    with pytest.raises(InstructionError, match="tokens"):
        golden_policy.check_instruction("🤖" * 512)


def test_cards_of_the_checkpoint_are_read(policy, golden_policy):
    assert policy.convention == {"name": "test"}
    assert policy.training_instructions == ("pick up the red cube", "pick up the blue cube")
    assert golden_policy.convention is None
    assert golden_policy.training_instructions == ()


def test_damaged_training_instructions_are_refused(word_checkpoint, tmp_path):
    directory = shutil.copytree(word_checkpoint, tmp_path / "copy")
    (directory / "training_card.json").write_text(json.dumps({"instructions": "pick"}))
    with pytest.raises(CheckpointError, match=r"training_card\.json"):
        load_policy(directory)


def test_a_model_that_ignores_its_image_is_found(word_checkpoint):
    """Some library versions silently dropped the image and answered one constant action."""
    policy = load_policy(word_checkpoint)
    policy.check_vision()
    with torch.no_grad():
        policy.model.projector.fc3.weight.zero_()
    with pytest.raises(CheckpointError, match="does not depend on the image"):
        policy.check_vision()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_predicts(word_checkpoint, image, dtype):
    policy = load_policy(word_checkpoint, dtype=dtype)
    assert policy.predict(image, SENTENCE).action.shape == (7,)
