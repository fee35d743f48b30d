"""The controller node: action chunks in, a bounded 50 Hz stream of commands out. Its own process, without torch.

It carries messages to and from the supervisor, which decides about motion; nothing here does.
"""

import sys
import time
import traceback

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from openvla_core.conventions import load_convention
from openvla_core.errors import ConfigError
from openvla_core.estop import EmergencyStop
from openvla_core.supervisor import Supervisor, Verdict
from openvla_core.types import Problem
from openvla_ros import backends
from openvla_ros.controller_figures import ControllerFigures
from openvla_ros.controller_inputs import ControllerInputs
from openvla_ros.controller_orders import offer_services
from openvla_ros.controller_output import ControllerOutput
from openvla_ros.controller_settings import ControllerSettings
from openvla_ros.guard import UNEXPECTED, guarded
from openvla_ros.node_support import autostart, run, transition
from openvla_ros.pace import keep_pace
from openvla_ros.parameters import declare_settings
from openvla_ros.status_board import StatusBoard
from openvla_ros.timing import one_moment, steady_timer
from openvla_ros.topics import State

# What a robot that is there has said so soon after the node was configured; until then these are no problems.
ROBOT_HEARD_S = 1.3
UNHEARD_YET = ("JOINTS_STALE", "BACKEND_STARTING", "ROBOT_STATE_STALE")
LAST_HOLDS = 6  # commands at rest before the process ends; on a busy machine not every one is heard
SHORTEST_TICK = 0.25  # periods: after a late tick the timer catches up, and a command just sent needs no other


class ControllerNode(LifecycleNode):
    """Configure loads the card and checks the limits, activate allows motion, deactivate brakes and falls silent."""

    def __init__(self, **options) -> None:
        super().__init__("controller_node", **options)
        self.settings = declare_settings(self, ControllerSettings)
        self.supervisor: Supervisor | None = None
        self.backend: backends.Backend | None = None
        self.dry_run = self.settings.dry_run
        # Both outlive a card: neither deactivate nor cleanup is a reset.
        self.estop = EmergencyStop(self.settings.estop_required, self.settings.estop_timeout_s)
        self._fault: Verdict | None = None
        self._configured_s = 0.0
        self.active = False
        self._last_tick_s = 0.0

        self.figures = ControllerFigures(self.settings.rate_hz)
        self.board = StatusBoard(self, self._measure, self._details)
        self.output = ControllerOutput(self)
        self.inputs = ControllerInputs(self)
        offer_services(self)
        steady_timer(self, 1.0 / self.settings.rate_hz, self._on_timer)
        if self.settings.autostart:
            autostart(self)

    # The stream -----------------------------------------------------------------------------------------------

    @guarded
    def _on_timer(self) -> None:
        if time.monotonic() - self._last_tick_s >= SHORTEST_TICK / self.settings.rate_hz:
            self.tick()

    def tick(self) -> None:
        """Makes the command of this moment from all that is known; the time since the last one may be any."""
        if self.supervisor is None:
            return
        self.inputs.take_poses()
        # The stamps of the commands are then as far apart as the times they were made for.
        stamp_ns, now_s = one_moment(self.now_ns)
        self.supervisor.on_clock(stamp_ns, now_s)
        self.supervisor.on_backend(self.backend_problem())
        command = self.supervisor.tick(now_s)
        if command is not None:
            self.output.send(command, stamp_ns)
        verdict = self.supervisor.verdict(now_s)
        self.board.set(State(verdict.state), verdict.code, verdict.sentence)
        self.figures.on_tick(now_s, sent=command is not None)
        self._last_tick_s = now_s

    def backend_problem(self) -> Problem | None:
        """What keeps commands from the robot; a backend that fails to say so is a problem too."""
        try:
            return None if self.dry_run or self.backend is None else self.backend.problem()
        except Exception:  # noqa: BLE001 - the arm must still be braked and held
            self.on_unexpected()
            return Problem("INTERNAL", UNEXPECTED, latched=True)

    def on_unexpected(self) -> None:
        """Called in the handler of an exception that nobody foresaw: a fault, and the stream brakes and holds."""
        self.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
        if self.supervisor is not None:
            self.supervisor.on_internal_error()
        if self.board.report.state != State.ESTOP:
            fault = self.supervisor.fault if self.supervisor is not None else None
            self.board.set(State.FAULT, "INTERNAL", fault.sentence if fault else UNEXPECTED)

    def now_ns(self) -> int:
        """The ROS time."""
        return self.get_clock().now().nanoseconds

    # Lifecycle ------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the convention card and makes the backend; without both there is nothing to activate."""
        if self._is_braking():  # after an error, which leads here without cleanup
            return TransitionCallbackReturn.FAILURE
        return transition(self, self.board, self._configure)

    def _configure(self) -> None:
        self._forget()
        card = load_convention(self.settings.convention)
        supervisor = Supervisor(self.settings, card)
        supervisor.carry_over(self.estop, self._fault)
        self.backend = backends.make_backend(self.settings.backend, self, self.settings)
        supervisor.set_follows(not self.dry_run, time.monotonic())
        self.supervisor = supervisor
        self._configured_s = time.monotonic()
        self.get_logger().info(
            f"convention {card.name!r} at {card.rate_hz:g} Hz, backend {self.settings.backend!r}, "
            f"{'dry run: nothing is sent to the robot' if self.dry_run else 'commands go to the robot'}"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allows motion, at once or after ~/start; refused while the arm brakes or when nobody takes the commands."""
        if self.supervisor is None or self._is_braking():
            return TransitionCallbackReturn.FAILURE
        result = transition(self, self.board, self._require_robot)
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        self.active = True
        if self.settings.start_when_active:
            self.supervisor.start(time.monotonic())
        return super().on_activate(state)

    def _require_robot(self) -> None:
        """Raises ConfigError when the ticks since configure have found out that the robot takes no commands.

        It never waits: no command is made and no emergency stop heard meanwhile. A node that starts by itself asks
        nothing: the robot may still be starting too, and until it is there the node holds and says so.
        """
        problem = None if self.settings.autostart or self.dry_run else self.backend.problem()
        just_configured = time.monotonic() - self._configured_s < ROBOT_HEARD_S
        if problem is not None and not (just_configured and problem.code in UNHEARD_YET):
            raise ConfigError(f"Not activated: {problem.sentence}")

    def _is_braking(self) -> bool:
        braking = self.supervisor is not None and not self.supervisor.at_rest
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
        self.active = False
        if self.supervisor is not None:
            self.supervisor.stop()

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forgets the card and the stream, once the arm stands still; the emergency stop and a fault stay."""
        if self._is_braking():
            return TransitionCallbackReturn.FAILURE
        self._forget()
        return super().on_cleanup(state)

    def _forget(self) -> None:
        if self.supervisor is not None:
            self._fault = self.supervisor.fault
        if self.backend is not None:
            self.backend.close()
        self.supervisor = self.backend = None

    def wind_down(self) -> bool:
        """Called before the process ends: brakes, and returns True once a few commands have held the arm at rest."""
        if self.supervisor is None or not self.supervisor.is_sending:
            return True
        self.supervisor.pause()
        return self.output.holds >= LAST_HOLDS

    # Figures --------------------------------------------------------------------------------------------------

    def _measure(self) -> dict:
        clip_rate = self.supervisor.progress.clip_rate if self.supervisor else 0.0
        return {**self.figures.measured(), "clip_rate": clip_rate}

    def _details(self) -> dict[str, str]:
        details = {"dry_run": str(self.dry_run), **self.figures.details()}
        if self.supervisor is not None:
            progress = self.supervisor.progress
            details |= {"accepted": str(progress.accepted_count), "clipped": str(progress.clipped_count)}
            details |= {"refused": str(progress.refused_count)}
            details |= {f"refused: {code}": str(count) for code, count in progress.refused_codes.items()}
        return details


def controller_process() -> ControllerNode:
    """The node, alone in its process."""
    node = ControllerNode()
    keep_pace(node, node.settings.realtime_priority, lambda: node.supervisor is not None)
    return node


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is told to stop; returns the exit code of the process."""
    return run(controller_process, args, shared_memory=False)


if __name__ == "__main__":
    sys.exit(main())
