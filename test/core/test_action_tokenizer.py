"""Action tokens: laws of the round trip, and what must never become motion."""

import numpy as np
import pytest

from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.errors import ActionError, ActionTokenError


@pytest.mark.parametrize("vocab_size", [512, 32_000])
def test_decoding_an_encoded_action_returns_it_within_half_a_bin(vocab_size):
    tokenizer = ActionTokenizer(vocab_size)
    values = np.random.default_rng(0).uniform(-1, 1, (1000, 7))
    ids = tokenizer.encode(values)
    assert ids.min() >= vocab_size - 256
    assert ids.max() < vocab_size
    assert np.abs(tokenizer.decode(ids) - values).max() <= 1 / 255 + 1e-12


def test_encoding_a_decoded_action_changes_nothing():
    tokenizer = ActionTokenizer(512)
    ids = np.arange(257, 512)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_text_token_is_an_error_not_a_motion():
    """Clipping would turn end-of-sequence into +0.996, almost full speed."""
    with pytest.raises(ActionTokenError, match="31744"):
        ActionTokenizer(vocab_size=32_000).decode(np.array([31800, 2, 31900]))


@pytest.mark.parametrize("token_id", [-1, 255, 512, 575])
def test_ids_next_to_the_action_range_are_refused(token_id):
    with pytest.raises(ActionTokenError, match="256 to 511"):
        ActionTokenizer(512).decode(np.array([token_id]))


def test_nan_is_an_error_not_full_speed():
    with pytest.raises(ActionError, match="NaN"):
        ActionTokenizer(512).encode(np.array([0.0, np.nan]))
