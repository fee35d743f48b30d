"""Units: scaling there and back, and clear refusals."""

import math

import numpy as np
import pytest

from openvla_core.action_statistics import (
    EXACT_ROWS,
    ActionStatistics,
    choose_unnorm_key,
    compute_statistics,
    mean_and_std,
    statistics_of,
)
from openvla_core.errors import ActionError, StatisticsError

VALID = {"q01": [-1.0, -2.0, 0.0], "q99": [1.0, 4.0, 1.0], "mask": [True, True, False]}


def test_normalizing_undoes_unnormalizing():
    statistics = ActionStatistics.from_dict(VALID)
    values = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    np.testing.assert_allclose(statistics.normalize(statistics.unnormalize(values)), values, atol=1e-7)


def test_masked_off_dimensions_keep_their_value():
    assert ActionStatistics.from_dict(VALID).unnormalize(np.array([0.0, 0.0, 0.3])).tolist() == [0.0, 1.0, 0.3]


def test_without_a_mask_everything_is_scaled():
    statistics = ActionStatistics.from_dict({key: VALID[key] for key in ("q01", "q99")})
    assert statistics.unnormalize(np.zeros(3)).tolist() == [0.0, 1.0, 0.5]


def test_a_dimension_that_never_moves_is_zero_for_training():
    actions = np.array([[0.1, 2.0, 0.0], [0.3, 2.0, 1.0]])
    statistics = ActionStatistics.from_dict(compute_statistics(actions))
    assert statistics.normalize(actions)[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [
        {"q01": None},
        {"q01": [0.0]},
        {"q01": [float("nan")] * 3},
        {"q99": [float("inf")] * 3},
        {"q01": [2.0, 0.0, 0.0]},
        {"mask": [True]},
        {"mask": [1, 1, 0]},
        {"q01": ["a", "b", "c"]},
        {"q01": [[0.0], [0.0], [0.0]]},
        {"q01": [10**400, 0, 0]},
        {"q01": 0.0},
        {"mask": None},
        {"mask": [[True], [True, False], []]},
        {"min": [0.0]},
    ],
)
def test_unusable_statistics_are_refused(change):
    with pytest.raises(StatisticsError, match="'toy'"):
        ActionStatistics.from_dict({**VALID, **change}, "toy")


def test_an_action_of_another_length_is_refused():
    with pytest.raises(ActionError, match=r"\(7,\)"):
        ActionStatistics.from_dict(VALID).unnormalize(np.zeros(7))


def test_an_unknown_key_lists_the_choices_nearest_first():
    statistics = {"toto": {}, "bridge_orig": {}, "viola": {}}
    with pytest.raises(StatisticsError, match="It has: bridge_orig, ") as caught:
        choose_unnorm_key(statistics, "bridge")
    assert all(key in str(caught.value) for key in statistics)


@pytest.mark.parametrize("given", ["BRIDGE", "Bridge_Orig", "bridge_oxe"])
def test_capitals_do_not_hide_what_was_meant(given):
    with pytest.raises(StatisticsError, match="It has: bridge_orig, "):
        choose_unnorm_key({"toto": {}, "viola": {}, "bridge_orig": {}, "kuka": {}}, given)


@pytest.mark.parametrize("given", ["", 7, "x" * 10_000])
def test_a_key_like_no_other_still_lists_all_choices(given):
    with pytest.raises(StatisticsError) as caught:
        choose_unnorm_key({"toto": {}, "viola": {}}, given)
    assert "toto" in str(caught.value)
    assert "viola" in str(caught.value)


def test_a_missing_key_is_an_error_only_where_there_is_a_choice():
    assert choose_unnorm_key({"only": {}}, None) == "only"
    with pytest.raises(StatisticsError, match="a, b"):
        choose_unnorm_key({"b": {}, "a": {}}, None)
    with pytest.raises(StatisticsError, match=r"dataset_statistics\.json"):
        choose_unnorm_key({}, None)


def test_statistics_without_an_action_part_are_refused():
    with pytest.raises(StatisticsError, match="'toy'"):
        statistics_of({"toy": {"proprio": {}}}, "toy")


@pytest.mark.parametrize("actions", [np.zeros((0, 7)), np.zeros(7), np.full((2, 7), np.nan)])
def test_statistics_of_unusable_actions_are_refused(actions):
    with pytest.raises(StatisticsError, match="finite actions"):
        compute_statistics(actions)


def test_the_mean_of_many_rows_stays_right():
    """A sum of ones in float32 ends at 2**24; a view repeats one row without holding the others in memory."""
    rows = np.broadcast_to(np.array([1.0, 0.1, -3e-4], dtype=np.float32), ((1 << 24) + (1 << 23), 3))
    mean, std = mean_and_std(rows)
    np.testing.assert_allclose(mean, rows[0], rtol=1e-9)
    np.testing.assert_allclose(std, 0.0, atol=1e-9)


def test_mean_and_deviation_of_float32_are_those_of_exact_sums():
    rows = np.random.default_rng(0).normal(0.3, [0.02, 1.0], (300_000, 2)).astype(np.float32)
    statistics = compute_statistics(rows)
    for column, mean, std in zip(rows.T.tolist(), statistics["mean"], statistics["std"], strict=True):
        exact = math.fsum(column) / len(column)
        assert mean == pytest.approx(exact, rel=1e-12)
        assert std == pytest.approx(math.sqrt(math.fsum((x - exact) ** 2 for x in column) / len(column)), rel=1e-12)


@pytest.mark.parametrize("count", [1, 500, EXACT_ROWS])
def test_few_rows_are_added_up_as_the_published_code_does(count):
    rows = np.random.default_rng(0).normal(0.3, 1.0, (count, 7)).astype(np.float32)
    statistics = compute_statistics(rows)
    assert statistics["mean"] == rows.mean(axis=0).tolist()
    assert statistics["std"] == rows.std(axis=0).tolist()
