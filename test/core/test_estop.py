"""The emergency stop: pressed by any source, released by what pressed it, cleared only by a reset."""

import pytest

from openvla_core.estop import EmergencyStop
from openvla_core.verdict import State


@pytest.fixture
def button():
    return EmergencyStop(required=False, timeout_s=0.5)


def test_without_a_source_nothing_is_pressed(button):
    assert button.verdict(1e6) is None and not button.is_pressed(1e6)


@pytest.mark.parametrize("pressed_by", ["topic", "service"])
def test_pressed_is_latched_until_it_is_released_and_cleared(button, pressed_by):
    press = (lambda value: button.on_topic(value, 0.0)) if pressed_by == "topic" else button.on_service
    press(True)
    assert button.verdict(0.0).state == State.ESTOP and button.is_pressed(0.0)
    press(False)
    assert button.verdict(0.0).code == "ESTOP" and not button.is_pressed(0.0)
    button.clear()
    assert button.verdict(0.0) is None


def test_the_service_does_not_release_a_button_that_is_still_there(button):
    button.on_sources(1)
    button.on_topic(True, 0.0)
    button.on_service(False)
    assert button.is_pressed(0.0)


def test_a_source_that_leaves_counts_as_pressed_until_it_is_back_or_a_person_says_so(button):
    button.on_sources(1)
    button.on_topic(False, 0.0)
    button.on_sources(0)
    assert button.verdict(0.0).code == "ESTOP_LOST" and button.is_pressed(0.0)
    button.on_sources(1)
    assert button.is_pressed(0.0), "back, but it has not said anything yet"
    button.on_topic(False, 0.0)
    assert not button.is_pressed(0.0)
    button.on_sources(0)
    button.on_service(False)
    assert not button.is_pressed(0.0)
    assert button.verdict(0.0).state == State.ESTOP


def test_a_required_source_must_speak_before_anything_moves_and_go_on_speaking():
    button = EmergencyStop(required=True, timeout_s=0.5)
    assert button.verdict(0.0).code == "ESTOP_LOST" and button.is_pressed(0.0)
    button.on_topic(False, 1.0)
    assert button.verdict(1.5) is None, "nothing was latched before it first spoke"
    assert button.verdict(1.51).code == "ESTOP_LOST"
    button.on_topic(False, 2.0)
    assert button.verdict(2.0).state == State.ESTOP and not button.is_pressed(2.0)
    button.clear()
    assert button.verdict(2.0) is None


def test_two_sources_count_as_pressed_until_one_is_left_and_says_that_it_is_not(button):
    """One button said pressed, the other one not: the second once released the first."""
    button.on_sources(2)
    button.on_topic(True, 0.0)
    button.on_topic(False, 0.1)
    assert button.verdict(0.1).state == State.ESTOP and button.is_pressed(0.1)
    button.on_service(False)
    assert button.is_pressed(0.1)
    button.on_sources(1)
    assert button.is_pressed(0.2), "the one that left may have been the one that was pressed"
    button.on_topic(False, 0.3)
    assert not button.is_pressed(0.3) and button.verdict(0.3).state == State.ESTOP
    button.clear()
    assert button.verdict(0.3) is None


def test_a_second_source_that_has_said_nothing_counts_as_pressed_too(button):
    button.on_sources(1)
    button.on_topic(False, 0.0)
    assert button.verdict(0.0) is None
    button.on_sources(2)
    assert button.verdict(0.1).code == "ESTOP_SOURCES" and "more than one source" in button.verdict(0.1).sentence
