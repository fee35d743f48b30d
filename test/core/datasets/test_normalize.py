"""Actions in one range: what the goldens do not show."""

import numpy as np
import pytest

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets.normalize import KINDS, normalize_actions
from openvla_core.errors import ActionError, StatisticsError


@pytest.fixture
def actions():
    return np.random.default_rng(0).normal(0.1, [1, 2, 3, 0.5, 0.1, 1, 1], (400, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_dimensions_stay(actions, kind):
    normalized = normalize_actions(actions, compute_statistics(actions), kind)
    np.testing.assert_array_equal(normalized[:, 6], actions[:, 6])


def test_bounds_reach_exactly_from_minus_one_to_one(actions):
    normalized = normalize_actions(actions, compute_statistics(actions), "bounds")[:, :6]
    np.testing.assert_allclose(normalized.min(axis=0), -1.0)
    np.testing.assert_allclose(normalized.max(axis=0), 1.0, atol=1e-7)


def test_quantiles_clip_two_per_cent(actions):
    normalized = normalize_actions(actions, compute_statistics(actions))[:, :6]
    assert np.abs(normalized).max() <= 1.0
    assert (np.abs(normalized) == 1.0).mean() == pytest.approx(0.02, abs=0.006)


def test_normal_is_not_clipped(actions):
    normalized = normalize_actions(actions, compute_statistics(actions), "normal")[:, :6]
    np.testing.assert_allclose(normalized.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(normalized.std(axis=0), 1.0, atol=1e-6)
    assert np.abs(normalized).max() > 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_dimension_that_never_changes_is_zero(actions, kind):
    actions[:, 2] = 0.25
    np.testing.assert_allclose(normalize_actions(actions, compute_statistics(actions), kind)[:, 2], 0.0, atol=1e-6)


def test_unknown_kinds_and_wrong_shapes_are_refused(actions):
    statistics = compute_statistics(actions)
    with pytest.raises(StatisticsError, match="bounds_q99, bounds, normal"):
        normalize_actions(actions, statistics, "minmax")
    with pytest.raises(StatisticsError, match="mean and std"):
        normalize_actions(actions, {"q01": [0.0], "q99": [1.0]}, "normal")
    with pytest.raises(StatisticsError, match="one number per dimension"):
        normalize_actions(actions[:, :6], statistics, "normal")
    with pytest.raises(ActionError, match="7"):
        normalize_actions(actions[:, :6], statistics, "bounds")
    with pytest.raises(StatisticsError):
        normalize_actions(actions, {key: statistics[key] for key in ("q01", "q99")}, "bounds")
