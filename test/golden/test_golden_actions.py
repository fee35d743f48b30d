"""Action tokens and statistics agree with the published code, number by number."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from openvla_core.action_statistics import ActionStatistics, compute_statistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.errors import ActionError, ActionTokenError


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


def test_edges_and_centres_are_the_published_ones(golden, table, tokenizer):
    facts = json.loads((golden / "action_tokenizer" / "table.json").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(tokenizer.edges, table["bins"])
    np.testing.assert_array_equal(tokenizer.centers, table["bin_centers"])
    assert (len(tokenizer.edges), len(tokenizer.centers)) == (facts["n_bins"], facts["n_centers"])
    assert tokenizer.vocab_size == facts["vocab_size"]
    assert tokenizer.first_id == facts["action_token_begin_idx"] + 1  # the published bound is exclusive


def test_ids_the_published_code_clips_are_refused(table, tokenizer):
    """It reads text as the nearest action: the end of a sequence becomes almost full speed."""
    ids = np.concatenate([table["wide_ids"], table["decode_ids"]])
    values = np.concatenate([table["wide_values"], table["decode_values"]])
    is_action = (ids >= 31744) & (ids < 32000)
    assert (~is_action).sum() > 100
    np.testing.assert_array_equal(tokenizer.decode(np.clip(ids, 31744, 31999)), values)
    for token_id in ids[~is_action]:
        with pytest.raises(ActionTokenError, match=str(token_id)):
            tokenizer.decode(np.array([token_id]))


def test_a_value_that_is_no_number_is_refused_where_the_published_code_moves_at_full_speed(golden, tokenizer):
    facts = json.loads((golden / "action_tokenizer" / "table.json").read_text(encoding="utf-8"))
    assert facts["nan_token_id_reference"] == tokenizer.encode(np.array([np.inf]))[0]
    assert facts["nan_decoded_reference"] == tokenizer.decode(np.array([facts["nan_token_id_reference"]]))[0]
    with pytest.raises(ActionError, match="NaN"):
        tokenizer.encode(np.array([np.nan]))


def test_action_ids_are_those_of_the_published_string_path(golden, tokenizer):
    """The published code writes the ids as characters and reads them again; the ids are built directly here."""
    facts = json.loads((golden / "action_tokenizer" / "table.json").read_text(encoding="utf-8"))
    text_tokenizer = Tokenizer.from_file(str(golden / "tokenizer" / "tokenizer.json"))
    for entry, ids in zip(facts["strings"], facts["ids"], strict=True):
        assert tokenizer.encode(np.array(entry["action"])).tolist() == ids
        assert "".join(text_tokenizer.id_to_token(i) for i in ids) == entry["string"]


def test_unnormalize_agrees(golden):
    cases = json.loads((golden / "unnormalize" / "unnormalize.json").read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        statistics = ActionStatistics.from_dict(case["stats"])
        np.testing.assert_allclose(
            statistics.unnormalize(np.array(case["normalized"])), case["unnormalized"], rtol=0, atol=1e-9
        )


@pytest.fixture(scope="module")
def pipeline(golden):
    """Tensors and JSON of the published training pipeline."""
    folder = golden / "data_pipeline"
    return np.load(folder / "golden.npz"), json.loads((folder / "golden.json").read_text(encoding="utf-8"))


def test_statistics_are_those_of_the_training_pipeline_to_the_last_bit(pipeline):
    tensors, facts = pipeline
    computed = compute_statistics(tensors["stats.actions"])
    for key, values in facts["stats"].items():
        np.testing.assert_array_equal(computed[key], values, err_msg=key)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("kind", "low", "high"), [("bounds_q99", "q01", "q99"), ("bounds", "min", "max")])
def test_normalized_actions_are_those_of_the_training_pipeline(pipeline, kind, low, high, masked):
    """Published in float32, so to some roundings of 1. A dimension that never changes becomes 0."""
    tensors, facts = pipeline
    stats = facts["stats"]
    mask = [True] * 6 + [not masked]
    values = {"q01": stats[low], "q99": stats[high], "min": stats["min"], "max": stats["max"], "mask": mask}
    normalized = ActionStatistics.from_dict(values).normalize(tensors["stats.actions"][:64])
    published = tensors[f"normalized.{kind}.{'mask' if masked else 'nomask'}"]
    np.testing.assert_allclose(normalized, published, rtol=0, atol=3e-7)
    assert stats["min"][2] == stats["max"][2]
    assert not published[:, 2].any()
