"""The public face: one frame and one sentence to one action, or an error a person can act on."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from openvla_core import load_policy
from openvla_core.errors import (
    ActionTokenError,
    CheckpointError,
    ConfigError,
    ConventionError,
    ImageError,
    InstructionError,
    StatisticsError,
)
from openvla_core.image_preparation import ImagePreparation
from openvla_ros.policy_setup import PolicySettings, set_up_policy

SIM_CARD = Path(__file__).parents[2] / "config" / "conventions" / "sim_tabletop.yaml"
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


@pytest.mark.parametrize("decoding", ["reference", "constrained"])
def test_an_answer_that_ends_early_never_moves_the_arm(golden_checkpoint, image, decoding):
    """The published code then takes ids of the prompt for the missing numbers. Here the end is likeliest at step 3."""
    policy = load_policy(golden_checkpoint, decoding=decoding)
    full = policy.predict(image, SENTENCE, "toy_arm").tokens
    hidden = []
    head = policy.model.language_model.lm_head
    handle = head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0][0, -1].clone()))
    policy.predict(image, SENTENCE, "toy_arm")
    handle.remove()
    with torch.no_grad():
        # A row that answers to the third hidden state and to none of the others.
        others = torch.stack([state for i, state in enumerate(hidden) if i != 2])
        row = hidden[2] - torch.linalg.pinv(others) @ (others @ hidden[2])
        head.weight[2] = 1000.0 * row / (row @ hidden[2])
    if decoding == "reference":
        with pytest.raises(ActionTokenError, match="after 2 of 7"):
            policy.predict(image, SENTENCE, "toy_arm")
    else:
        tokens = policy.predict(image, SENTENCE, "toy_arm").tokens
        np.testing.assert_array_equal(tokens.ids, full.ids)
        assert tokens.probabilities[2] < 1e-6, "over the whole vocabulary, so the unsaid word shows"


@pytest.mark.parametrize("decoding", ["reference", "constrained"])
def test_padding_is_no_action_either(golden_checkpoint, image, decoding):
    """Ids at and above 32000 decode to the lowest action in the published code."""
    policy = load_policy(golden_checkpoint, decoding=decoding)
    with torch.no_grad():
        policy.model.language_model.lm_head.weight[31744:32000] = 0.0
        policy.model.language_model.lm_head.weight[32000:32064] *= 50.0
    if decoding == "reference":
        with pytest.raises(ActionTokenError, match="31744 to 31999"):
            policy.predict(image, SENTENCE, "toy_arm")
    else:
        assert policy.predict(image, SENTENCE, "toy_arm").tokens.ids.max() < 32000


@pytest.mark.parametrize("decoding", ["reference", "constrained"])
@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.1.mlp.down_proj.weight",
        "language_model.model.norm.weight",
        "projector.fc1.bias",
        "vision_backbone.featurizer.pos_embed",
    ],
)
def test_one_damaged_weight_anywhere_is_refused(word_checkpoint, image, decoding, name):
    policy = load_policy(word_checkpoint, decoding=decoding)
    with torch.no_grad():
        policy.model.get_parameter(name).view(-1)[0] = float("nan")
    with pytest.raises(ActionTokenError, match="not finite"):
        policy.predict(image, SENTENCE)
    with pytest.raises(CheckpointError, match="not finite"):
        policy.check_vision()


def test_probabilities_are_over_the_whole_vocabulary_in_both_decodings(golden_checkpoint, golden_policy, image):
    """So that a model that would rather answer with text shows it, even where it may not."""
    inputs = golden_policy._inputs(image, SENTENCE)
    with torch.no_grad():
        full = golden_policy.model(inputs[0], None, inputs[1]).logits[0, -1].softmax(-1)
    constrained = load_policy(golden_checkpoint).predict(image, SENTENCE, "toy_arm").tokens
    assert constrained.probabilities[0] == pytest.approx(float(full[constrained.ids[0]]), rel=1e-3)
    entropy = float(-(full * full.log()).nan_to_num().sum())
    assert constrained.entropies[0] == pytest.approx(entropy, rel=1e-3)


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


@pytest.mark.parametrize(("key", "nearest"), [("toy", "toy_arm, bridge_orig"), ("bridge", "bridge_orig, toy_arm")])
def test_an_unknown_unnorm_key_lists_the_nearest_choice_first(golden_policy, image, key, nearest):
    with pytest.raises(StatisticsError, match=f"It has: {nearest}"):
        golden_policy.predict(image, SENTENCE, unnorm_key=key)


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


ACTION_CHARACTERS = ("吜", "吠", "唛")


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>", "</S>", "<UNK>", *ACTION_CHARACTERS])
@pytest.mark.parametrize("sentence", ["{}", "pick {} up", "x{}x", "{}{}"])
def test_special_words_and_action_characters_never_become_their_ids(golden_policy, image, word, sentence):
    """The published tokenizer turns them into begin, end and action tokens wherever they stand."""
    text = sentence.format(word, word)
    for ask in (golden_policy.check_instruction, golden_policy.processor.prompt_ids):
        with pytest.raises(InstructionError, match=re.escape(repr(word.lower()))):
            ask(text)
    with pytest.raises(InstructionError):
        golden_policy.predict(image, text, "toy_arm")


@pytest.mark.parametrize(
    "word", ["<PAD>", "<pad>", "<0x0A>", "< / s >", "＜/s＞", "<|im_end|>", "[INST]", "s>", "\\n", "▁"]
)
def test_what_only_looks_special_is_read_as_text(golden_policy, word):
    ids = golden_policy.processor.prompt_ids(f"pick {word} up")
    assert ids[0] == 1
    assert ids.count(13) == 1, "the line break of the prompt itself"
    assert not {0, 1, 2} & set(ids[1:])
    assert max(ids) < 31744


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_whatever_becomes_a_special_or_action_id(golden_policy, text):
    try:
        ids = golden_policy.processor.prompt_ids(text)
    except InstructionError:
        return
    assert ids[0] == 1
    assert not {0, 1, 2} & set(ids[1:])
    assert max(ids) < 31744


def test_every_action_character_is_refused(golden_policy):
    tokenizer = golden_policy.processor.tokenizer
    for i in range(31744, 32000):
        with pytest.raises(InstructionError):
            golden_policy.processor.prompt_ids(f"pick {tokenizer.id_to_token(i)}")


def test_words_outside_the_vocabulary_do_not_become_unknown_tokens(policy, image):
    with pytest.raises(InstructionError, match="'mug'"):
        policy.predict(image, "pick up the mug")


@pytest.mark.parametrize("text", ["ΑΒΓ", "İstanbul", "ß", "K", "ﬁsh", "e\u0301", "🤖👩‍🔬", "שלום", "\u0e33"])
def test_unusual_letters_are_text(golden_policy, text):
    assert golden_policy.check_instruction(text) == text


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


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}])
def test_a_model_that_ignores_its_image_is_found(word_checkpoint, options):
    """Some library versions silently dropped the image and answered one constant action."""
    policy = load_policy(word_checkpoint, **options)
    assert policy.check_vision() > 1e-3
    with torch.no_grad():
        policy.model.projector.fc3.weight.zero_()
    with pytest.raises(CheckpointError, match="does not depend on the image"):
        policy.check_vision()


def test_a_model_with_an_adapter_that_ignores_its_image_is_found(golden, golden_checkpoint):
    policy = load_policy(golden_checkpoint, adapter=golden / "fused_mini" / "lora_adapter")
    policy.check_vision()
    with torch.no_grad():
        for name, parameter in policy.model.projector.named_parameters():
            if "fc3" in name:
                parameter.zero_()
    with pytest.raises(CheckpointError, match="does not depend on the image"):
        policy.check_vision()


def test_the_policy_node_does_not_start_with_a_model_that_ignores_its_image(word_checkpoint, tmp_path):
    directory = shutil.copytree(word_checkpoint, tmp_path / "copy")
    settings = PolicySettings(checkpoint=str(directory), convention=str(SIM_CARD))
    assert set_up_policy(settings)[2] > 0, "the same checkpoint starts while it is whole"
    state = load_file(directory / "model.safetensors")
    state["projector.fc3.weight"].zero_()
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="does not depend on the image"):
        set_up_policy(settings)


def test_patches_that_never_reach_the_language_model_are_found(word_checkpoint, monkeypatch):
    policy = load_policy(word_checkpoint)
    monkeypatch.setattr(policy.model, "embed", lambda ids, pixels: policy.model.language_model.model.embed_tokens(ids))
    with pytest.raises(CheckpointError, match="does not depend on the image"):
        policy.check_vision()


def test_an_image_processor_that_loses_the_image_is_found(word_checkpoint, monkeypatch):
    policy = load_policy(word_checkpoint)
    pixels = policy.processor.pixel_values(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(policy.processor, "pixel_values", lambda image: pixels)
    with pytest.raises(CheckpointError, match="does not depend on the image"):
        policy.check_vision()


def test_the_self_test_finds_words_that_the_checkpoint_knows(word_checkpoint, tmp_path):
    """Without a training card it asks about a cup, which this tokenizer has never heard of."""
    directory = shutil.copytree(word_checkpoint, tmp_path / "copy")
    (directory / "training_card.json").unlink()
    load_policy(directory).check_vision()


def card(preprocessing):
    return json.dumps({"name": "test", "image": {"width": 112, "height": 112, "preprocessing": preprocessing}})


def test_frames_are_prepared_as_the_card_or_the_caller_says(word_checkpoint, tmp_path, image):
    directory = shutil.copytree(word_checkpoint, tmp_path / "copy")
    plain = load_policy(directory).processor.pixel_values(image)
    (directory / "action_convention.json").write_text(card("libero"))
    policy = load_policy(directory)
    assert policy.processor.preparation == ImagePreparation.from_card("libero", 112)
    prepared = policy.processor.pixel_values(image)
    assert prepared.shape == plain.shape
    assert not torch.equal(prepared, plain)
    assert torch.equal(load_policy(directory, image_preparation="none").processor.pixel_values(image), plain)
    policy.prepare_images("none")
    assert torch.equal(policy.processor.pixel_values(image), plain)


def test_an_unknown_preparation_is_refused(word_checkpoint, tmp_path):
    with pytest.raises(ConventionError, match="libero"):
        load_policy(word_checkpoint, image_preparation="liberty")
    directory = shutil.copytree(word_checkpoint, tmp_path / "copy")
    (directory / "action_convention.json").write_text(card("liberty"))
    with pytest.raises(ConventionError, match="libero"):
        load_policy(directory)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_predicts(word_checkpoint, image, dtype):
    policy = load_policy(word_checkpoint, dtype=dtype)
    assert policy.predict(image, SENTENCE).action.shape == (7,)


def test_the_prompt_can_be_chosen(golden_checkpoint):
    """An early model keeps its own sentence whatever its config.json says."""
    policy = load_policy(golden_checkpoint, prompt_style="openvla-v01")
    ids = policy.processor.prompt_ids("pick up the cup")
    assert policy.processor.tokenizer.decode(list(ids)).rstrip().endswith("ASSISTANT:")
    with pytest.raises(ConfigError, match="openvla-v01"):
        load_policy(golden_checkpoint, prompt_style="openvla-v02")
