"""Who is served next, and that nobody waits for ever."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core.waiting_line import WaitingLine

ROBOTS = "abcdefgh"
# Between two batches any of the robots ask, with any deadline, or ask again.
ROUNDS = st.integers(2, len(ROBOTS)).flatmap(
    lambda robots: st.lists(
        st.lists(st.tuples(st.sampled_from(ROBOTS[:robots]), st.integers(0, 5)), max_size=2 * robots),
        min_size=2,
        max_size=20,
    )
)


def names(requests) -> list[str]:
    return [request.robot for request in requests]


@given(ROUNDS, st.integers(1, 4))
def test_every_waiting_robot_is_served_within_its_share_of_batches(rounds, most):
    """R robots, N at a time: in one of the next ceil(R / N) batches, whatever the others' deadlines are."""
    line = WaitingLine(most)
    bound = math.ceil(len({robot for asked in rounds for robot, _ in asked}) / most)
    since: dict[str, int] = {}
    for asked in rounds:
        for robot, deadline in asked:
            line.ask(robot, None, float(deadline), 0.0)
            since.setdefault(robot, line.batches)
        batch, late = line.take(0.0)
        assert not late
        for robot in names(batch):
            assert line.batches - since.pop(robot) <= bound
        for robot, batches in since.items():
            assert line.batches - batches < bound, f"{robot} is still waiting"


@pytest.mark.parametrize("most", range(1, 7))
def test_a_patient_robot_is_served_among_those_that_are_always_in_a_hurry(most):
    """As many as fill two batches. By deadlines alone, its turn would never come."""
    line = WaitingLine(most)
    line.ask("patient", None, 1e9, 0.0)
    served = []
    for _ in range(3):
        for i in range(2 * most):
            line.ask(f"hasty{i}", None, 1.0, 0.0)
        served += names(line.take(0.0)[0])
    assert "patient" in served


@given(ROUNDS, st.integers(1, 4))
def test_a_batch_is_as_full_as_it_can_be_and_nobody_is_in_it_twice(rounds, most):
    line = WaitingLine(most)
    for asked in rounds:
        for robot, deadline in asked:
            line.ask(robot, None, float(deadline), 0.0)
        waiting = len(line)
        batch, _ = line.take(0.0)
        assert len(batch) == len(set(names(batch))) == min(waiting, most)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_among_robots_that_came_together_the_earliest_deadlines_go_first(deadlines, most):
    line = WaitingLine(most)
    for robot, deadline in zip(ROBOTS, deadlines, strict=True):
        line.ask(robot, None, float(deadline), 0.0)
    batch, _ = line.take(0.0)
    assert [request.deadline_s for request in batch] == [float(i) for i in range(most)]


def test_the_newest_request_of_a_robot_counts_and_keeps_the_place_of_the_first():
    line = WaitingLine(1)
    line.ask("a", "old", 5.0, 0.0)
    line.ask("b", "other", 1.0, 0.0)
    assert line.ask("a", "new", 9.0, 1.0)
    assert names(line.take(1.0)[0]) == ["b"]
    line.ask("b", "again", 1.0, 1.0)
    (request,), _ = line.take(1.0)
    assert (request.robot, request.job, request.asked_s, request.since_s) == ("a", "new", 1.0, 0.0)
    assert len(line) == 1


def test_what_is_too_late_leaves_the_line_without_taking_room_in_the_batch():
    line = WaitingLine(2)
    for robot, deadline in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True):
        line.ask(robot, None, deadline, 0.0)
    batch, late = line.take(2.5)
    assert (names(batch), names(late)) == (["c", "d"], ["a", "b"])
    assert line.take(2.5) == ([], [])
    assert line.batches == 1, "a batch of nobody is none"


def test_a_request_may_be_begun_at_its_deadline():
    line = WaitingLine(1)
    line.ask("a", None, 2.0, 0.0)
    assert names(line.take(2.0)[0]) == ["a"]


def test_a_robot_whose_request_was_too_late_keeps_its_place():
    """Else a robot with short deadlines could lose its turn for ever on a busy machine."""
    line = WaitingLine(1)
    line.ask("slow", None, 1.0, 0.0)
    line.ask("b", None, 0.5, 0.0)
    assert names(line.take(0.0)[0]) == ["b"]
    line.ask("b", None, 9.0, 2.0)
    batch, late = line.take(2.0)
    assert (names(batch), names(late)) == (["b"], ["slow"])
    line.ask("b", None, 3.0, 2.0)
    line.ask("slow", None, 99.0, 2.0)
    assert names(line.take(2.0)[0]) == ["slow"]


def test_a_robot_that_withdraws_or_leaves_is_not_served():
    line = WaitingLine(4)
    for robot in "abc":
        line.ask(robot, None, 1.0, 0.0)
    line.withdraw("a")
    line.forget("b")
    assert "a" not in line and "c" in line
    assert names(line.take(0.0)[0]) == ["c"]
    line.withdraw("nobody")
