import threading

import pytest

from openvla_core.latest_worker import LatestWorker


@pytest.fixture
def outcomes():
    """Collects outcomes and lets a test wait for them."""

    class Outcomes(list):
        arrived = threading.Semaphore(0)

        def take(self):
            assert self.arrived.acquire(timeout=30)
            return self.pop(0)

        def add(self, outcome):
            self.append(outcome)
            self.arrived.release()

    return Outcomes()


@pytest.fixture
def workers():
    made = []
    yield made
    for worker in made:
        worker.close(0.1)


def test_a_value_comes_back_with_its_job_and_its_time(outcomes, workers):
    worker = LatestWorker(lambda job: job * 2, outcomes.add)
    workers.append(worker)
    worker.offer(21)
    outcome = outcomes.take()
    assert (outcome.job, outcome.value, outcome.error) == (21, 42, None)
    assert outcome.seconds >= 0
    assert worker.idle


def test_only_the_newest_waiting_job_is_worked_on(outcomes, workers):
    entered, leave = threading.Event(), threading.Event()

    def work(job):
        entered.set()
        assert leave.wait(30)
        return job

    worker = LatestWorker(work, outcomes.add)
    workers.append(worker)
    worker.offer(0)
    assert entered.wait(30)
    assert not worker.idle
    for job in range(1, 6):
        worker.offer(job)
    leave.set()
    assert [outcomes.take().job, outcomes.take().job] == [0, 5]


def test_a_dropped_job_is_never_started(outcomes, workers):
    entered, leave = threading.Event(), threading.Event()
    worker = LatestWorker(lambda job: (entered.set(), leave.wait(30)), outcomes.add)
    workers.append(worker)
    worker.offer("first")
    assert entered.wait(30)
    worker.offer("second")
    worker.drop_waiting()
    leave.set()
    assert outcomes.take().job == "first"
    worker.offer("third")
    assert outcomes.take().job == "third"


def test_an_error_is_delivered_and_the_thread_goes_on(outcomes, workers):
    worker = LatestWorker(lambda job: 1 / job, outcomes.add)
    workers.append(worker)
    worker.offer(0)
    assert isinstance(outcomes.take().error, ZeroDivisionError)
    worker.offer(4)
    assert outcomes.take().value == 0.25


def test_close_ends_the_thread_and_tells_when_it_cannot(outcomes):
    worker = LatestWorker(lambda job: job, outcomes.add)
    assert worker.close(30)
    stuck = threading.Event()
    busy = LatestWorker(lambda job: stuck.wait(30), outcomes.add)
    busy.offer(1)
    while not busy._working:  # until it has taken the job
        pass
    assert not busy.close(0.05)
    stuck.set()
