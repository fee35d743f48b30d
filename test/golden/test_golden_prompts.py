"""Prompts, their ids and the training labels are those of the published code, for both prompt styles."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.prompt import PROMPTS, SPACE, build_prompt, training_sequence, with_trailing_space


@pytest.fixture(scope="module")
def cases(golden):
    return json.loads((golden / "tokenizer" / "prompts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(golden):
    return Tokenizer.from_file(str(golden / "tokenizer" / "tokenizer.json"))


def test_both_styles_are_published_with_the_same_tasks(cases):
    tasks = {style: [case["task"] for case in cases if case["style"] == style] for style in PROMPTS}
    assert tasks["openvla"] == tasks["openvla-v01"]
    assert len(cases) == 2 * len(tasks["openvla"]) > 0


def test_prompts_agree(cases, tokenizer):
    for case in cases:
        prompt = build_prompt(case["task"], case["style"])
        assert prompt == case["inference_prompt"]
        assert tokenizer.encode(prompt).ids == case["inference_input_ids"]


def test_training_sequences_agree(cases, tokenizer):
    """Ids are joined directly; the published code goes through a string and arrives at the same ids."""
    space = tokenizer.token_to_id(SPACE)
    assert space == 29871
    for case in cases:
        action_ids = ActionTokenizer(32_000).encode(np.array(case["action"]))
        ids, labels = training_sequence(case["inference_input_ids"], space, action_ids, eos_id=2)
        assert ids.tolist() == case["train_input_ids"]
        assert labels.tolist() == case["train_labels"]


def test_the_space_token_is_appended_once(golden_answers):
    for sample in golden_answers["samples"]:
        once = with_trailing_space(sample["input_ids"], 29871)
        assert once == sample["input_ids_for_generation"]
        assert with_trailing_space(once, 29871) == once


def test_the_tokenizer_is_laid_out_as_described(golden, golden_checkpoint, tokenizer):
    """<unk>, <s>, </s>, 256 bytes, the space at 29871, the 256 action characters, then <PAD>."""
    settings = json.loads((golden / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    for text_id, entry in settings["added_tokens_decoder"].items():
        assert tokenizer.token_to_id(entry["content"]) == int(text_id)
    special = json.loads((golden / "tokenizer" / "special_tokens_map.json").read_text(encoding="utf-8"))
    ids = {key: tokenizer.token_to_id(t if isinstance(t, str) else t["content"]) for key, t in special.items()}
    assert ids == {"unk_token": 0, "bos_token": 1, "eos_token": 2, "pad_token": 32000}
    assert [tokenizer.id_to_token(i) for i in (3, 258)] == ["<0x00>", "<0xFF>"]
    assert all(len(tokenizer.id_to_token(i)) == 1 for i in range(31744, 32000))
    assert tokenizer.get_vocab_size() == 32_001
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (golden_checkpoint / name).read_bytes() == (golden / "tokenizer" / name).read_bytes()
