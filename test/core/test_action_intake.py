"""Which chunks are looked at, and in which order the reasons against one are told."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from supervisor_bench import CARD

from openvla_core.action_intake import ActionIntake

NOW = 10**12


@dataclass(frozen=True)
class Chunk:
    stamp_ns: int = NOW
    sequence: int = 0
    actions: np.ndarray = field(default_factory=lambda: np.zeros((1, 7)))
    frame: str = "base"
    session_id: str = "a"
    instruction: str = "go"
    convention: str = "sim_tabletop"
    rate_hz: float = 5.0


@pytest.fixture
def intake():
    return ActionIntake(CARD, "panda_link0", 0.5)


def code(intake, chunk, in_progress=False):
    problem = intake.problem(chunk, NOW, in_progress)
    return problem and (problem.code, problem.latched)


def test_a_good_chunk_has_no_problem(intake):
    for sequence, frame in enumerate(("base", "", "panda_link0")):
        assert code(intake, Chunk(sequence=sequence, frame=frame)) is None


def test_numbers_that_are_none_are_a_fault_whatever_else_is_wrong(intake):
    assert code(intake, Chunk(actions=np.full((1, 7), np.nan), stamp_ns=0)) == ("ACT_NONFINITE", True)


@pytest.mark.parametrize(
    ("late_s", "expected"), [(0.49, None), (0.51, "OBS_STALE"), (-0.04, None), (-0.06, "OBS_FUTURE")]
)
def test_images_from_the_last_half_second_count(intake, late_s, expected):
    problem = intake.problem(Chunk(stamp_ns=NOW - round(late_s * 1e9)), NOW, False)
    assert (problem and problem.code) == expected


def test_each_number_counts_once(intake):
    assert code(intake, Chunk(sequence=4)) is None
    for sequence in (4, 3, 0):
        assert code(intake, Chunk(sequence=sequence)) == ("SEQ_BACKWARDS", False)
    assert code(intake, Chunk(sequence=5)) is None


def test_sessions_follow_each_other_and_never_come_back(intake):
    assert code(intake, Chunk(sequence=9)) is None
    assert code(intake, Chunk(session_id="b"), in_progress=True) == ("SESSION_CHANGED", True)
    assert code(intake, Chunk(session_id="b")) is None
    assert code(intake, Chunk(sequence=10)) == ("SESSION_OVER", False)


def test_only_actions_of_the_instruction_in_force_count(intake):
    assert not intake.on_instruction("go")
    assert code(intake, Chunk()) is None
    assert intake.on_instruction("stay")
    assert code(intake, Chunk(sequence=1)) == ("TASK_OVER", False)
    assert not intake.on_instruction("stay")
    assert code(intake, replace(Chunk(sequence=2), instruction="stay")) is None


def test_a_policy_that_never_says_what_it_follows_is_believed(intake):
    assert code(intake, Chunk(instruction="x")) is None
    assert code(intake, Chunk(instruction="y", sequence=1)) is None
