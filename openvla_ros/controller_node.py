"""The controller node: action chunks in, a bounded 50 Hz stream of commands out. Its own process, without torch.

It carries messages to and from the supervisor, which decides about motion; nothing here does.
"""

import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from openvla_core.conventions import load_convention
from openvla_core.errors import ActionError, ConfigError
from openvla_core.estop import EmergencyStop
from openvla_core.supervisor import Accepted, Command, Supervisor, Verdict
from openvla_core.types import Pose, Problem
from openvla_ros import backends, conversions, topics
from openvla_ros.controller_figures import ControllerFigures
from openvla_ros.controller_settings import ControllerSettings
from openvla_ros.conversions import Applied
from openvla_ros.guard import UNEXPECTED, guarded
from openvla_ros.live_publishers import LivePublishers
from openvla_ros.node_support import autostart, run, transition
from openvla_ros.parameters import declare_settings
from openvla_ros.robot_pose import listen_to_pose
from openvla_ros.status_board import StatusBoard
from openvla_ros.timing import steady_timer
from openvla_ros.topics import State

GRAPH_CHECK_S = 0.1
# What a robot that is there has said so soon after the node was configured; until then these are no problems.
ROBOT_HEARD_S = 1.3
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
        # Both outlive a card: neither deactivate nor cleanup is a reset.
        self._estop = EmergencyStop(self._settings.estop_required, self._settings.estop_timeout_s)
        self._fault: Verdict | None = None
        self._configured_s = 0.0
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
        if self._is_braking():  # after an error, which leads here without cleanup
            return TransitionCallbackReturn.FAILURE
        return transition(self, self._board, self._configure)

    def _configure(self) -> None:
        self._forget()
        card = load_convention(self._settings.convention)
        supervisor = Supervisor(self._settings, card)
        supervisor.carry_over(self._estop, self._fault)
        self._backend = backends.make_backend(self._settings.backend, self, self._settings)
        supervisor.set_follows(not self._dry_run, time.monotonic())
        self._supervisor = supervisor
        self._configured_s = time.monotonic()
        self.get_logger().info(
            f"convention {card.name!r} at {card.rate_hz:g} Hz, backend {self._settings.backend!r}, "
            f"{'dry run: nothing is sent to the robot' if self._dry_run else 'commands go to the robot'}"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allows motion, at once or after ~/start; refused while the arm brakes or when nobody takes the commands."""
        if self._supervisor is None or self._is_braking():
            return TransitionCallbackReturn.FAILURE
        result = transition(self, self._board, self._require_robot)
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        self._active = True
        if self._settings.start_when_active:
            self._supervisor.start(time.monotonic())
        return super().on_activate(state)

    def _require_robot(self) -> None:
        """Raises ConfigError when the ticks since configure have found out that the robot takes no commands.

        It never waits: no command is made and no emergency stop heard meanwhile. A node that starts by itself asks
        nothing: the robot may still be starting too, and until it is there the node holds and says so.
        """
        problem = None if self._settings.autostart or self._dry_run else self._backend.problem()
        just_configured = time.monotonic() - self._configured_s < ROBOT_HEARD_S
        if problem is not None and not (just_configured and problem.code in UNHEARD_YET):
            raise ConfigError(f"Not activated: {problem.sentence}")

    def _is_braking(self) -> bool:
        braking = self._supervisor is not None and not self._supervisor.at_rest
        if braking:
            self.get_logger().warning("Refused: the arm is still braking. Try again once it stands still.")
        return braking

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
        """Forgets the card and the stream, once the arm stands still; the emergency stop and a fault stay."""
        if self._is_braking():
            return TransitionCallbackReturn.FAILURE
        self._forget()
        return super().on_cleanup(state)

    def _forget(self) -> None:
        if self._supervisor is not None:
            self._fault = self._supervisor.fault
        if self._backend is not None:
            self._backend.close()
        self._supervisor = self._backend = None

    def wind_down(self) -> bool:
        """Called before the process ends: brakes, and returns True once three commands have held the arm at rest."""
        if self._supervisor is None or not self._supervisor.is_sending:
            return True
        self._supervisor.pause()
        return self._holds >= LAST_HOLDS

    # Inputs ---------------------------------------------------------------------------------------------------

    @guarded
    def on_pose(self, pose: Pose, stamp_ns: int, frame: str) -> None:
        """Called with every measured pose."""
        if self._supervisor is not None:
            now_s = self._look_at_the_clock()
            self._supervisor.on_pose(pose, stamp_ns, frame, now_s)

    @guarded
    def on_invalid_pose(self, reason: str) -> None:
        """Called with every message of the measured pose that holds none."""
        self.get_logger().warning(reason, throttle_duration_sec=1.0)
        if self._supervisor is not None:
            self._supervisor.on_invalid_pose()

    @guarded
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

    @guarded
    def _on_instruction(self, message) -> None:
        if self._supervisor is not None:
            self._supervisor.on_instruction(conversions.to_text(message))

    @guarded
    def _on_estop(self, message) -> None:
        self._estop.on_topic(conversions.to_flag(message), time.monotonic())  # also without a card
        if self._supervisor is not None:
            self._on_tick()  # the next tick may be 20 ms away

    @guarded
    def _check_graph(self) -> None:
        self._estop.on_sources(self.count_publishers(topics.ESTOP))
        if self._supervisor is not None:
            self._supervisor.on_publishers(self._policies.count(), time.monotonic())

    def _look_at_the_clock(self) -> float:
        now_s = time.monotonic()
        self._supervisor.on_clock(self._now_ns(), now_s)
        return now_s

    # Services -------------------------------------------------------------------------------------------------

    def _offer(self, name: str, order: Callable[[Supervisor], tuple[bool, str]]) -> None:
        @guarded
        def on_request(self, request, response):
            if self._supervisor is None:
                return conversions.reply(response, False, f"Not configured. {self._board.report.sentence}")
            return conversions.reply(response, *order(self._supervisor))

        self.create_service(topics.Trigger, name, partial(on_request, self))

    def _start(self, supervisor: Supervisor) -> tuple[bool, str]:
        if not self._active:
            return False, "The node is not active; activate it first."
        supervisor.on_backend(self._problem())  # after a dry run, no tick has asked yet
        return supervisor.start(time.monotonic())

    def _reset(self, supervisor: Supervisor) -> tuple[bool, str]:
        done, sentence = supervisor.reset(time.monotonic())
        if done and self._backend is not None:
            self._backend.reset()
        return done, sentence

    @guarded
    def _on_set_dry_run(self, request, response):
        wanted = conversions.is_set_to(request)
        done, sentence = True, "Set; it counts once the node is configured."
        if self._supervisor is not None:
            done, sentence = self._supervisor.set_follows(not wanted, time.monotonic())
        if done:
            self._dry_run = wanted
            self.get_logger().warning(sentence)
        return conversions.reply(response, done, sentence)

    @guarded
    def _on_press_estop(self, request, response):
        pressed = conversions.is_set_to(request)
        self._estop.on_service(pressed)
        return conversions.reply(response, True, "Pressed." if pressed else "Released; reset and start must follow.")

    # Output ---------------------------------------------------------------------------------------------------

    @guarded
    def _on_tick(self) -> None:
        # After a late tick the timer catches up; two commands at once would be a speed that nobody asked for.
        if self._supervisor is None or time.monotonic() - self._last_tick_s < 0.5 / self._settings.rate_hz:
            return
        # Read together: the stamps of the commands are then as far apart as the times they were made for.
        stamp_ns, now_s = self._now_ns(), time.monotonic()
        self._last_tick_s = now_s
        self._supervisor.on_clock(stamp_ns, now_s)
        self._figures.on_tick(now_s)
        self._supervisor.on_backend(self._problem())
        command = self._supervisor.tick(now_s)
        verdict = self._supervisor.verdict(now_s)
        if command is not None:
            self._figures.on_command(now_s)
            self._commanded.publish(conversions.pose_message(command.safe.pose, stamp_ns, self._settings.base_frame))
            if not self._dry_run:
                self._send(command, stamp_ns)
            if command.started is not None:
                self._report_applied(command.started, stamp_ns)
            moves = command.safe.velocity.any() or command.safe.angular_velocity.any()
            self._holds = 0 if moves else self._holds + 1
        self._board.set(State(verdict.state), verdict.code, verdict.sentence)

    def _problem(self) -> Problem | None:
        """What keeps commands from the robot; a backend that fails to say so is a problem too."""
        try:
            return None if self._dry_run else self._backend.problem()
        except Exception:  # noqa: BLE001 - the arm must still be braked and held
            self.on_unexpected()
            return Problem("INTERNAL", UNEXPECTED, latched=True)

    @guarded
    def _send(self, command: Command, stamp_ns: int) -> None:
        self._backend.send(command.safe, stamp_ns)

    def on_unexpected(self) -> None:
        """Called in the handler of an exception that nobody foresaw: a fault, and the stream brakes and holds."""
        self.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
        if self._supervisor is not None:
            self._supervisor.on_internal_error()
        if self._board.report.state != State.ESTOP:
            fault = self._supervisor.fault if self._supervisor is not None else None
            self._board.set(State.FAULT, "INTERNAL", fault.sentence if fault else UNEXPECTED)

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
