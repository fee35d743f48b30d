"""The policy node: newest camera frame and instruction in, one action chunk out, at the rate of the checkpoint.

It decides nothing about motion: the controller, another process, checks every chunk and holds the arm without one.
"""

import sys
import time
import traceback
import uuid

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from openvla_core.camera_watch import picture_warning
from openvla_core.conventions import ActionConvention
from openvla_core.errors import ActionError, ConfigError, DeadlineError, OpenVLAError
from openvla_core.latest_worker import Outcome
from openvla_core.types import Observation, Problem
from openvla_ros import conversions, topics
from openvla_ros.node_support import EXIT_FAULT, autostart, run, transition
from openvla_ros.parameters import declare_settings
from openvla_ros.policy_eyes import PolicyEyes
from openvla_ros.policy_figures import PolicyFigures, untrained_warning
from openvla_ros.policy_model import (
    Job,
    ModelSource,
    OwnModel,
    PolicyModel,
    check_prediction,
    chunk_of,
    is_out_of_memory,
)
from openvla_ros.policy_services import offer_services
from openvla_ros.policy_setup import PolicySettings
from openvla_ros.status_board import StatusBoard, report_errors
from openvla_ros.timing import steady_timer
from openvla_ros.topics import State

CHECK_S = 0.1  # between two looks at the camera, the model and the publishers of the instruction
GIL_HANG_S = 10.0  # a process that does not even get to its timers for this long is ended


class PolicyNode(LifecycleNode):
    """Runs the policy in one worker thread on the newest frame; everything else happens in the executor's thread."""

    def __init__(self, source: ModelSource | None = None, **node_arguments) -> None:
        super().__init__("policy_node", **node_arguments)
        self.source = OwnModel() if source is None else source
        self.exit_code = 0
        self.model: PolicyModel | None = None
        self.settings = declare_settings(self, PolicySettings, self.change_settings)
        self.card: ActionConvention | None = None
        self.session_id = uuid.uuid4().hex
        self.sequence = 0
        self.instruction = ""
        self.warning = ""
        self.picture = ""  # what is wrong with the last picture
        self.fault = ""  # the code of a fault that waits for ~/reset
        self.active = False
        self.paused = False
        self.generation = 0
        self.eyes: PolicyEyes | None = None
        self.due = False  # the time for the next action has come
        self.figures = PolicyFigures()

        self.board = StatusBoard(self, lambda: self.figures.measured(self.instruction), self.details)
        self.chunks = self.create_lifecycle_publisher(topics.ActionChunk, topics.ACTION_CHUNK, topics.ACTION)
        self.active_instruction = self.create_publisher(topics.String, topics.ACTIVE_INSTRUCTION, topics.LATCHED)
        self.create_subscription(topics.String, topics.INSTRUCTION, self.on_instruction, topics.COMMAND)
        offer_services(self)
        self.timer: Timer | None = None
        self.outcome_ready = self.create_guard_condition(self.on_outcomes)
        steady_timer(self, CHECK_S, self.check)
        self.starting = self.settings.autostart
        if self.starting:
            autostart(self)
        else:
            self.board.set(State.STANDBY, "UNCONFIGURED", "Not configured: no checkpoint is loaded.")

    # Lifecycle ------------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return transition(self, self.board, self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active, self.paused, self.starting, self.exit_code = True, False, False, 0
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
        policy, self.card, inference_s = self.source.set_up(settings, self.say_starting)
        budget_s = 1.0 / self.rate_hz
        self.get_logger().info(
            f"vision self-test passed; inference {inference_s * 1e3:.0f} ms (budget {budget_s * 1e3:.0f} ms)"
        )
        self.model = PolicyModel(policy, inference_s, self.outcome_ready.trigger, self.source)
        self.eyes = PolicyEyes(self, settings, self.act)
        self.timer = steady_timer(self, budget_s, self.on_timer)
        if not self.starting:
            self.board.set(State.STANDBY, "INACTIVE", "Configured. Activate the node to let it act.")

    def say_starting(self, sentence: str) -> None:
        """States what is being prepared."""
        self.board.set(State.STANDBY, "STARTING", sentence)

    @property
    def rate_hz(self) -> float:
        """Actions per second."""
        return self.settings.rate_hz or self.card.rate_hz

    def change_settings(self, settings: PolicySettings) -> None:
        """Takes new parameters while nothing is loaded."""
        if self.model is not None:
            raise ConfigError("policy_node is configured; clean it up first (ros2 lifecycle set policy_node cleanup).")
        self.settings = settings

    def release(self) -> None:
        """Closes camera, timer and worker and forgets the model."""
        self.drop_task()
        if self.eyes is not None:
            self.eyes.close()
            self.destroy_timer(self.timer)
        self.close()
        self.model = self.card = self.eyes = self.timer = None

    def close(self) -> None:
        """Ends the worker thread; an inference in progress is given time to end."""
        if self.model is not None:
            self.model.close()

    @property
    def hang_s(self) -> float:
        """How long the whole process may hang before it is ended; 0 for ever, as while it loads a checkpoint."""
        return GIL_HANG_S if self.active else 0.0

    # What to do -----------------------------------------------------------------------------------------------------

    def on_instruction(self, message: topics.String) -> None:
        text = conversions.to_text(message)
        if not self.active:
            self.get_logger().warning(f"instruction {text[:80]!r} ignored: the node is not active")
            return
        if self.fault or self.has_rivals():
            self.get_logger().warning(f"instruction {text[:80]!r} refused: {self.board.report.code}")
            return
        if text == self.instruction:
            return  # repeated by `ros2 topic pub -r`: the same task goes on
        with report_errors(self.board, then=self.forget_instruction, state=State.STANDBY):
            instruction = self.model.policy.check_instruction(text)
            if instruction != self.instruction:
                self.begin(instruction)

    def begin(self, instruction: str) -> None:
        """Makes this the instruction in force; a result still under way for the last one is discarded."""
        self.forget_instruction()
        self.instruction = instruction
        self.warning = untrained_warning(instruction, set(self.model.policy.training_instructions))
        self.active_instruction.publish(conversions.text_message(instruction))
        if self.paused:
            self.board.set(State.STANDBY, "PAUSED", "Paused: call ~/start to follow the instruction.")
        else:
            self.timer.reset()
            self.say_following()

    def forget_instruction(self) -> None:
        """Leaves nothing to follow, and discards the result under way and the frame: the scene may change meanwhile."""
        self.generation += 1
        if self.eyes is not None:
            self.eyes.forget()
        self.due = True  # the first frame after the next instruction is acted on at once
        self.figures.inferences.clear()
        if self.model is not None:
            self.model.drop_waiting()
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
        if self.picture:
            code, sentence = "CAM_QUALITY", f"{sentence} {self.picture}"
        self.board.set(State.ACTIVE, code, sentence)

    # See, think, publish --------------------------------------------------------------------------------------------

    def on_timer(self) -> None:
        """Marks the next action as due: the next frame leads to it, so that it is as fresh as can be."""
        self.due = True

    def is_following(self) -> bool:
        """True while there is an instruction to act on."""
        return self.active and bool(self.instruction) and not self.paused

    def has_rivals(self) -> bool:
        """True while several publishers of instructions are there, and one cannot know whom to obey."""
        return self.settings.one_instructor and self.count_publishers(topics.INSTRUCTION) > 1

    def problem(self) -> Problem | None:
        """What keeps the policy from acting now."""
        if self.has_rivals():
            topic = self.resolve_topic_name(topics.INSTRUCTION)
            return Problem("MULTI_PUB", f"More than one process publishes on {topic}. Stop all but one.")
        return self.eyes.problem()

    def check(self) -> None:
        """Notices what does not announce itself: silence, a hanging model, a second instructor."""
        if not self.active:
            return
        hanging = self.model.problem()
        if hanging is not None:
            self.stop_with(hanging.code, f"{hanging.sentence} Restart this node, or call ~/reset once it answers.")
            if hanging.latched:
                self.exit_code = EXIT_FAULT
        problem = None if self.fault or not self.is_following() else self.problem()
        if problem is not None:
            self.generation += 1  # a result under way was asked for before this
            self.eyes.forget()
            self.board.set(State.HOLD, problem.code, problem.sentence)

    def act(self) -> None:
        """Hands the newest frame to the worker when an action is due and the worker is free.

        A frame that still waits, behind other robots that share the model, gives way to a newer one.
        """
        wanted = (self.due or self.model.waiting) and self.model.idle
        if not (wanted and self.is_following()) or self.problem() is not None:
            return
        with report_errors(self.board, then=self.figures.count_error):
            sight = self.eyes.take()
            if sight is not None:
                self.due = False
                self.picture = picture_warning(sight.rgb)
                observation = Observation(sight.rgb, self.instruction, sight.stamp_ns)
                deadline_s = time.monotonic() + self.settings.max_observation_age_s - sight.journey.total_s
                self.model.offer(Job(self.generation, observation, sight.journey, deadline_s))

    def on_outcomes(self) -> None:
        while self.model is not None and self.model.outcomes:
            self.on_outcome(self.model.outcomes.popleft())
        if self.model is not None:
            self.act()  # when inference takes longer than the period, the next action is due already

    def on_outcome(self, outcome: Outcome) -> None:
        """Publishes what the worker found, unless the task has changed since."""
        if is_out_of_memory(outcome.error):
            self.stop_with("GPU_OOM", "The GPU has no memory left, even at a second try. Free some, then ~/reset.")
        elif outcome.error is not None and not isinstance(outcome.error, OpenVLAError):
            self.fail(outcome.error)
        elif outcome.job.generation != self.generation or self.paused:
            self.figures.counts["discarded"] += 1
        else:
            if isinstance(outcome.error, DeadlineError):
                self.due = True  # this action has not been made; the next frame may lead to it
            else:
                self.figures.inferences.add(outcome.seconds)
            with report_errors(self.board, then=self.figures.count_error):
                if outcome.error is not None:
                    raise outcome.error
                self.publish_chunk(outcome)

    def publish_chunk(self, outcome: Outcome) -> None:
        """Publishes the action of one outcome; an action that no token can mean is a fault."""
        journey = outcome.job.journey
        journey.reached("return")
        try:
            check_prediction(outcome.value)
        except ActionError as error:
            self.figures.count_error()
            self.stop_with("ACT_IMPOSSIBLE", str(error))
            return
        source = {"session_id": self.session_id, "sequence": self.sequence, "rate_hz": self.rate_hz}
        chunk = chunk_of(outcome.value, outcome.job.observation, outcome.seconds, self.card, **source)
        self.chunks.publish(conversions.chunk_message(chunk))
        journey.reached("publication")
        self.figures.add_journey(journey)
        self.sequence += 1
        self.figures.counts["chunks"] += 1
        self.say_following()

    def stop_with(self, code: str, sentence: str) -> None:
        """A fault the process survives: nothing is followed until ~/reset."""
        self.fault = code
        self.forget_instruction()
        self.board.set(State.FAULT, code, sentence)

    def fail(self, error: BaseException) -> None:
        """A device error or a bug: says so and stops for good, because a broken CUDA context never recovers."""
        self.get_logger().error("".join(traceback.format_exception(error)))
        self.active = False
        self.forget_instruction()
        told = f"The policy failed ({type(error).__name__}: {error})"
        self.board.set(State.FAULT, "FAULT", f"{told}; {self.source.after_failure}")
        self.exit_code = EXIT_FAULT

    def details(self) -> dict[str, str]:
        """What /diagnostics tells besides the status."""
        counts = self.eyes.counts() if self.eyes is not None else {}
        return self.figures.details(self.settings, {**counts, **(self.model.draft_counts() if self.model else {})})


def main(args: list[str] | None = None) -> int:
    """Entry point of the policy process."""
    return run(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
