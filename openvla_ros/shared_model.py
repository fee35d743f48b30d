"""One model for the policy nodes of many robots: loaded with the first, asked in batches, forgotten with the last."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from openvla_core.batching import DynamicBatcher
from openvla_core.conventions import ActionConvention
from openvla_core.errors import ConfigError, OpenVLAError
from openvla_core.latest_worker import Outcome
from openvla_ros.policy_model import Job, free_gpu_memory, is_out_of_memory
from openvla_ros.policy_setup import PolicySettings, convention_card, set_up_policy

if TYPE_CHECKING:
    from openvla_core.policy import Policy, Prediction

QuestionT = TypeVar("QuestionT")

# What every robot may have as it likes. Everything else is what the model is made of, and the same for all.
OF_EACH_ROBOT = {
    "convention",
    "rate_hz",
    "max_observation_age_s",
    "image_transport",
    "camera_frame_id",
    "one_instructor",
    "autostart",
}


class SharedModel:
    """The policy that all robots use, and the thread that answers them.

    Args:
        most: robots answered in one pass of the model.
        gather_s: how long an idle model waits for more robots before it begins.
    """

    def __init__(self, most: int, gather_s: float = 0.0) -> None:
        self.most = most
        self.gather_s = gather_s
        self.robots: set[str] = set()
        self._policy: Policy | None = None
        self._batcher: DynamicBatcher[Job, Prediction] | None = None
        self._made_of: dict[str, Any] = {}
        self._preprocessing = ""
        self._usual_s = 0.0
        self._sizes: tuple[int, ...] = ()

    @property
    def broken(self) -> bool:
        """True when the model answers nobody any more, not even what is known to be good."""
        return self._batcher is not None and self._batcher.broken is not None

    def set_up(
        self, robot: str, settings: PolicySettings, progress: Callable[[str], None]
    ) -> tuple["Policy", ActionConvention, float]:
        """The policy, the card of this robot, and how long a full batch takes, seconds.

        The first robot loads the checkpoint, warms it up and checks that it sees; the others join. Raises OpenVLAError
        as policy_setup.set_up_policy does, and ConfigError when this robot wants another model than the others.
        """
        if self._policy is None or not self.robots:
            return self._load(settings, progress)
        refuse_differences(robot, made_of(settings), "the others", self._made_of)
        card = convention_card(settings, self._policy)
        if card.image.preprocessing != self._preprocessing:
            raise ConfigError(
                f"the card {card.name} of {robot} prepares images by {card.image.preprocessing!r}, the model that all "
                f"robots share by {self._preprocessing!r}. Give {robot} a card that agrees, or a fleet of its own."
            )
        return self._policy, card, self._usual_s

    def join(self, robot: str, deliver: Callable[[Outcome], None]) -> "Seat":
        """A place for a robot that has set up the model. Raises ConfigError when it has one already."""
        if self._batcher is None:
            self._batcher = DynamicBatcher(self._answer, self.most, self.gather_s, check=self._check)
        self._batcher.join(robot, deliver)
        self.robots.add(robot)
        return Seat(self._batcher, robot, partial(self._leave, robot))

    def figures(self) -> dict[str, str]:
        """Counts for /diagnostics."""
        counts = {} if self._batcher is None else self._batcher.figures()
        return {"robots": str(len(self.robots)), **{name: str(count) for name, count in counts.items()}}

    def _load(
        self, settings: PolicySettings, progress: Callable[[str], None]
    ) -> tuple["Policy", ActionConvention, float]:
        self._policy = None  # before another one is loaded: there may be no memory for two
        policy, card, _ = set_up_policy(settings, progress)
        self._policy, self._made_of = policy, made_of(settings)
        self._preprocessing = card.image.preprocessing
        self._sizes = batch_sizes(self.most, on_cuda=policy.device.type == "cuda")
        self._usual_s = time_of_batches(policy, card, self._sizes)
        return policy, card, self._usual_s

    def _leave(self, robot: str, timeout_s: float) -> bool:
        self.robots.discard(robot)
        batcher = self._batcher
        if batcher is None or self.robots:
            return True
        self._policy = self._batcher = None
        return batcher.close(timeout_s)

    def _answer(self, jobs: Sequence[Job]) -> "Sequence[Prediction | OpenVLAError]":
        """In the batcher's thread. A batch that finds the GPU's memory full is tried again, robot by robot."""
        policy = self._policy
        assert policy is not None
        for job in jobs:
            if "handover" not in job.journey.stretches:
                job.journey.reached("handover")
        questions = [(job.observation.image, job.observation.instruction) for job in jobs]
        try:
            answers = policy.predict_batch(filled_up(questions, self._sizes))[: len(jobs)]
        except RuntimeError as error:
            if is_out_of_memory(error):
                free_gpu_memory()
            raise
        for job, answer in zip(jobs, answers, strict=True):
            job.journey.reached("inference", getattr(answer, "stages", None))
        return answers

    def _check(self) -> None:
        """Raises when the model does not even answer a question that is known to be good."""
        try:
            if self._policy is not None:
                self._policy.predict_batch([known_question(self._policy)])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise


class Share:
    """The model of a fleet, as the model source of one of its robots."""

    after_failure = "the other robots go on. Deactivate and activate this node to try again."

    def __init__(self, shared: SharedModel, robot: str) -> None:
        self._shared = shared
        self._robot = robot

    def set_up(
        self, settings: PolicySettings, progress: Callable[[str], None]
    ) -> tuple["Policy", ActionConvention, float]:
        """Loads the model, or joins those who use it."""
        return self._shared.set_up(self._robot, settings, progress)

    def worker(self, infer: Callable[[Job], Any], deliver: Callable[[Outcome], None]) -> "Seat":
        """A place at the shared model, which takes `infer`'s part."""
        return self._shared.join(self._robot, deliver)


class Seat:
    """A robot's place at the shared model, with the face of a worker of its own (policy_model.Worker)."""

    def __init__(self, batcher: DynamicBatcher, robot: str, leave: Callable[[float], bool]) -> None:
        self._batcher = batcher
        self._robot = robot
        self._leave = leave
        self._closed = False

    @property
    def idle(self) -> bool:
        """True while no answer for this robot is being computed; a job that waits may be replaced."""
        return not self._batcher.is_running(self._robot)

    @property
    def waiting(self) -> bool:
        """True while a job has not been begun."""
        return self._batcher.is_waiting(self._robot)

    @property
    def stuck_s(self) -> float:
        """For how long the model has answered nobody while this robot waits, seconds."""
        return self._batcher.stuck_s(self._robot)

    def offer(self, job: Job) -> None:
        """Asks for an action, in place of what still waits; not when that has just been begun."""
        self._batcher.submit(self._robot, job, job.deadline_s, behind=False)

    def drop_waiting(self) -> None:
        """Forgets a job that has not been begun."""
        self._batcher.drop(self._robot)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Leaves; the last robot ends the thread. False when that did not end in time."""
        if self._closed:
            return True
        self._closed = True
        self._batcher.leave(self._robot)
        return self._leave(timeout_s)


def made_of(settings: PolicySettings) -> dict[str, Any]:
    """The settings that decide what the model is."""
    return {name: value for name, value in asdict(settings).items() if name not in OF_EACH_ROBOT}


def refuse_differences(robot: str, wanted: Mapping[str, Any], others: str, have: Mapping[str, Any]) -> None:
    """Raises ConfigError when a robot wants a model made of something else than the one of the others."""
    different = [name for name in wanted if wanted[name] != have[name]]
    if different:
        name = different[0]
        raise ConfigError(
            f"{robot}: {name} is {wanted[name]!r}, but {have[name]!r} for {others}. The robots of a fleet share one "
            f"model: give all of them the same {', '.join(different)}, or start another fleet."
        )


def known_question(policy: "Policy") -> tuple[np.ndarray, str]:
    """A grey picture and a sentence of the training data: any model answers it, somehow."""
    size = policy.config.towers[0].image_size
    return np.full((size, size, 3), 128, np.uint8), (*policy.training_instructions, "pick up the object")[0]


def batch_sizes(most: int, on_cuda: bool) -> tuple[int, ...]:
    """Sizes of batches to compute: powers of two on CUDA, where each size is recorded and kept; else only the largest.

    Elsewhere smaller batches are computed as they are.
    """
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return (*powers, most) if on_cuda else (most,)


def filled_up(questions: Sequence[QuestionT], sizes: Sequence[int]) -> list[QuestionT]:
    """The questions, the last one repeated until they are as many as the next size; a lone size is not filled up."""
    if len(sizes) == 1:
        return list(questions)
    size = min(size for size in sizes if size >= len(questions))
    return [*questions, *[questions[-1]] * (size - len(questions))]


def time_of_batches(policy: "Policy", card: ActionConvention, sizes: Sequence[int]) -> float:
    """Answers batches of each size twice and returns how long the last took, seconds; the first pays for set-up."""
    instruction = known_question(policy)[1]
    picture = np.full((card.image.height, card.image.width, 3), 128, np.uint8)
    started_s = time.monotonic()
    for size in sizes:
        for _ in range(2):
            started_s = time.monotonic()
            policy.predict_batch([(picture, instruction)] * size)
    return time.monotonic() - started_s
