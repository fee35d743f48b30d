"""The golden comparison notices every known way to get the model slightly wrong; several of them flip no token."""

from pathlib import Path

import pytest
from breakers import BREAKERS, HARMLESS, Published, broken_policy
from golden_tools import TOLERANCE


@pytest.fixture(scope="module")
def published():
    return Published()


@pytest.fixture(scope="module")
def unbroken(published):
    return published.compare(broken_policy())


def test_the_unbroken_model_passes(unbroken):
    assert unbroken.agrees
    assert unbroken.tokens == unbroken.of == 35
    assert unbroken.first_step <= TOLERANCE / 2


@pytest.mark.parametrize("name", BREAKERS)
def test_the_comparison_fails_when_one_thing_is_wrong(published, name):
    effect = published.compare(broken_policy(BREAKERS[name]))
    assert not effect.agrees
    assert effect.first_step > 5 * TOLERANCE  # well clear of rounding, already at the first token


@pytest.mark.parametrize("name", HARMLESS)
def test_what_cannot_matter_is_not_mistaken_for_an_error(published, name):
    effect = published.compare(broken_policy(HARMLESS[name]))
    assert effect.first_step <= TOLERANCE
    assert effect.tokens == effect.of


def test_tokens_alone_would_miss_some_errors(published):
    """Why logits are compared to 1e-4: these leave all 35 tokens as they are."""
    quiet = [name for name in BREAKERS if "GELU" in name or "epsilon" in name]
    assert len(quiet) == 5
    for name in quiet:
        assert published.compare(broken_policy(BREAKERS[name])).tokens == 35


def test_the_page_lists_every_case():
    page = (Path(__file__).resolve().parents[2] / "docs" / "exactness.md").read_text(encoding="utf-8")
    for name in (*BREAKERS, *HARMLESS):
        assert f"| {name} |" in page
