"""The model at work: one inference at a time in its own thread, and what to do when it fails or does not end."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from openvla_core.conventions import ActionConvention
from openvla_core.errors import ActionError
from openvla_core.journey import Journey
from openvla_core.latest_worker import LatestWorker, Outcome
from openvla_core.types import Observation, Problem
from openvla_ros.conversions import Chunk
from openvla_ros.policy_setup import PolicySettings, set_up_policy

if TYPE_CHECKING:
    from openvla_core.policy import Policy, Prediction

HANG_S = 2.0
HOPELESS_S = 10.0
# A model that is slow by nature gets this many of its usual inferences before it counts as hanging.
PATIENCE, LAST_PATIENCE = 10, 50


@dataclass(frozen=True)
class Job:
    """One observation to act on. An outcome of another generation than the present one is discarded.

    deadline_s: when the observation gets too old to be acted on, by time.monotonic().
    """

    generation: int
    observation: Observation
    journey: Journey = field(default_factory=lambda: Journey("age", 0.0))
    deadline_s: float = math.inf


class Worker(Protocol):
    """Who computes: a thread of its own (LatestWorker), or one that is shared with other robots."""

    @property
    def idle(self) -> bool:
        """True when a job may be offered."""

    @property
    def waiting(self) -> bool:
        """True while a job has not been begun."""

    @property
    def stuck_s(self) -> float:
        """For how long nothing has moved while there is a job, seconds."""

    def offer(self, job: Any) -> None:
        """Hands over a job; one that still waits is replaced."""

    def drop_waiting(self) -> None:
        """Forgets a job that has not been begun."""

    def close(self, timeout_s: float = 5.0) -> bool:
        """Takes no more jobs; False when the one in progress did not end in time."""


class ModelSource(Protocol):
    """Where a node has its model from."""

    after_failure: str  # what becomes of the node after an error that nobody expected, the end of a sentence

    def set_up(
        self, settings: PolicySettings, progress: Callable[[str], None]
    ) -> tuple["Policy", ActionConvention, float]:
        """As policy_setup.set_up_policy."""

    def worker(self, infer: Callable[[Job], "Prediction"], deliver: Callable[[Outcome], None]) -> Worker:
        """Who computes with that model; `infer` does it for one job."""


class OwnModel:
    """A model that one node has for itself, with a thread of its own."""

    after_failure = "the process ends."

    def set_up(
        self, settings: PolicySettings, progress: Callable[[str], None]
    ) -> tuple["Policy", ActionConvention, float]:
        """Loads it."""
        return set_up_policy(settings, progress)

    def worker(self, infer: Callable[[Job], "Prediction"], deliver: Callable[[Outcome], None]) -> Worker:
        """The thread."""
        return LatestWorker(infer, deliver, name="policy")


class PolicyModel:
    """A policy and who computes with it.

    Args:
        usual_s: how long one inference takes, measured.
        ready: called in the worker thread when `outcomes` has one more.
        source: of the worker.
    """

    def __init__(self, policy: "Policy", usual_s: float, ready: Callable[[], None], source: ModelSource) -> None:
        self.policy = policy
        self.outcomes: deque[Outcome] = deque()
        self._ready = ready
        self._hang_s = max(HANG_S, PATIENCE * usual_s)
        self._hopeless_s = max(HOPELESS_S, LAST_PATIENCE * usual_s)
        self._worker = source.worker(self._infer, self._deliver)

    @property
    def idle(self) -> bool:
        """True when a job may be offered."""
        return self._worker.idle

    @property
    def waiting(self) -> bool:
        """True while a job has not been begun."""
        return self._worker.waiting

    def offer(self, job: Job) -> None:
        """Hands over a job; call only when idle. One that waits, behind other robots, is replaced."""
        self._worker.offer(job)

    def drop_waiting(self) -> None:
        """Forgets a job that has not been begun."""
        self._worker.drop_waiting()

    def draft_counts(self) -> dict[str, int]:
        """What came of guessing the actions; nothing when none are guessed."""
        figures = self.policy.generation.figures
        if not figures.proposed:
            return {}
        return {"drafts proposed": figures.proposed, "drafts accepted": figures.accepted}

    def problem(self) -> Problem | None:
        """MODEL_HANG while an inference takes far too long; latched when there is no hope left."""
        passed_s = self._worker.stuck_s
        if passed_s <= self._hang_s:
            return None
        sentence = f"The model has been busy with one image for more than {self._hang_s:.0f} s."
        return Problem("MODEL_HANG", sentence, latched=passed_s > self._hopeless_s)

    def close(self) -> None:
        """Ends the thread; an inference in progress is given time to end."""
        self._worker.close(5.0 if self.problem() is None else 0.1)

    def _infer(self, job: Job) -> "Prediction":
        """In the worker thread. One retry when the GPU's memory is full, as another program may have had it."""
        job.journey.reached("handover")
        image, instruction = job.observation.image, job.observation.instruction
        try:
            prediction = self.policy.predict(image, instruction)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            free_gpu_memory()
            prediction = self.policy.predict(image, instruction)
        job.journey.reached("inference", prediction.stages)
        return prediction

    def _deliver(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._ready()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the GPU had no memory left; the process may go on after it."""
    return type(error).__name__ == "OutOfMemoryError"


def free_gpu_memory() -> None:
    """Gives back what torch keeps for later."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_prediction(prediction: "Prediction") -> None:
    """Raises ActionError unless the action is finite and comes from numbers in [-1, 1], as every action token does.

    The statistics map [-1, 1] onto what the data set holds between its quantiles: nothing else can come out.
    """
    if not np.isfinite(prediction.action).all():
        raise ActionError(f"the model's action is not finite: {prediction.action.tolist()}. It was not published.")
    furthest = float(np.abs(prediction.normalized.values).max(initial=0.0))
    if not furthest <= 1.0:
        raise ActionError(
            f"the model's normalized action goes to {furthest:.3f}, beyond 1: outside what the data set holds. It was "
            "not published."
        )


def chunk_of(
    prediction: "Prediction", observation: Observation, inference_s: float, card: ActionConvention, **source: Any
) -> Chunk:
    """The chunk of one action; source holds session_id, sequence and rate_hz."""
    return Chunk(
        stamp_ns=observation.stamp_ns,
        frame=card.frame,
        instruction=observation.instruction,
        convention=card.name,
        actions=prediction.action[None],
        token_ids=prediction.tokens.ids[None],
        token_probabilities=prediction.tokens.probabilities[None],
        inference_s=inference_s,
        **source,
    )
