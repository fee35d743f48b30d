"""The policy node: newest camera frame and instruction in, one action chunk out, at the rate of the checkpoint.

It decides nothing about motion: the controller, another process, checks every chunk and holds the arm without one.
"""

import sys
import time
import traceback
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from openvla_core.conventions import ActionConvention
from openvla_core.errors import (
    ActionError,
    ConfigError,
    OpenVLAError,
)
from openvla_core.latest_worker import LatestWorker, Outcome
from openvla_core.types import Observation
from openvla_ros import conversions, topics
from openvla_ros.conversions import Chunk
from openvla_ros.node_support import EXIT_FAULT, autostart, run, transition
from openvla_ros.parameters import declare_settings
from openvla_ros.policy_setup import PolicySettings, set_up_policy
from openvla_ros.status_board import StatusBoard, report_errors
from openvla_ros.timing import RateWindow, steady_timer
from openvla_ros.topics import State

if TYPE_CHECKING:
    from openvla_core.policy import Policy, Prediction


@dataclass(frozen=True)
class Job:
    """One observation to act on. An outcome of another generation than the present one is discarded."""

    generation: int
    observation: Observation


class PolicyNode(LifecycleNode):
    """Runs the policy in one worker thread on the newest frame; everything else happens in the executor's thread."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("policy_node", **node_arguments)
        self.exit_code = 0
        self.policy: Policy | None = None
        self.settings = declare_settings(self, PolicySettings, self.change_settings)
        self.card: ActionConvention | None = None
        self.session_id = uuid.uuid4().hex
        self.sequence = 0
        self.instruction = ""
        self.warning = ""
        self.active = False
        self.paused = False
        self.generation = 0
        self.frame = None  # newest camera message
        self.frame_arrived_s = -np.inf
        self.used_stamp_ns: int | None = None
        self.due = False  # the time for the next action has come
        self.counts = {"frames": 0, "chunks": 0, "discarded": 0, "errors": 0}
        self.inferences = RateWindow()

        self.board = StatusBoard(self, self.measurements, self.details)
        self.chunks = self.create_lifecycle_publisher(topics.ActionChunk, topics.ACTION_CHUNK, topics.ACTION)
        self.active_instruction = self.create_publisher(topics.String, topics.ACTIVE_INSTRUCTION, topics.LATCHED)
        self.create_subscription(topics.String, topics.INSTRUCTION, self.on_instruction, topics.COMMAND)
        self.create_service(topics.Trigger, topics.START, self.on_start)
        self.create_service(topics.Trigger, topics.STOP, self.on_stop)
        self.create_service(topics.Trigger, topics.PAUSE, self.on_pause)
        self.create_service(topics.Trigger, topics.RESET, self.on_reset)
        self.camera: Subscription | None = None
        self.timer: Timer | None = None
        self.outcomes: deque[Outcome] = deque()
        self.outcome_ready = self.create_guard_condition(self.on_outcomes)
        self.worker: LatestWorker | None = None
        self.starting = self.settings.autostart
        if self.starting:
            autostart(self)
        else:
            self.board.set(State.STANDBY, "UNCONFIGURED", "Not configured: no checkpoint is loaded.")

    # Lifecycle ------------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return transition(self, self.board, self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active, self.paused, self.starting = True, False, False
        self.drop_task()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self.drop_task("INACTIVE", "Not active: instructions are ignored until the node is activated.")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.release()
        self.board.set(State.STANDBY, "UNCONFIGURED", "Not configured: no checkpoint is loaded.")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self.drop_task("INACTIVE", "Shut down.")
        return super().on_shutdown(state)

    def configure(self) -> None:
        """Loads the checkpoint, checks that it sees and acts, and opens the camera."""
        settings = self.settings
        self.board.set(State.STANDBY, "STARTING", f"Loading {settings.checkpoint} on {settings.device}.")
        self.policy, self.card, inference_s = set_up_policy(settings)
        budget_s = 1.0 / self.rate_hz
        self.get_logger().info(
            f"vision self-test passed; inference {inference_s * 1e3:.0f} ms (budget {budget_s * 1e3:.0f} ms)"
        )
        self.worker = LatestWorker(self.infer, self.deliver, name="policy")
        self.timer = steady_timer(self, budget_s, self.on_timer)
        kind = topics.Image if settings.image_transport == "raw" else topics.CompressedImage
        self.camera = self.create_subscription(kind, topics.CAMERA_IMAGE, self.on_image, topics.SENSOR)
        if not self.starting:
            self.board.set(State.STANDBY, "INACTIVE", "Configured. Activate the node to let it act.")

    @property
    def rate_hz(self) -> float:
        """Actions per second."""
        return self.settings.rate_hz or self.card.rate_hz

    def change_settings(self, settings: PolicySettings) -> None:
        """Takes new parameters while nothing is loaded."""
        if self.policy is not None:
            raise ConfigError("policy_node is configured; clean it up first (ros2 lifecycle set policy_node cleanup).")
        self.settings = settings

    def release(self) -> None:
        """Closes camera, timer and worker and forgets the model."""
        self.drop_task()
        if self.camera is not None:
            self.destroy_subscription(self.camera)
            self.destroy_timer(self.timer)
            self.camera = self.timer = None
        self.close()
        self.policy = self.card = self.worker = self.frame = None

    def close(self) -> None:
        """Ends the worker thread; an inference in progress is given time to end."""
        if self.worker is not None:
            self.worker.close()

    # What to do -----------------------------------------------------------------------------------------------------

    def on_instruction(self, message: topics.String) -> None:
        text = conversions.to_text(message)
        if not self.active:
            self.get_logger().warning(f"instruction {text[:80]!r} ignored: the node is not active")
            return
        if text == self.instruction:
            return  # repeated by `ros2 topic pub -r`: the same task goes on
        with report_errors(self.board, then=self.forget_instruction, state=State.STANDBY):
            instruction = self.policy.check_instruction(text)
            if instruction != self.instruction:
                self.begin(instruction)

    def begin(self, instruction: str) -> None:
        """Makes this the instruction in force; a result still under way for the last one is discarded."""
        self.forget_instruction()
        self.instruction = instruction
        known = {sentence.lower() for sentence in self.policy.training_instructions}
        self.warning = ""
        if known and instruction.lower() not in known:
            examples = "; ".join(sorted(known)[:3])
            self.warning = (
                f"{instruction!r} was not in the training data, so it may do anything. It was trained on: {examples}."
            )
        self.active_instruction.publish(conversions.text_message(instruction))
        if self.paused:
            self.board.set(State.STANDBY, "PAUSED", "Paused: call ~/start to follow the instruction.")
        else:
            self.timer.reset()
            self.say_following()

    def forget_instruction(self) -> None:
        """Leaves nothing to follow, and discards the result under way and the frame: the scene may change meanwhile."""
        self.generation += 1
        self.frame = None
        self.due = True  # the first frame after the next instruction is acted on at once
        self.inferences.clear()
        if self.worker is not None:
            self.worker.drop_waiting()
        if self.instruction:
            self.active_instruction.publish(conversions.text_message(""))
        self.instruction = ""

    def drop_task(self, code: str = "READY", sentence: str = "Ready: waiting for an instruction.") -> None:
        """Back to standby without an instruction."""
        self.forget_instruction()
        self.board.set(State.STANDBY, code, sentence)

    def say_following(self) -> None:
        """States that the instruction is being followed."""
        code, sentence = "OK", f"Following {self.instruction!r} at {self.rate_hz:g} Hz."
        if self.warning:
            code, sentence = "INSTRUCTION_UNTRAINED", f"{sentence} {self.warning}"
        self.board.set(State.ACTIVE, code, sentence)

    # See, think, publish --------------------------------------------------------------------------------------------

    def on_image(self, message) -> None:
        self.frame, self.frame_arrived_s = message, time.monotonic()
        self.counts["frames"] += 1
        self.act()

    def on_timer(self) -> None:
        """Marks the next action as due: the next frame leads to it, so that it is as fresh as can be."""
        self.due = True
        if self.is_following() and self.is_camera_silent():
            self.say_camera_stale("No image")

    def is_following(self) -> bool:
        """True while there is an instruction to act on."""
        return self.active and bool(self.instruction) and not self.paused

    def act(self) -> None:
        """Hands the newest frame to the worker when an action is due and the worker is free."""
        if not (self.due and self.is_following() and self.frame is not None and self.worker.idle):
            return
        stamp_ns = conversions.stamp_ns(self.frame)
        if stamp_ns == self.used_stamp_ns:
            return
        age_s = (self.get_clock().now().nanoseconds - stamp_ns) * 1e-9
        if abs(age_s) > self.settings.max_observation_age_s:
            self.say_camera_stale("Images arrive, but none with a stamp")
            return
        self.due = False
        self.used_stamp_ns = stamp_ns
        with report_errors(self.board, then=self.count_error):
            image = conversions.to_rgb(self.frame)
            self.worker.offer(Job(self.generation, Observation(image, self.instruction, stamp_ns)))

    def is_camera_silent(self) -> bool:
        """True when no frame has arrived for longer than an observation may be old."""
        return time.monotonic() - self.frame_arrived_s > self.settings.max_observation_age_s

    def say_camera_stale(self, what: str) -> None:
        topic = self.resolve_topic_name(topics.CAMERA_IMAGE)
        limit_s = self.settings.max_observation_age_s
        self.board.set(
            State.HOLD,
            "CAM_STALE",
            f"{what} on {topic} within {limit_s:g} s of now. Check the camera, its topic name and its clock.",
        )

    def infer(self, job: Job) -> "Prediction":
        """Runs in the worker thread."""
        return self.policy.predict(job.observation.image, job.observation.instruction)

    def deliver(self, outcome: Outcome) -> None:
        """Runs in the worker thread: passes the outcome to the executor's thread."""
        self.outcomes.append(outcome)
        self.outcome_ready.trigger()

    def on_outcomes(self) -> None:
        while self.outcomes:
            self.on_outcome(self.outcomes.popleft())
        self.act()  # when inference takes longer than the period, the next action is due already

    def on_outcome(self, outcome: Outcome) -> None:
        """Publishes what the worker found, unless the task has changed since."""
        if outcome.error is not None and not isinstance(outcome.error, OpenVLAError):
            self.fail(outcome.error)
        elif outcome.job.generation != self.generation or self.paused:
            self.counts["discarded"] += 1
        else:
            self.inferences.add(outcome.seconds)
            with report_errors(self.board, then=self.count_error):
                if outcome.error is not None:
                    raise outcome.error
                self.publish_chunk(outcome)

    def publish_chunk(self, outcome: Outcome) -> None:
        """Publishes the action of one outcome; raises ActionError when it is not finite."""
        prediction, observation = outcome.value, outcome.job.observation
        if not np.isfinite(prediction.action).all():
            raise ActionError(f"the model's action is not finite: {prediction.action.tolist()}. It was not published.")
        self.chunks.publish(
            conversions.chunk_message(
                Chunk(
                    stamp_ns=observation.stamp_ns,
                    frame=self.card.frame,
                    session_id=self.session_id,
                    sequence=self.sequence,
                    instruction=observation.instruction,
                    convention=self.card.name,
                    rate_hz=self.rate_hz,
                    actions=prediction.action[None],
                    token_ids=prediction.tokens.ids[None],
                    token_probabilities=prediction.tokens.probabilities[None],
                    inference_s=outcome.seconds,
                )
            )
        )
        self.sequence += 1
        self.counts["chunks"] += 1
        self.say_following()

    def count_error(self) -> None:
        self.counts["errors"] += 1

    def fail(self, error: BaseException) -> None:
        """A device error or a bug: says so and ends the process, because a broken CUDA context never recovers."""
        self.get_logger().error("".join(traceback.format_exception(error)))
        self.active = False
        self.forget_instruction()
        self.board.set(State.FAULT, "FAULT", f"The policy failed ({type(error).__name__}: {error}); the process ends.")
        self.exit_code = EXIT_FAULT

    # Services -------------------------------------------------------------------------------------------------------

    def on_start(self, request, response):
        if not self.active:
            return conversions.reply(response, False, "The node is not active; activate it first.")
        self.paused = False
        if not self.instruction:
            self.drop_task()
            return conversions.reply(response, True, "Ready: publish a sentence on the instruction topic.")
        self.say_following()
        return conversions.reply(response, True, f"Following {self.instruction!r}.")

    def on_stop(self, request, response):
        self.paused = False
        if self.active:
            self.drop_task()
        return conversions.reply(response, True, "Stopped: the instruction is forgotten.")

    def on_pause(self, request, response):
        self.paused = True
        self.generation += 1
        if self.active:
            self.board.set(State.STANDBY, "PAUSED", "Paused: call ~/start to go on.")
        return conversions.reply(response, True, "Paused.")

    def on_reset(self, request, response):
        self.used_stamp_ns = None
        return self.on_stop(request, response)

    # Figures --------------------------------------------------------------------------------------------------------

    def measurements(self) -> dict:
        """The instruction in force; rate and latency of the inferences of the last seconds."""
        return {
            "instruction": self.instruction,
            "rate_hz": self.inferences.rate_hz(),
            "latency_p50_ms": self.inferences.percentile_ms(50),
            "latency_p95_ms": self.inferences.percentile_ms(95),
        }

    def details(self) -> dict[str, str]:
        """What /diagnostics tells besides the status."""
        settings = self.settings
        fixed = {"checkpoint": settings.checkpoint, "device": settings.device, "dtype": settings.dtype}
        return {**fixed, **{name: str(count) for name, count in self.counts.items()}}


def main(args: list[str] | None = None) -> int:
    """Entry point of the policy process."""
    return run(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
