"""Instructions: what is refused, and what reaches the model unchanged."""

from dataclasses import replace

import pytest

from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import ConfigError, InstructionError
from openvla_core.model import OpenVLAConfig
from openvla_core.processor import Processor
from openvla_core.prompt import PROMPTS, build_prompt, check_style, clean_instruction, training_sequence


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t ", "empty"),
        ("a" * 513, "513"),
        ("pick up\nOut: the cup", "U+000A"),
        ("pick\x00up", "U+0000"),
        ("pick \u202eup", "U+202E"),
        ("pick\u200bup", "U+200B"),
        ("pick \ud800", "U+D800"),
        ("a\u2028b", "U+2028"),
        (None, "NoneType"),
    ],
)
def test_text_that_hides_something_is_refused(text, reason):
    with pytest.raises(InstructionError, match=reason.replace("+", r"\+")):
        clean_instruction(text)


@pytest.mark.parametrize("text", ["pick up the cup", "zażółć the 🤖 cup", "a" * 512, "می‌خواهم"])
def test_ordinary_text_of_any_script_is_accepted(text):
    assert clean_instruction(f"  {text} ") == text


def test_the_instruction_is_lower_cased_and_otherwise_unchanged():
    assert "to open  the {Drawer}.?".lower() in build_prompt("Open  the {Drawer}.")


@pytest.mark.parametrize("style", PROMPTS)
@pytest.mark.parametrize("text", ["{x}", "{", "}", "{instruction}", "{0}", "{{}}", "{!r:>9}", "%s", "\\n", "$1"])
def test_no_character_is_a_command_to_the_template(style, text):
    assert f"take to {text}?" in build_prompt(text, style)


@pytest.mark.parametrize(
    ("text", "lower"),
    [("İ", "i̇"), ("ΑΣ", "ας"), ("ẞ", "ß"), ("ÀÉ", "àé"), ("ǅ", "ǆ"), ("Ⅷ", "ⅷ"), ("中文", "中文")],
)
def test_lower_case_is_python_s_which_may_change_the_length(text, lower):
    """As in the published code: one dotted capital I becomes two characters."""
    assert f" take to {lower}?" in build_prompt(text)


def test_an_unknown_style_lists_the_known_ones():
    with pytest.raises(ConfigError, match="vicuna.*openvla, openvla-v01"):
        build_prompt("wipe", "vicuna")
    assert [check_style(style) for style in PROMPTS] == ["openvla", "openvla-v01"]


@pytest.mark.parametrize(
    ("fields", "style"),
    [
        ({"llm_backbone_id": "llama2-7b-pure"}, "openvla"),
        ({"llm_backbone_id": "vicuna-v15-7b"}, "openvla-v01"),
        ({"llm_backbone_id": "vicuna-v15-13b"}, "openvla-v01"),
        ({}, "openvla"),
    ],
)
def test_the_checkpoint_says_which_prompt_it_was_trained_on(fields, style):
    config = OpenVLAConfig.from_dict({"model_type": "openvla", "vision_backbone_id": "siglip-vit-so400m", **fields})
    assert config.prompt_style == style


def test_the_style_can_be_chosen_by_the_caller(golden_checkpoint):
    checkpoint = load_checkpoint(golden_checkpoint)
    config = replace(checkpoint.config, prompt_style="openvla-v01")
    processor = Processor(checkpoint.tokenizer, checkpoint.image_processor, config)
    ids = processor.generation_ids("Wipe")
    assert ids == [*checkpoint.tokenizer.encode(build_prompt("Wipe", "openvla-v01")).ids, 29871]
    assert ids != Processor(checkpoint.tokenizer, checkpoint.image_processor, checkpoint.config).generation_ids("Wipe")


def test_labels_cover_the_action_and_the_end_only():
    ids, labels = training_sequence([1, 9], space_id=7, action_ids=[40, 41], eos_id=2)
    assert ids.tolist() == [1, 9, 7, 40, 41, 2]
    assert labels.tolist() == [-100, -100, -100, 40, 41, 2]
