"""Prompts, their ids and the training labels are those of the published code, for both prompt styles."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.prompt import SPACE, build_prompt, training_sequence, with_trailing_space


@pytest.fixture(scope="module")
def cases(golden):
    return json.loads((golden / "tokenizer" / "prompts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(golden):
    return Tokenizer.from_file(str(golden / "tokenizer" / "tokenizer.json"))


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
