"""The gripper toggles seldom and for good reasons."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core.safety import GripperGate, SafetySettings

ONE = SafetySettings(gripper_decisions=1)
wild = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.lists(st.tuples(st.one_of(st.floats(0.0, 1.0), wild), st.floats(0.001, 0.3), st.integers(0, 3)), max_size=60),
    st.integers(1, 3),
)
def test_it_toggles_at_most_every_interval(script, decisions):
    limits = SafetySettings(gripper_decisions=decisions)
    gate = GripperGate(limits)
    now, toggled, before = 0.0, -math.inf, None
    for opening, wait, action in script:
        now += wait
        command = gate.decide(opening, now, action)
        assert command in (None, 0.0, 1.0)
        if command != before:
            assert now - toggled >= limits.gripper_interval_s
            toggled, before = now, command


def test_it_does_not_waver_within_its_hysteresis():
    gate = GripperGate(ONE)
    assert gate.decide(0.55, 0.0) is None
    assert gate.decide(0.6, 1.0) == 1.0
    assert gate.decide(0.41, 2.0) == 1.0
    assert gate.decide(0.4, 3.0) == 0.0
    assert gate.decide(0.59, 4.0) == 0.0


def test_it_waits_for_the_interval_after_a_toggle_and_then_follows():
    gate = GripperGate(ONE)
    assert gate.decide(1.0, 10.0) == 1.0
    assert gate.decide(0.0, 10.29) == 1.0
    assert gate.decide(0.0, 10.3) == 0.0
    assert gate.decide(1.0, 11.0) == 1.0


def test_the_interval_itself_is_long_enough():
    gate = GripperGate(SafetySettings(gripper_decisions=1, gripper_interval_s=0.5))
    assert [gate.decide(1.0, 2.0), gate.decide(0.0, 2.5)] == [1.0, 0.0]


def test_one_action_asked_for_many_times_is_one_decision():
    gate = GripperGate(SafetySettings())
    assert [gate.decide(1.0, 0.02 * tick, action=1) for tick in range(10)] == [None] * 10
    assert gate.decide(1.0, 0.2, action=2) == 1.0


def test_a_single_action_that_disagrees_changes_nothing():
    gate = GripperGate(SafetySettings())
    wishes = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert [gate.decide(wish, float(i), action=i) for i, wish in enumerate(wishes)] == [None, *[1.0] * 6, 0.0]


def test_an_unclear_wish_between_two_clear_ones_makes_them_no_decision():
    gate = GripperGate(SafetySettings())
    wishes = [1.0, 0.5, 1.0, math.nan, 1.0, 1.0]
    assert [gate.decide(wish, float(i), action=i) for i, wish in enumerate(wishes)] == [*[None] * 5, 1.0]


def test_without_a_name_every_call_is_a_decision():
    gate = GripperGate(SafetySettings())
    assert [gate.decide(1.0, 0.0), gate.decide(1.0, 0.1)] == [None, 1.0]


def test_reset_forgets_command_votes_and_time():
    gate = GripperGate(SafetySettings())
    gate.decide(1.0, 0.0, 1)
    gate.reset()
    assert gate.decide(1.0, 0.1, 2) is None
    assert gate.decide(1.0, 0.2, 3) == 1.0
    gate.reset()
    assert gate.command is None
    gate.decide(0.0, 0.21, 4)
    assert gate.decide(0.0, 0.22, 5) == 0.0


@pytest.mark.parametrize(("threshold", "opens", "closes"), [(0.5, 0.61, 0.39), (0.3, 0.41, 0.19)])
def test_the_threshold_of_the_card_is_the_middle(threshold, opens, closes):
    gate = GripperGate(ONE, threshold)
    assert gate.decide(closes + 0.02, 0.0) is None
    assert gate.decide(opens, 1.0) == 1.0
    assert gate.decide(closes, 2.0) == 0.0


def test_votes_that_are_forgotten_do_not_count_and_the_command_stays():
    gate = GripperGate(SafetySettings())
    wishes = [gate.decide(1.0, 0.0, 1), gate.decide(1.0, 0.1, 2), gate.decide(0.0, 1.0, 3)]
    gate.forget_votes()
    assert [*wishes, gate.command, gate.decide(0.0, 1.1, 4), gate.decide(0.0, 1.2, 5)] == [
        None,
        1.0,
        1.0,
        1.0,
        1.0,
        0.0,
    ]
