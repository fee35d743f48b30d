"""The controller node: action chunks in, a bounded 50 Hz stream of commands out. Its own process, without torch.

It carries messages to and from the supervisor, which decides about motion; nothing here does.
"""

import sys
import time
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from openvla_core.conventions import load_convention
from openvla_core.errors import ActionError, ConfigError
from openvla_core.supervisor import Accepted, Supervisor
from openvla_core.types import Pose
from openvla_ros import backends, conversions, topics
from openvla_ros.controller_figures import ControllerFigures
from openvla_ros.controller_settings import ControllerSettings
from openvla_ros.conversions import Applied
from openvla_ros.live_publishers import LivePublishers
from openvla_ros.node_support import autostart, run, transition
from openvla_ros.parameters import declare_settings
from openvla_ros.robot_pose import listen_to_pose
from openvla_ros.status_board import StatusBoard
from openvla_ros.timing import steady_timer
from openvla_ros.topics import State

GRAPH_CHECK_S = 0.1
# A robot that is not there is noticed after a second; activation waits for one this long.
ROBOT_NOTICED_S = 1.3
ROBOT_WITHIN_S = 5.0
# Problems that end with a message from the robot.
UNHEARD_YET = ("JOINTS_STALE", "BACKEND_STARTING")
LAST_HOLDS = 3  # commands at rest before the process ends


class ControllerNode(LifecycleNode):
    """Configure loads the card and checks the limits, activate allows motion, deactivate brakes and falls silent."""

    def __init__(self, **options) -> None:
        super().__init__("controller_node", **options)
        self._settings = declare_settings(self, ControllerSettings)
        self._supervisor: Supervisor | None = None
        self._backend: backends.Backend | None = None
        self._dry_run = self._settings.dry_run
        self._estop_topic = self._estop_service = False
        self._active = False
        self._holds = 0  # commands at rest, one after the other
        self._figures = ControllerFigures(self._settings.rate_hz)
        self._last_tick_s = 0.0

        self._applied = self.create_publisher(topics.AppliedAction, topics.APPLIED_ACTION, topics.RECORD)
        self._commanded = self.create_publisher(topics.PoseStamped, topics.COMMANDED_POSE, topics.COMMAND)
        self._board = StatusBoard(self, self._measure, self._details)
        listen_to_pose(self, self._settings, self)
        # Twice: a volatile publisher reaches only the first, what a latched one said before we started only the second.
        for quality in (topics.RECORD, topics.LATCHED):
            self.create_subscription(topics.Bool, topics.ESTOP, self._on_estop, quality)
        self.create_subscription(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self._on_chunk, topics.COMMAND)
        self._policies = LivePublishers(self, topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.ACTION_LEASE_S)
        self.create_subscription(topics.String, topics.POLICY_INSTRUCTION, self._on_instruction, topics.LATCHED)
        self._offer(topics.START, self._start)
        self._offer(topics.STOP, lambda supervisor: supervisor.stop())
        self._offer(topics.PAUSE, lambda supervisor: supervisor.pause())
        self._offer(topics.RESET, self._reset)
        self.create_service(topics.SetBool, topics.SET_DRY_RUN, self._on_set_dry_run)
        self.create_service(topics.SetBool, topics.PRESS_ESTOP, self._on_press_estop)
        steady_timer(self, 1.0 / self._settings.rate_hz, self._on_tick)
        steady_timer(self, GRAPH_CHECK_S, self._check_graph)
        if self._settings.autostart:
            autostart(self)

    # Lifecycle ------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the convention card and makes the backend; without both there is nothing to activate."""
        return transition(self, self._board, self._configure)

    def _configure(self) -> None:
        card = load_convention(self._settings.convention)
        supervisor = Supervisor(self._settings, card)
        self._backend = backends.make_backend(self._settings.backend, self, self._settings)
        supervisor.set_follows(not self._dry_run, time.monotonic())
        if self._estop_topic:
            supervisor.estop.on_topic(True, time.monotonic())
        supervisor.estop.on_service(self._estop_service)
        self._supervisor = supervisor
        self.get_logger().info(
            f"convention {card.name!r} at {card.rate_hz:g} Hz, backend {self._settings.backend!r}, "
            f"{'dry run: nothing is sent to the robot' if self._dry_run else 'commands go to the robot'}"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allows motion, at once or after ~/start; refused when nobody takes the commands."""
        if self._supervisor is None:
            return TransitionCallbackReturn.FAILURE
        result = transition(self, self._board, self._require_robot)
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        self._active = True
        if self._settings.start_when_active:
            self._supervisor.start(time.monotonic())
        return super().on_activate(state)

    def _require_robot(self) -> None:
        """Raises ConfigError when the robot takes no commands within 5 s.

        A node that starts by itself does not wait: the robot may still be starting too, and until it is there the node
        holds and says so.
        """
        begun_s = time.monotonic()
        while not self._settings.autostart and not self._dry_run:
            problem, passed_s = self._backend.problem(), time.monotonic() - begun_s
            # No message arrives while this callback runs; once active, what is still missing holds the arm.
            answered = problem is None or problem.code in UNHEARD_YET
            if answered and passed_s > ROBOT_NOTICED_S:
                return
            if problem is not None and (problem.latched or passed_s > ROBOT_WITHIN_S):
                raise ConfigError(f"Not activated: {problem.sentence}")
            time.sleep(0.05)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brakes; the timer goes on until the arm stands still, then nothing is sent."""
        self._deactivate()
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate; there is no way back."""
        self._deactivate()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate: after an error in a transition the arm must not move."""
        self._deactivate()
        return super().on_error(state)

    def _deactivate(self) -> None:
        self._active = False
        if self._supervisor is not None:
            self._supervisor.stop()

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forgets the card and the state of the stream."""
        if self._backend is not None:
            self._backend.close()
        self._supervisor = self._backend = None
        return super().on_cleanup(state)

    def wind_down(self) -> bool:
        """Called before the process ends: brakes, and returns True once three commands have held the arm at rest."""
        if self._supervisor is None or not self._supervisor.is_sending:
            return True
        self._supervisor.pause()
        return self._holds >= LAST_HOLDS

    # Inputs ---------------------------------------------------------------------------------------------------

    def on_pose(self, pose: Pose, stamp_ns: int, frame: str) -> None:
        """Called with every measured pose."""
        if self._supervisor is not None:
            now_s = self._look_at_the_clock()
            self._supervisor.on_pose(pose, stamp_ns, frame, now_s)

    def on_invalid_pose(self, reason: str) -> None:
        """Called with every message of the measured pose that holds none."""
        self.get_logger().warning(reason, throttle_duration_sec=1.0)
        if self._supervisor is not None:
            self._supervisor.on_invalid_pose()

    def _on_chunk(self, message) -> None:
        if self._supervisor is None:
            return
        self._check_graph()
        try:
            chunk = conversions.to_chunk(message)
        except ActionError as error:
            self._supervisor.on_malformed(str(error))
            return
        self._supervisor.on_chunk(chunk, self._now_ns(), time.monotonic())

    def _on_instruction(self, message) -> None:
        if self._supervisor is not None:
            self._supervisor.on_instruction(conversions.to_text(message))

    def _on_estop(self, message) -> None:
        # Remembered even without a card, so that a later configure starts in the emergency stop.
        self._estop_topic = conversions.to_flag(message)
        if self._supervisor is not None:
            self._supervisor.estop.on_topic(self._estop_topic, time.monotonic())
            self._on_tick()  # the next tick may be 20 ms away

    def _check_graph(self) -> None:
        if self._supervisor is not None:
            self._supervisor.on_publishers(self._policies.count(), time.monotonic())
            self._supervisor.estop.on_sources(self.count_publishers(topics.ESTOP))

    def _look_at_the_clock(self) -> float:
        now_s = time.monotonic()
        self._supervisor.on_clock(self._now_ns(), now_s)
        return now_s

    # Services -------------------------------------------------------------------------------------------------

    def _offer(self, name: str, order: Callable[[Supervisor], tuple[bool, str]]) -> None:
        def on_request(request, response):
            if self._supervisor is None:
                return conversions.reply(response, False, f"Not configured. {self._board.report.sentence}")
            return conversions.reply(response, *order(self._supervisor))

        self.create_service(topics.Trigger, name, on_request)

    def _start(self, supervisor: Supervisor) -> tuple[bool, str]:
        if not self._active:
            return False, "The node is not active; activate it first."
        return supervisor.start(time.monotonic())

    def _reset(self, supervisor: Supervisor) -> tuple[bool, str]:
        done, sentence = supervisor.reset(time.monotonic())
        if done and self._backend is not None:
            self._backend.reset()
        return done, sentence

    def _on_set_dry_run(self, request, response):
        wanted = conversions.is_set_to(request)
        done, sentence = True, "Set; it counts once the node is configured."
        if self._supervisor is not None:
            done, sentence = self._supervisor.set_follows(not wanted, time.monotonic())
        if done:
            self._dry_run = wanted
            self.get_logger().warning(sentence)
        return conversions.reply(response, done, sentence)

    def _on_press_estop(self, request, response):
        self._estop_service = pressed = conversions.is_set_to(request)
        if self._supervisor is not None:
            self._supervisor.estop.on_service(pressed)
        return conversions.reply(response, True, "Pressed." if pressed else "Released; reset and start must follow.")

    # Output ---------------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        # After a late tick the timer catches up; two commands at once would be a speed that nobody asked for.
        if self._supervisor is None or time.monotonic() - self._last_tick_s < 0.5 / self._settings.rate_hz:
            return
        # Read together: the stamps of the commands are then as far apart as the times they were made for.
        stamp_ns, now_s = self._now_ns(), time.monotonic()
        self._last_tick_s = now_s
        self._supervisor.on_clock(stamp_ns, now_s)
        self._figures.on_tick(now_s)
        self._supervisor.on_backend(None if self._dry_run else self._backend.problem())
        command = self._supervisor.tick(now_s)
        verdict = self._supervisor.verdict(now_s)
        if command is not None:
            self._figures.on_command(now_s)
            self._commanded.publish(conversions.pose_message(command.safe.pose, stamp_ns, self._settings.base_frame))
            if not self._dry_run:
                self._backend.send(command.safe, stamp_ns)
            if command.started is not None:
                self._report_applied(command.started, stamp_ns)
            moves = command.safe.velocity.any() or command.safe.angular_velocity.any()
            self._holds = 0 if moves else self._holds + 1
        self._board.set(State(verdict.state), verdict.code, verdict.sentence)

    def _report_applied(self, action: Accepted, stamp_ns: int) -> None:
        applied = Applied(
            stamp_ns=stamp_ns,
            frame=self._settings.base_frame,
            session_id=action.session_id,
            sequence=action.sequence,
            image_stamp_ns=action.image_stamp_ns,
            translation=action.translation,
            rotation=action.rotation,
            gripper=action.gripper,
            reasons=action.reasons,
        )
        self._figures.on_action(action, applied.photon_to_command_s)
        self._applied.publish(conversions.applied_message(applied))

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _measure(self) -> dict:
        clip_rate = self._supervisor.progress.clip_rate if self._supervisor else 0.0
        return {**self._figures.measured(), "clip_rate": clip_rate}

    def _details(self) -> dict[str, str]:
        details = {"dry_run": str(self._dry_run), **self._figures.details()}
        if self._supervisor is not None:
            progress = self._supervisor.progress
            details |= {"accepted": str(progress.accepted_count), "clipped": str(progress.clipped_count)}
            details |= {"refused": str(progress.refused_count)}
            details |= {f"refused: {code}": str(count) for code, count in progress.refused_codes.items()}
        return details


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is told to stop; returns the exit code of the process."""
    return run(ControllerNode, args)


if __name__ == "__main__":
    sys.exit(main())
