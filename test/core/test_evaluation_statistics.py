import pytest

from openvla_core.evaluation.statistics import Rate, percentiles_ms, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (183, 200, 0.8681, 0.9462),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval_equals_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_interval_contains_the_rate_and_narrows_with_trials():
    widths = []
    for trials in (10, 100, 1000):
        low, high = wilson_interval(trials * 9 // 10, trials)
        assert low < 0.9 < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_no_trials_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert Rate(0, 0).value == 0.0


def test_rate_reads_as_a_sentence():
    assert str(Rate(5, 10)) == "5/10 = 50.0 % [23.7, 76.3]"


def test_percentiles_of_nothing_are_none():
    assert percentiles_ms([]) == {"p50": None, "p95": None, "max": None, "count": 0}
    assert percentiles_ms(range(101)) == {"p50": 50.0, "p95": 95.0, "max": 100.0, "count": 101}
