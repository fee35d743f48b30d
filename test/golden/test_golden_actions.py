"""Action tokens and statistics agree with the published code, number by number."""

import json

import numpy as np
import pytest

from openvla_core.action_statistics import ActionStatistics, compute_statistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.errors import ActionTokenError


@pytest.fixture(scope="module")
def table(golden):
    return np.load(golden / "action_tokenizer" / "table.npz")


@pytest.fixture(scope="module")
def tokenizer():
    return ActionTokenizer(vocab_size=32_000)


@pytest.mark.parametrize("suffix", ["", "_f32"])
def test_every_value_becomes_the_published_token(table, tokenizer, suffix):
    """Edges, their neighbours, centres, out of range and infinite values, in both precisions."""
    ids = tokenizer.encode(table[f"values{suffix}"])
    np.testing.assert_array_equal(ids, table[f"token_ids{suffix}"])
    np.testing.assert_array_equal(tokenizer.decode(ids), table[f"decoded{suffix}"])


def test_every_action_id_decodes_to_the_published_value(table, tokenizer):
    ids = table["decode_ids"]
    actions = (ids >= 31744) & (ids < 32000)
    assert actions.sum() == 256
    np.testing.assert_array_equal(tokenizer.decode(ids[actions]), table["decode_values"][actions])


def test_ids_the_published_code_clips_are_refused(table, tokenizer):
    ids = np.concatenate([table["wide_ids"], table["decode_ids"]])
    others = ids[(ids < 31744) | (ids >= 32000)]
    assert len(others) > 100
    for token_id in others:
        with pytest.raises(ActionTokenError, match=str(token_id)):
            tokenizer.decode(np.array([token_id]))


def test_action_ids_are_those_of_the_published_string_path(golden, tokenizer):
    table = json.loads((golden / "action_tokenizer" / "table.json").read_text())
    for entry, ids in zip(table["strings"], table["ids"], strict=True):
        assert tokenizer.encode(np.array(entry["action"])).tolist() == ids


def test_unnormalize_agrees(golden):
    cases = json.loads((golden / "unnormalize" / "unnormalize.json").read_text())
    assert cases
    for case in cases:
        statistics = ActionStatistics.from_dict(case["stats"])
        np.testing.assert_allclose(
            statistics.unnormalize(np.array(case["normalized"])), case["unnormalized"], rtol=0, atol=1e-9
        )


def test_statistics_and_normalize_agree_with_the_training_pipeline(golden):
    data = np.load(golden / "data_pipeline" / "golden.npz")
    expected = json.loads((golden / "data_pipeline" / "golden.json").read_text())["stats"]
    computed = compute_statistics(data["stats.actions"])
    for key in ("mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_allclose(computed[key], expected[key], rtol=1e-5, atol=1e-6, err_msg=key)
    statistics = ActionStatistics.from_dict({**expected, "mask": [True] * 6 + [False]})
    np.testing.assert_allclose(
        statistics.normalize(data["stats.actions"][:64]), data["normalized.bounds_q99.mask"], rtol=0, atol=1e-5
    )
