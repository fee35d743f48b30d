"""The split of an episode is decided by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core.datasets.splits import split, split_of
from openvla_core.errors import DatasetError

NAMES = [f"episode_{i:05d}" for i in range(5000)]


@given(st.text(), st.integers(0, 100))
def test_the_split_of_a_name_never_changes(name, seed):
    assert split_of(name, 0.2, seed) == split_of(name, 0.2, seed)


def test_other_episodes_do_not_matter():
    all_of_them, some = split(NAMES, 0.1), split(NAMES[::3], 0.1)
    assert set(some["val"]) == set(all_of_them["val"]) & set(NAMES[::3])


def test_shares_are_kept_on_average():
    """5000 names at 10 %: within four standard deviations."""
    assert abs(len(split(NAMES, 0.1)["val"]) - 500) < 4 * (5000 * 0.1 * 0.9) ** 0.5


def test_the_ends_of_the_range():
    assert split(NAMES, 0.0)["val"] == [] and split(NAMES, 1.0)["train"] == []


def test_a_larger_share_only_adds():
    assert set(split(NAMES, 0.05)["val"]) < set(split(NAMES, 0.1)["val"])


def test_another_seed_is_another_split():
    assert set(split(NAMES, 0.1, seed=1)["val"]) != set(split(NAMES, 0.1, seed=2)["val"])


def test_these_names_stay_where_they_are():
    """A change of the rule would move episodes from training to validation behind everybody's back."""
    assert [name for name in NAMES[:8] if split_of(name, 0.3, 7) == "train"] == [NAMES[4], NAMES[6], NAMES[7]]


def test_twins_are_refused():
    with pytest.raises(DatasetError, match="two episodes"):
        split(["a", "b", "a"])


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_between_nothing_and_all(share):
    with pytest.raises(DatasetError, match="0 to 1"):
        split_of("a", share)
