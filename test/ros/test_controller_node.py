"""The real controller node on a private ROS domain, with an arm that follows its commands exactly."""

import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from openvla_core.supervisor import State as CoreState
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.controller_node import ControllerNode
from openvla_ros.conversions import Chunk
from openvla_ros.topics import State

REPOSITORY = Path(__file__).resolve().parents[2]
CARD = REPOSITORY / "config" / "conventions" / "sim_tabletop.yaml"
HOME = Pose(np.array([0.45, 0.0, 0.30]), np.array([1.0, 0.0, 0.0, 0.0]))
FORWARD = (0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
TIMEOUT_S = 0.3  # 1.5 periods at 5 Hz
MARGIN_S = 0.2
PATIENCE_S = 60.0
# Ages are generous, so that a busy machine does not add holds of its own to the one under test.
PARAMETERS = {
    "convention": str(CARD),
    "dry_run": False,
    "start_when_active": True,
    "max_speed": 0.4,
    "max_acceleration": 3.0,
    "max_observation_age_s": 1.0,
    "max_pose_age_s": 0.5,
    "max_tracking_error": 0.3,
}


class Bench:
    """The controller, a fake arm and a fake policy, spun by one executor."""

    def __init__(self, **parameters) -> None:
        values = {**PARAMETERS, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.controller = ControllerNode(parameter_overrides=overrides)
        self.node = rclpy.create_node("bench")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.controller)
        self.executor.add_node(self.node)
        self.arm = HOME
        self.arm_follows = True
        self.commands: list[tuple[int, Pose]] = []  # (stamp_ns, pose) as the robot gets them
        self.grippers: list[float] = []
        self.previews: list[Pose] = []
        self.applied: list[conversions.Applied] = []
        self.reports: list[conversions.StatusReport] = []
        self.sequence = -1

        node = self.node
        self._pose = node.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
        self._chunk = node.create_publisher(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.COMMAND)
        self._estop = node.create_publisher(topics.Bool, topics.ESTOP, topics.RECORD)
        node.create_subscription(topics.PoseStamped, topics.TARGET_POSE, self._on_target, topics.RECORD)
        node.create_subscription(
            topics.Float64, topics.GRIPPER_COMMAND, lambda m: self.grippers.append(m.data), topics.RECORD
        )
        self._listen("applied_action", topics.AppliedAction, lambda m: self.applied.append(conversions.to_applied(m)))
        self._listen("status", topics.Status, lambda m: self.reports.append(conversions.to_status(m)))
        self._listen("commanded_pose", topics.PoseStamped, lambda m: self.previews.append(conversions.to_pose(m)))
        node.create_timer(0.02, self._publish_pose)

    def _listen(self, name, kind, callback) -> None:
        qos = topics.LATCHED if name == "status" else topics.RECORD
        self.node.create_subscription(kind, f"controller_node/{name}", callback, qos)

    def close(self) -> None:
        self.executor.shutdown()
        self.controller.destroy_node()
        self.node.destroy_node()

    @property
    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def _publish_pose(self) -> None:
        self._pose.publish(conversions.pose_message(self.arm, self.now_ns, "panda_link0"))

    def _on_target(self, message) -> None:
        pose = conversions.to_pose(message)
        assert conversions.frame_of(message) == "panda_link0"
        self.commands.append((conversions.stamp_ns(message), pose))
        if self.arm_follows:
            self.arm = pose

    def until(self, fact, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not fact():
            assert time.monotonic() < deadline, f"{what}; last status: {self.reports[-1:]}"
            self.executor.spin_once(timeout_sec=0.05)

    def until_code(self, code: str) -> conversions.StatusReport:
        self.until(lambda: self.reports and self.reports[-1].code == code, f"status {code} did not come")
        return self.reports[-1]

    def ready(self) -> "Bench":
        """Waits until the arm is held and the controller has measured it long enough to look back at an image."""
        self.until_code("WAITING")
        self.until(lambda: self._chunk.get_subscription_count() >= 1, "the controller does not listen")
        start_ns = self.now_ns
        self.until(lambda: self.now_ns - start_ns > 700_000_000 and self.commands, "no commands")
        return self

    def act(self, row=FORWARD, age_s=0.1, convention="sim_tabletop") -> None:
        self.sequence += 1
        actions = np.atleast_2d(np.array(row, dtype=np.float64))
        chunk = Chunk(
            stamp_ns=self.now_ns - round(age_s * 1e9),
            frame="base",
            session_id="bench",
            sequence=self.sequence,
            instruction="pick up the red cube",
            convention=convention,
            rate_hz=5.0,
            actions=actions,
            token_ids=np.zeros(actions.shape, dtype=np.int64),
            token_probabilities=np.ones(actions.shape),
        )
        self._chunk.publish(conversions.chunk_message(chunk))

    def press_estop(self, pressed: bool) -> None:
        self._estop.publish(topics.Bool(data=pressed))

    def call(self, name: str, kind=topics.Trigger, **request) -> tuple[bool, str]:
        client = self.node.create_client(kind, f"controller_node/{name}")
        self.until(client.service_is_ready, f"no service {name}")
        future = client.call_async(kind.Request(**request))
        self.until(future.done, f"{name} did not answer")
        return conversions.replied(future.result())

    def more_commands(self, count: int) -> list[Pose]:
        """The poses of the next commands."""
        have = len(self.commands)
        self.until(lambda: len(self.commands) >= have + count, "the stream of commands stopped")
        return [pose for _, pose in self.commands[have:]]

    def stands_still(self) -> bool:
        return len({pose.position.tobytes() + pose.quaternion.tobytes() for pose in self.more_commands(25)}) == 1


@pytest.fixture(scope="module")
def domain():
    rclpy.init(args=[])  # in the private domain that conftest.py chose
    yield
    rclpy.try_shutdown()


@pytest.fixture
def start(domain):
    benches = []

    def start(**parameters) -> Bench:
        benches.append(Bench(**parameters))
        return benches[-1]

    yield start
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(start):
    return start().ready()


def test_the_states_have_the_same_numbers_in_core_and_messages():
    assert {state.name: int(state) for state in CoreState} == {state.name: int(state) for state in State}


def test_an_action_moves_the_arm_by_its_translation_and_is_reported_once(bench):
    bench.act(age_s=0.05)
    bench.until(lambda: bench.applied, "no applied action")
    bench.until_code("ACTION_STALE")
    assert bench.stands_still()
    # A slow machine may not get there before the action times out, but never anywhere else.
    forward, *aside = bench.arm.position - HOME.position
    assert 0.005 < forward <= 0.03 + 1e-6 and np.allclose(aside, 0.0, atol=1e-6)
    (applied,) = bench.applied
    assert applied.sequence == 0 and not applied.reasons
    assert np.allclose(applied.translation, [0.03, 0.0, 0.0])
    assert 0.05 <= applied.photon_to_command_s <= 1.0
    assert applied.stamp_ns in [stamp for stamp, _ in bench.commands]
    assert bench.grippers and set(bench.grippers) == {1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_action_that_is_not_finite_moves_nothing_and_says_so_once(bench, value):
    before = bench.commands[-1][1]
    seen = len(bench.reports)
    bench.act((0.03, 0.0, value, 0.0, 0.0, 0.0, 1.0))
    report = bench.until_code("ACT_NONFINITE")
    assert report.state == State.FAULT and "NaN or infinity" in report.sentence
    bench.act()
    assert bench.stands_still()
    assert np.array_equal(bench.commands[-1][1].position, before.position)
    assert not bench.grippers and not bench.applied
    told = {(r.code, r.sentence) for r in bench.reports[seen:] if r.code != "WAITING"}
    assert told == {(report.code, report.sentence)}


def test_silence_of_the_policy_ends_in_a_hold_within_the_time_out(bench):
    for _ in range(3):
        count = len(bench.applied)
        bench.act(age_s=0.02)
        bench.until(lambda count=count: len(bench.applied) > count, "no applied action")
    report = bench.until_code("ACTION_STALE")
    assert report.state == State.HOLD
    held_ns, last_ns = report.stamp_ns, bench.applied[-1].stamp_ns
    stamps = [stamp for stamp, _ in bench.commands if stamp >= last_ns]
    longest_gap_s = max(np.diff(stamps)) * 1e-9
    assert (held_ns - last_ns) * 1e-9 <= TIMEOUT_S + longest_gap_s + MARGIN_S
    assert bench.stands_still()
    # After the hold began, only the braking distance is left: v^2 / 2a and one late tick.
    at_hold = next(pose for stamp, pose in bench.commands if stamp >= held_ns - 25_000_000)
    assert np.linalg.norm(bench.arm.position - at_hold.position) <= 0.4**2 / (2 * 3.0) + 0.4 * 0.05
    assert bench.arm.position[0] > HOME.position[0] + 0.005
    assert bench.grippers[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"age_s": 1.2}, "OBS_STALE"),
        ({"age_s": -5.0}, "OBS_FUTURE"),
        ({"convention": "bridge_orig"}, "CONVENTION_MISMATCH"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused_without_motion(bench, changes, code):
    bench.act(**changes)
    assert bench.until_code(code).state == State.HOLD
    assert bench.stands_still() and np.array_equal(bench.arm.position, HOME.position)
    assert not bench.applied
    bench.act(age_s=0.02)
    bench.until_code("OK")


def test_reset_clears_a_fault_and_starts_again_from_the_measured_pose(bench):
    bench.act([math.nan] * 7)
    bench.until_code("ACT_NONFINITE")
    assert bench.call("start")[0] is False
    pushed = Pose(HOME.position + np.array([0.0, 0.02, 0.0]), HOME.quaternion)
    bench.arm_follows = False
    bench.arm = pushed
    assert np.array_equal(bench.more_commands(25)[-1].position, HOME.position)
    assert bench.call("reset")[0]
    bench.until_code("WAITING")
    bench.until(lambda: np.array_equal(bench.commands[-1][1].position, pushed.position), "not held where it is")
    assert {pose.position.tobytes() for _, pose in bench.commands} == {
        HOME.position.tobytes(),
        pushed.position.tobytes(),
    }


def test_an_action_of_six_numbers_is_a_fault(bench):
    bench.act((0.03, 0.0, 0.0, 0.0, 0.0, 1.0))
    assert bench.until_code("ACT_SHAPE").state == State.FAULT
    assert bench.stands_still() and np.array_equal(bench.arm.position, HOME.position)


def test_a_second_publisher_of_actions_holds_the_arm_until_it_is_gone(bench):
    rogue = bench.node.create_publisher(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.COMMAND)
    assert bench.until_code("MULTI_PUB").state == State.HOLD
    bench.act(age_s=0.02)
    assert bench.stands_still() and not bench.applied
    bench.node.destroy_publisher(rogue)
    bench.until(lambda: bench.reports[-1].code != "MULTI_PUB", "still MULTI_PUB")
    bench.act(age_s=0.02)
    bench.until_code("OK")


def test_the_emergency_stop_is_latched(bench):
    bench.press_estop(True)
    assert bench.until_code("ESTOP").state == State.ESTOP
    assert bench.call("reset")[0] is False
    bench.press_estop(False)
    bench.act(age_s=0.02)
    assert bench.stands_still() and not bench.applied
    bench.until(lambda: bench.call("reset")[0], "reset refused")
    assert bench.until_code("STOPPED").state == State.STANDBY
    assert bench.call("start")[0]
    bench.until_code("WAITING")


def test_an_emergency_stop_pressed_before_the_start_is_known(start):
    """A controller that restarts must not need the button to be pressed again."""
    button = rclpy.create_node("button")
    publisher = button.create_publisher(topics.Bool, topics.ESTOP, topics.LATCHED)
    publisher.publish(topics.Bool(data=True))
    try:
        assert start().until_code("ESTOP").state == State.ESTOP
    finally:
        button.destroy_node()


def test_a_dry_run_shows_what_it_would_send_and_sends_nothing(start):
    bench = start(dry_run=True)
    bench.until_code("WAITING")
    bench.until(lambda: len(bench.previews) > 25, "no preview")
    assert not bench.commands
    bench.act(age_s=0.02)
    bench.until(lambda: np.linalg.norm(bench.previews[-1].position - HOME.position) > 0.005, "the preview moves")
    bench.until_code("ACTION_STALE")
    bench.until(lambda: bench.call("set_dry_run", topics.SetBool, data=False)[0], "at rest")
    bench.until(lambda: bench.commands, "no commands after the dry run")
    first = bench.commands[0][1]
    assert np.linalg.norm(first.position - HOME.position) < 1e-6, "the arm never left; its first command is where it is"


@pytest.mark.parametrize("transition", ["trigger_deactivate", "trigger_shutdown"])
def test_an_inactive_controller_cannot_be_started_by_a_service(bench, transition):
    bench.until_code("WAITING")
    getattr(bench.controller, transition)()
    bench.until_code("STOPPED")
    started, sentence = bench.call("start")
    assert not started and "activate" in sentence
    sent, heard = len(bench.commands), len(bench.reports)
    bench.act(age_s=0.02)
    bench.until(lambda: len(bench.reports) >= heard + 2, "two more heartbeats of the status")
    assert len(bench.commands) == sent and not bench.applied


def test_without_a_card_nothing_is_sent_and_the_status_says_what_to_set(start):
    bench = start(convention="")
    report = bench.until_code("CONVENTION_REFUSED")
    assert "parameter convention" in report.sentence
    assert bench.call("start") == (False, f"Not configured. {report.sentence}")
    assert not bench.commands and not bench.previews


def test_an_incomplete_card_is_refused_with_the_list_of_what_is_missing(start, tmp_path):
    card = tmp_path / "card.yaml"
    lines = CARD.read_text().splitlines()
    card.write_text("\n".join(line for line in lines if not line.startswith(("reference", "rate_hz"))))
    report = start(convention=str(card)).until_code("CONVENTION_REFUSED")
    assert "reference is missing" in report.sentence and "rate_hz is missing" in report.sentence


def test_the_controller_process_runs_without_torch():
    """It must outlive a crash of the GPU driver."""
    code = "import sys, openvla_ros.controller_node; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
