"""Many robots, one model: a pretend model that opens when the test says so, so that nothing depends on time."""

import queue
import threading

import pytest

from openvla_core.batching import DynamicBatcher
from openvla_core.errors import ConfigError, DeadlineError, InstructionError

PATIENCE_S = 30.0


class Model:
    """Answers f"{job}!"; each batch waits until the test lets it go. Jobs that start with "bad" raise."""

    def __init__(self) -> None:
        self.entered: queue.Queue[list[str]] = queue.Queue()
        self.allowed = threading.Semaphore(0)
        self.free = False

    def __call__(self, jobs):
        self.entered.put(list(jobs))
        if not self.free:
            assert self.allowed.acquire(timeout=PATIENCE_S)
        if any(job.startswith("bad") for job in jobs):
            raise ValueError(f"bad among {len(jobs)}")
        return [InstructionError(job) if job.startswith("refused") else f"{job}!" for job in jobs]

    def batch(self) -> list[str]:
        """Waits until a batch has begun; returns its jobs."""
        return self.entered.get(timeout=PATIENCE_S)

    def let_go(self) -> None:
        """Lets one batch end."""
        self.allowed.release()


class Fleet:
    """A batcher, its robots and what each of them was told."""

    def __init__(self, robots: str = "abc", **options) -> None:
        self.now_s = 0.0
        self.model = Model()
        self.batcher = DynamicBatcher(self.model, clock=lambda: self.now_s, **options)
        self.heard: dict[str, queue.Queue] = {}
        for robot in robots:
            self.join(robot)

    def join(self, robot: str) -> None:
        self.heard[robot] = queue.Queue()
        self.batcher.join(robot, self.heard[robot].put)

    def outcome(self, robot: str):
        return self.heard[robot].get(timeout=PATIENCE_S)

    def value(self, robot: str):
        outcome = self.outcome(robot)
        assert outcome.error is None
        return outcome.value

    def occupy(self, robot: str = "a") -> None:
        """The model works for this robot, so that what comes next has to wait."""
        self.batcher.submit(robot, "first")
        assert self.model.batch() == ["first"]

    def finish(self, robot: str = "a") -> None:
        """Ends what `occupy` began."""
        self.model.let_go()
        assert self.value(robot) == "first!"


@pytest.fixture
def make():
    made = []

    def fleet(*arguments, **options) -> Fleet:
        made.append(Fleet(*arguments, **options))
        return made[-1]

    yield fleet
    for each in made:
        each.model.free = True
        each.model.let_go()
        assert each.batcher.close(PATIENCE_S)


def test_a_lone_request_is_served_at_once_and_alone(make):
    fleet = make()
    fleet.occupy("b")
    assert fleet.batcher.is_running("b") and not fleet.batcher.is_waiting("b")
    fleet.now_s = 0.25
    fleet.model.let_go()
    outcome = fleet.outcome("b")
    assert (outcome.job, outcome.value, outcome.error, outcome.seconds) == ("first", "first!", None, 0.25)
    assert not fleet.batcher.is_running("b")
    assert all(heard.empty() for heard in fleet.heard.values())


def test_who_waits_meanwhile_is_served_together_and_everybody_gets_their_own_answer(make):
    fleet = make()
    fleet.occupy()
    for robot in "cb":
        fleet.batcher.submit(robot, f"of {robot}")
    fleet.finish()
    assert sorted(fleet.model.batch()) == ["of b", "of c"]
    fleet.model.let_go()
    assert (fleet.value("b"), fleet.value("c")) == ("of b!", "of c!")
    figures = fleet.batcher.figures()
    assert (figures["batches_of_1"], figures["batches_of_2"], figures["answered"]) == (1, 1, 3)


def test_a_batch_is_never_larger_than_allowed_and_earlier_deadlines_go_first(make):
    fleet = make("abcde", most=2)
    fleet.occupy()
    for robot, deadline_s in zip("bcde", (4.0, 1.0, 3.0, 2.0), strict=True):
        fleet.batcher.submit(robot, robot, deadline_s)
    fleet.finish()
    assert fleet.model.batch() == ["c", "e"]
    fleet.model.let_go()
    assert fleet.model.batch() == ["d", "b"]
    fleet.model.let_go()
    assert [fleet.value(robot) for robot in "bcde"] == ["b!", "c!", "d!", "e!"]


def test_the_newest_request_of_a_robot_wins(make):
    fleet = make()
    fleet.occupy()
    for i in range(5):
        fleet.batcher.submit("b", f"frame {i}")
    fleet.finish()
    assert fleet.model.batch() == ["frame 4"]
    fleet.model.let_go()
    assert fleet.value("b") == "frame 4!"
    assert fleet.heard["b"].empty()
    assert fleet.batcher.figures()["replaced"] == 4


def test_the_next_request_of_a_robot_waits_behind_its_own_unless_it_would_rather_not(make):
    fleet = make()
    fleet.occupy()
    assert not fleet.batcher.submit("a", "unwanted", behind=False)
    assert fleet.batcher.submit("a", "second")
    fleet.finish()
    assert fleet.model.batch() == ["second"]
    fleet.model.let_go()
    assert fleet.value("a") == "second!"


def test_what_is_too_late_is_answered_with_an_error_and_never_computed(make):
    fleet = make()
    fleet.occupy()
    fleet.batcher.submit("b", "stale", deadline_s=1.0)
    fleet.batcher.submit("c", "fresh", deadline_s=3.0)
    fleet.now_s = 2.0
    fleet.finish()
    outcome = fleet.outcome("b")
    assert isinstance(outcome.error, DeadlineError) and "1.00 s too late" in str(outcome.error)
    assert fleet.model.batch() == ["fresh"]
    fleet.model.let_go()
    assert fleet.value("c") == "fresh!"
    assert fleet.batcher.figures()["late"] == 1
    assert fleet.batcher.stuck_s("b") == 0.0


def test_an_error_that_is_an_answer_goes_to_the_robot_that_asked(make):
    fleet = make()
    fleet.occupy()
    fleet.batcher.submit("b", "refused")
    fleet.batcher.submit("c", "good")
    fleet.finish()
    fleet.model.batch()
    fleet.model.let_go()
    assert isinstance(fleet.outcome("b").error, InstructionError)
    assert fleet.value("c") == "good!"
    assert fleet.batcher.figures()["retried"] == 0


def test_a_request_that_breaks_its_batch_harms_nobody_else(make):
    checked = []
    fleet = make(check=lambda: checked.append(True))
    fleet.occupy()
    fleet.model.free = True
    for robot, job in zip("abc", ("good a", "bad b", "good c"), strict=True):
        fleet.batcher.submit(robot, job)
    fleet.finish()
    assert (fleet.value("a"), fleet.value("c")) == ("good a!", "good c!")
    outcome = fleet.outcome("b")
    assert isinstance(outcome.error, ValueError) and str(outcome.error) == "bad among 1"
    fleet.batcher.submit("a", "next")
    assert fleet.value("a") == "next!"
    assert checked == [True], "an unexpected error makes one look at the model"
    assert fleet.batcher.broken is None


def test_a_failure_that_does_not_come_back_costs_nobody_an_answer(make):
    """As a GPU whose memory was full for a moment."""
    fleet = make("ab")
    failures = [MemoryError("once")]
    run = fleet.batcher._run

    def sometimes(jobs):
        if failures:
            raise failures.pop()
        return run(jobs)

    fleet.batcher._run = sometimes
    fleet.model.free = True
    fleet.batcher.submit("a", "one")
    assert fleet.value("a") == "one!"
    assert fleet.batcher.figures()["retried"] == 1


def test_a_model_that_fails_its_check_is_broken_for_everybody(make):
    def check():
        raise ValueError("no answer to anything")

    fleet = make(check=check)
    fleet.model.free = True
    fleet.batcher.submit("b", "bad")
    assert isinstance(fleet.outcome("b").error, ValueError)
    fleet.batcher.submit("c", "later")  # answered once the check is over
    fleet.outcome("c")
    assert str(fleet.batcher.broken) == "no answer to anything"


def test_a_wrong_number_of_answers_is_given_to_nobody(make):
    fleet = make()
    fleet.batcher._run = lambda jobs: ["one too many"] * (len(jobs) + 1)
    fleet.batcher.submit("a", "question")
    assert "2 answers" in str(fleet.outcome("a").error)


def test_a_robot_that_leaves_is_forgotten_and_the_others_go_on(make):
    fleet = make()
    fleet.occupy()
    fleet.batcher.submit("b", "unheard")
    fleet.batcher.submit("c", "heard")
    fleet.batcher.leave("a")
    fleet.batcher.leave("b")
    fleet.model.let_go()
    assert fleet.model.batch() == ["heard"]
    fleet.model.let_go()
    assert fleet.value("c") == "heard!"
    assert fleet.heard["a"].empty() and fleet.heard["b"].empty()
    with pytest.raises(KeyError):
        fleet.batcher.submit("b", "still there?")


def test_a_robot_that_comes_back_does_not_hear_the_answer_from_before(make):
    fleet = make()
    fleet.occupy()
    fleet.batcher.leave("a")
    fleet.join("a")
    fleet.batcher.submit("a", "anew")
    fleet.model.let_go()
    assert fleet.model.batch() == ["anew"]
    fleet.model.let_go()
    assert fleet.value("a") == "anew!"
    assert fleet.heard["a"].empty()


def test_two_robots_of_one_name_are_refused(make):
    with pytest.raises(ConfigError, match="'a'"):
        make().join("a")


def test_a_dropped_request_is_never_begun(make):
    fleet = make()
    fleet.occupy()
    fleet.batcher.submit("b", "dropped")
    fleet.batcher.drop("b")
    assert not fleet.batcher.is_waiting("b") and fleet.batcher.stuck_s("b") == 0.0
    fleet.batcher.submit("c", "kept")
    fleet.finish()
    assert fleet.model.batch() == ["kept"]
    fleet.model.let_go()
    fleet.value("c")


def test_a_robot_that_cannot_take_its_answer_does_not_stop_the_others(make):
    fleet = make()

    def fails(outcome):
        raise OSError("gone")

    fleet.batcher.join("d", fails)
    fleet.occupy()
    fleet.batcher.submit("d", "for d", deadline_s=1.0)
    fleet.batcher.submit("b", "for b", deadline_s=2.0)
    fleet.finish()
    assert fleet.model.batch() == ["for d", "for b"]
    fleet.model.let_go()
    assert fleet.value("b") == "for b!"


def test_a_batch_that_does_not_end_is_noticed_by_everybody_who_waits_and_a_queue_that_moves_is_not(make):
    fleet = make(most=1)
    fleet.occupy()
    fleet.batcher.submit("b", "of b", deadline_s=1e9)
    fleet.now_s = 3.0
    assert [fleet.batcher.stuck_s(robot) for robot in "abc"] == [3.0, 3.0, 0.0]
    fleet.batcher.submit("b", "newer", deadline_s=1e9)
    assert fleet.batcher.stuck_s("b") == 3.0, "a newer frame hides nothing"
    fleet.finish()
    fleet.model.batch()
    fleet.now_s = 4.0
    assert fleet.batcher.stuck_s("b") == 1.0, "it was begun at 3 s"
    fleet.model.let_go()
    fleet.value("b")
    assert fleet.batcher.stuck_s("b") == 0.0


def test_an_idle_model_waits_for_others_only_while_the_window_is_open():
    """The window here is longer than anyone would wait: the batch begins because everybody has asked."""
    fleet = Fleet("ab", gather_s=1e6)
    try:
        fleet.batcher.submit("a", "of a")
        assert fleet.model.entered.empty()
        fleet.batcher.submit("b", "of b")
        assert sorted(fleet.model.batch()) == ["of a", "of b"]
        fleet.model.let_go()
        assert (fleet.value("a"), fleet.value("b")) == ("of a!", "of b!")
    finally:
        assert fleet.batcher.close(PATIENCE_S)


def test_the_window_closes_when_it_is_over_and_before_a_deadline():
    model = Model()
    model.free = True
    heard: queue.Queue = queue.Queue()
    batcher = DynamicBatcher(model, gather_s=0.01)
    batcher.join("a", heard.put)
    batcher.join("never asks", heard.put)
    batcher.submit("a", "alone")
    assert heard.get(timeout=PATIENCE_S).value == "alone!"
    assert batcher.close(PATIENCE_S)


def test_close_serves_nobody_any_more_and_tells_when_it_cannot_end():
    fleet = Fleet()
    fleet.occupy()
    fleet.batcher.submit("b", "too late")
    assert not fleet.batcher.close(0.05)
    fleet.model.let_go()
    assert fleet.batcher.close(PATIENCE_S)
    assert fleet.value("a") == "first!"
    assert fleet.heard["b"].empty() and fleet.model.entered.empty()
