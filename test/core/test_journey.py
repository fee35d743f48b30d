"""The way of a frame is timed without gaps and without counting anything twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core.journey import Journey

SECONDS = st.floats(0.0, 10.0)


@given(SECONDS, st.lists(SECONDS, max_size=8))
def test_the_stretches_add_up_to_the_whole_way(age_s, lengths):
    journey = Journey("age", age_s, now_s=100.0)
    now_s = 100.0
    for index, length in enumerate(lengths):
        now_s += length
        journey.reached(f"stretch {index}", now_s=now_s)
    assert sum(journey.stretches.values()) == pytest.approx(journey.total_s, abs=1e-9)
    assert journey.total_s == pytest.approx(age_s + sum(lengths), abs=1e-9)
    assert list(journey.stretches) == ["age", *(f"stretch {index}" for index in range(len(lengths)))]


def test_what_was_timed_inside_a_stretch_is_taken_out_of_it():
    journey = Journey("age", 0.5, now_s=10.0)
    journey.reached("inference", {"preprocessing": 0.25}, now_s=11.0)
    assert journey.stretches == {"age": 0.5, "preprocessing": 0.25, "inference": 0.75}
    assert journey.total_s == 1.5
