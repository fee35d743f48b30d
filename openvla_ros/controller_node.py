"""The controller node: action chunks in, a bounded 50 Hz stream of commands out. Its own process, without torch.

It carries messages to and from the supervisor, which decides about motion; nothing here does.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from openvla_core.config import setting
from openvla_core.conventions import load_convention
from openvla_core.errors import ActionError
from openvla_core.supervisor import Accepted, Supervisor, SupervisorSettings
from openvla_ros import backends, conversions, topics
from openvla_ros.conversions import Applied
from openvla_ros.node_support import RateWindow, StatusBoard, autostart, run, steady_timer, transition
from openvla_ros.parameters import declare_settings
from openvla_ros.topics import State

PUBLISHER_CHECK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ControllerSettings(SupervisorSettings):
    """Parameters of controller_node: the limits of the robot and how it is reached. Fixed while the node runs."""

    convention: str = setting("", "Path of the convention card that gives the actions their meaning; required")
    backend: str = setting("sim", "How commands reach the robot", choices=backends.NAMES)
    dry_run: bool = setting(
        True, "At the start, publish everything except commands to the robot; ~/set_dry_run changes it later"
    )
    rate_hz: float = setting(50.0, "Commands per second", unit="Hz", minimum=20.0, maximum=200.0)
    autostart: bool = setting(True, "Configure and activate without being asked")


class ControllerNode(LifecycleNode):
    """Configure loads the card and checks the limits, activate allows motion, deactivate brakes and falls silent."""

    def __init__(self, **options) -> None:
        super().__init__("controller_node", **options)
        self._settings = declare_settings(self, ControllerSettings)
        self._supervisor: Supervisor | None = None
        self._backend: backends.Backend | None = None
        self._dry_run = self._settings.dry_run
        self._estop_pressed = False
        self._active = False
        self._ticks = RateWindow(2.0)
        self._photon_to_command = RateWindow(30.0)
        self._last_tick_s = 0.0

        self._applied = self.create_publisher(topics.AppliedAction, topics.APPLIED_ACTION, topics.RECORD)
        self._commanded = self.create_publisher(topics.PoseStamped, topics.COMMANDED_POSE, topics.COMMAND)
        self._board = StatusBoard(self, self._measure, self._details)
        self.create_subscription(topics.PoseStamped, topics.CURRENT_POSE, self._on_pose, topics.SENSOR)
        # Twice: a volatile publisher reaches only the first, what a latched one said before we started only the second.
        for quality in (topics.RECORD, topics.LATCHED):
            self.create_subscription(topics.Bool, topics.ESTOP, self._on_estop, quality)
        self._chunks = self.create_subscription(
            topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self._on_chunk, topics.COMMAND
        )
        self._offer(topics.START, self._start)
        self._offer(topics.STOP, lambda supervisor: supervisor.stop())
        self._offer(topics.PAUSE, lambda supervisor: supervisor.pause())
        self._offer(topics.RESET, lambda supervisor: supervisor.reset(time.monotonic()))
        self.create_service(topics.SetBool, topics.SET_DRY_RUN, self._on_set_dry_run)
        steady_timer(self, 1.0 / self._settings.rate_hz, self._on_tick)
        steady_timer(self, PUBLISHER_CHECK_S, self._check_publishers)
        if self._settings.autostart:
            autostart(self)

    # Lifecycle ------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the convention card and makes the backend; without both there is nothing to activate."""
        return transition(self, self._board, self._configure)

    def _configure(self) -> None:
        card = load_convention(self._settings.convention)
        supervisor = Supervisor(self._settings, card)
        supervisor.on_estop(self._estop_pressed)
        self._backend = backends.make_backend(self._settings.backend, self, self._settings)
        self._supervisor = supervisor
        self.get_logger().info(
            f"convention {card.name!r} at {card.rate_hz:g} Hz, backend {self._settings.backend!r}, "
            f"{'dry run: nothing is sent to the robot' if self._dry_run else 'commands go to the robot'}"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allows motion."""
        if self._supervisor is None or not self._supervisor.start()[0]:
            return TransitionCallbackReturn.FAILURE
        self._active = True
        return super().on_activate(state)

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

    # Inputs ---------------------------------------------------------------------------------------------------

    def _on_pose(self, message) -> None:
        try:
            pose = conversions.to_pose(message)
        except ActionError as error:
            # Not counted as a pose: a driver that sends nothing better soon counts as silent.
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        if self._supervisor is not None:
            frame = conversions.frame_of(message)
            self._supervisor.on_pose(pose, conversions.stamp_ns(message), frame, time.monotonic())

    def _on_chunk(self, message) -> None:
        if self._supervisor is None:
            return
        self._check_publishers()
        try:
            chunk = conversions.to_chunk(message)
        except ActionError as error:
            self._supervisor.on_malformed(str(error))
            return
        self._supervisor.on_chunk(chunk, self._now_ns(), time.monotonic())

    def _on_estop(self, message) -> None:
        # Remembered even without a card, so that a later configure starts in the emergency stop.
        self._estop_pressed = conversions.to_flag(message)
        if self._supervisor is not None:
            self._supervisor.on_estop(self._estop_pressed)

    def _check_publishers(self) -> None:
        if self._supervisor is not None:
            self._supervisor.on_publishers(self.count_publishers(self._chunks.topic_name))

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
        return supervisor.start()

    def _on_set_dry_run(self, request, response):
        wanted = conversions.is_set_to(request)
        if self._dry_run and not wanted and self._supervisor is not None:
            # The arm did not follow the dry run; its first real command must be where it is.
            done, reason = self._supervisor.resync(time.monotonic())
            if not done:
                return conversions.reply(response, False, f"{reason} Still a dry run.")
        self._dry_run = wanted
        sentence = "Dry run: nothing is sent to the robot." if self._dry_run else "Commands go to the robot."
        self.get_logger().warning(sentence)
        return conversions.reply(response, True, sentence)

    # Output ---------------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        now_s = time.monotonic()
        # After a late tick the timer catches up; two commands at once would be a speed that nobody asked for.
        if self._supervisor is None or now_s - self._last_tick_s < 0.5 / self._settings.rate_hz:
            return
        self._last_tick_s = now_s
        command = self._supervisor.tick(now_s)
        verdict = self._supervisor.verdict(now_s)
        if command is not None:
            self._ticks.add(now_s=now_s)
            stamp_ns = self._now_ns()
            self._commanded.publish(conversions.pose_message(command.safe.pose, stamp_ns, self._settings.base_frame))
            if self._backend is not None and not self._dry_run:
                self._backend.send(command.safe, stamp_ns)
            if command.started is not None:
                self._report_applied(command.started, stamp_ns)
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
        self._photon_to_command.add(applied.photon_to_command_s)
        self._applied.publish(conversions.applied_message(applied))

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _measure(self) -> dict:
        supervisor = self._supervisor
        return {
            "rate_hz": self._ticks.rate_hz(),
            "latency_p50_ms": self._photon_to_command.percentile_ms(50),
            "latency_p95_ms": self._photon_to_command.percentile_ms(95),
            "clip_rate": supervisor.clip_rate if supervisor else 0.0,
        }

    def _details(self) -> dict[str, str]:
        supervisor = self._supervisor
        return {
            "dry_run": str(self._dry_run),
            "action_rate_hz": f"{self._photon_to_command.rate_hz():.2f}",
            "accepted": str(supervisor.accepted_count if supervisor else 0),
            "clipped": str(supervisor.clipped_count if supervisor else 0),
            "refused": str(supervisor.refused_count if supervisor else 0),
        }


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is told to stop; returns the exit code of the process."""
    return run(ControllerNode, args)


if __name__ == "__main__":
    sys.exit(main())
