"""The real controller node on a private ROS domain, with an arm that follows its commands exactly."""

import math
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import rclpy
from controller_bench import CARD, HOME, REPOSITORY, Bench
from rclpy.lifecycle import TransitionCallbackReturn
from trajectory_msgs.msg import JointTrajectory

from openvla_core import supervisor
from openvla_core.arm_kinematics import load_arm
from openvla_core.supervisor import State as CoreState
from openvla_core.types import Pose
from openvla_ros import controller_node, conversions, topics
from openvla_ros.controller_orders import press_estop
from openvla_ros.topics import State

TIMEOUT_S = 0.3  # 1.5 periods at 5 Hz
MARGIN_S = 0.2
GAP_S = supervisor.LONGEST_GAP_S


@pytest.fixture(scope="module")
def domain():
    rclpy.init(args=[])  # in the private domain that conftest.py chose
    yield
    rclpy.try_shutdown()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that does not run this process for a moment must not add a hold of its own to the one under test."""
    monkeypatch.setattr(supervisor, "LONGEST_GAP_S", 30.0)


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
    assert 0.001 < forward <= 0.03 + 1e-6 and np.allclose(aside, 0.0, atol=1e-6)
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


def remembered(bench, monkeypatch) -> list:
    """What the backend is told from now on: (stamp_ns, command)."""
    sent, send = [], bench.controller.backend.send
    monkeypatch.setattr(
        bench.controller.backend, "send", lambda safe, stamp_ns: (sent.append((stamp_ns, safe)), send(safe, stamp_ns))
    )
    return sent


def test_an_emergency_stop_brakes_at_once_and_within_the_limits(bench, monkeypatch):
    """Waiting for the next tick once cost up to 20 ms at full speed."""
    sent, inputs, limits = remembered(bench, monkeypatch), bench.controller.inputs, bench.controller.settings
    in_motion(bench)
    count = len(sent)
    for _ in range(20):
        inputs._on_estop(topics.Bool(data=True))
    assert len(sent) == count + 1, "one command in the callback, and none more for a flood of presses"
    assert sent[count - 1][1].active and not sent[count][1].active
    bench.until(lambda: bench.controller.supervisor.at_rest and len(sent) > count + 5, "standstill")
    acceleration = max(limits.stop_acceleration, limits.max_acceleration)
    for (before_ns, before), (now_ns, now) in pairwise(sent[count - 2 :]):
        passed_s = (now_ns - before_ns) * 1e-9
        assert passed_s > 0.0
        assert np.linalg.norm(now.pose.position - before.pose.position) <= limits.max_speed * passed_s + 2e-4
        assert np.linalg.norm(now.velocity - before.velocity) <= acceleration * passed_s + 4e-3


def test_an_emergency_stop_by_the_service_brakes_at_once_too(bench, monkeypatch):
    sent = remembered(bench, monkeypatch)
    in_motion(bench)
    count = len(sent)
    press_estop(bench.controller, topics.SetBool.Request(data=True), topics.SetBool.Response())
    assert len(sent) == count + 1 and not sent[-1][1].active


def test_a_flood_of_poses_costs_a_tick_no_more_than_the_queue_is_long(bench, monkeypatch):
    """Each message once woke the executor up: 1,000 poses per second left 38 of 50 commands."""
    supervisor, stamps, per_tick = bench.controller.supervisor, [], []
    on_pose = supervisor.on_pose
    monkeypatch.setattr(supervisor, "on_pose", lambda pose, stamp_ns, *more: (
        stamps.append(stamp_ns), on_pose(pose, stamp_ns, *more)
    ))  # fmt: skip
    bench.executor.remove_node(bench.controller)  # nothing but the ticks below
    for _ in range(200):
        bench._publish_pose()
    flooded_ns = bench.now_ns
    newest_ns = bench.now_ns
    bench._pose.publish(conversions.pose_message(bench.arm, newest_ns, "panda_link0"))

    def tick() -> bool:
        count = len(stamps)
        bench.controller.tick()
        per_tick.append(len(stamps) - count)
        return newest_ns in stamps

    bench.until(tick, "the newest pose")
    assert max(per_tick) <= topics.MEASURED.depth and len(stamps) < 200
    assert stamps == sorted(stamps) and flooded_ns > stamps[0]
    bench.executor.add_node(bench.controller)


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
    assert bench.until_code("STOPPED").state == State.STANDBY and not bench.commands, "not before a person says start"
    bench.act(age_s=0.02)
    heard = len(bench.reports)
    bench.until(lambda: len(bench.reports) >= heard + 2, "two more heartbeats of the status")
    assert not bench.commands
    assert bench.call("start")[0]
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


def test_the_emergency_stop_is_pressed_and_released_by_a_service_too(bench):
    assert bench.call("estop", topics.SetBool, data=True)[0]
    assert bench.until_code("ESTOP").state == State.ESTOP
    assert bench.call("reset")[0] is False
    assert bench.call("estop", topics.SetBool, data=False)[0]
    bench.until(lambda: bench.call("reset")[0], "reset refused")
    assert bench.until_code("STOPPED").state == State.STANDBY


def test_an_emergency_stop_whose_source_leaves_counts_as_pressed(bench):
    bench.press_estop(False)
    bench.until(lambda: bench.controller.count_publishers(topics.ESTOP) == 1, "the source")
    bench.more_commands(10)
    bench.node.destroy_publisher(bench._estop)
    assert bench.until_code("ESTOP_LOST").state == State.ESTOP


def test_a_required_emergency_stop_that_falls_silent_counts_as_pressed(start):
    bench = start(estop_required=True, start_when_active=False, estop_timeout_s=0.5)
    assert bench.until_code("ESTOP_LOST").state == State.ESTOP
    assert bench.call("start")[0] is False
    beat = bench.node.create_timer(0.1, lambda: bench.press_estop(False))
    bench.until(lambda: bench.call("start")[0], "start with a source that speaks")
    bench.until_code("WAITING")
    beat.cancel()
    assert bench.until_code("ESTOP_LOST").state == State.ESTOP


def test_a_second_policy_amid_an_action_is_a_fault(bench):
    bench.act(age_s=0.02)
    bench.until_code("OK")
    rogue = bench.node.create_publisher(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.ACTION)

    def acts_until_noticed() -> bool:
        if not bench.applied or bench.now_ns - bench.applied[-1].stamp_ns > 100_000_000:
            bench.act(age_s=0.02)
        return bench.reports[-1].code == "MULTI_PUB"

    bench.until(acts_until_noticed, "MULTI_PUB")
    assert bench.reports[-1].state == State.FAULT
    bench.node.destroy_publisher(rogue)
    bench.until(lambda: bench.call("reset")[0], "reset refused")


def test_a_pose_that_jumps_is_a_fault_and_is_not_followed(bench):
    held = bench.more_commands(1)[-1].position
    bench.arm_follows = False
    bench.arm = Pose(HOME.position + np.array([0.0, 0.2, 0.0]), HOME.quaternion)
    assert bench.until_code("POSE_JUMP").state == State.FAULT
    assert np.array_equal(bench.more_commands(25)[-1].position, held)


def test_three_poses_that_are_none_are_a_fault(bench):
    bench.arm_follows = False
    bench.arm = Pose(np.full(3, math.nan), HOME.quaternion)
    assert bench.until_code("POSE_INVALID").state == State.FAULT


def test_without_a_robot_the_controller_says_which_topic_nobody_listens_to_and_does_not_start(start):
    bench = start(start_when_active=False)
    bench.node.destroy_subscription(bench.target)
    report = bench.until_code("BACKEND_ABSENT")
    assert report.state == State.STANDBY
    assert "/robot/target_pose" in report.sentence and "geometry_msgs/PoseStamped" in report.sentence
    started, sentence = bench.call("start")
    assert not started and "/robot/target_pose" in sentence


def test_activation_by_hand_is_refused_without_a_robot(start):
    bench = start(autostart=False)
    bench.node.destroy_subscription(bench.target)
    assert bench.controller.trigger_configure() == TransitionCallbackReturn.SUCCESS
    bench.until_code("BACKEND_ABSENT")
    assert bench.controller.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert "/robot/target_pose" in bench.until_code("BACKEND_ABSENT").sentence
    assert not bench.commands


def test_activation_by_hand_does_not_wait_for_messages_it_cannot_hear(start, monkeypatch):
    """No subscription is served while a transition runs, and no emergency stop is heard."""
    bench = start(autostart=False, backend="joint_trajectory", arm="fr3")
    bench.node.create_subscription(JointTrajectory, "fr3_arm_controller/joint_trajectory", lambda message: None, 1)
    controller = bench.controller
    assert controller.trigger_configure() == TransitionCallbackReturn.SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr(controller_node.time, "sleep", lambda seconds: pytest.fail("a transition waits"))
        assert controller.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert "joint_states" in bench.until_code("JOINTS_STALE").sentence
    assert not bench.commands
    # Once there was time to hear them, joint states that are missing are a reason not to begin.
    monkeypatch.setattr(controller_node, "ROBOT_HEARD_S", 0.0)
    assert controller.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert controller.trigger_activate() == TransitionCallbackReturn.FAILURE


def in_motion(bench) -> None:
    """Acts until the arm moves: on a busy machine one action may be over before that is seen."""
    start = bench.arm.position
    acted_ns = 0

    def moves() -> bool:
        nonlocal acted_ns
        if bench.arm.position[0] > start[0] + 0.01 and not bench.controller.supervisor.at_rest:
            return True
        if bench.now_ns - acted_ns > 150_000_000:
            acted_ns = bench.now_ns
            bench.act((0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), age_s=0.02)
        return False

    bench.until(moves, "motion")


def test_a_controller_that_slept_holds_where_it_is_until_the_next_action(bench, monkeypatch):
    bench.act(age_s=0.02)
    bench.until(lambda: bench.applied, "no applied action")
    monkeypatch.setattr(supervisor, "LONGEST_GAP_S", GAP_S)
    time.sleep(1.2 * GAP_S)  # the controller, and the arm with it
    assert bench.until_code("TICK_LATE").state == State.HOLD
    bench.more_commands(10)  # the pose that is measured then becomes the commanded one
    assert bench.stands_still()
    in_motion(bench)


def test_neither_cleanup_nor_activation_cuts_the_braking_short(bench, monkeypatch):
    controller, sent = bench.controller, []
    send = controller.backend.send
    monkeypatch.setattr(controller.backend, "send", lambda safe, stamp_ns: (sent.append(safe), send(safe, stamp_ns)))
    in_motion(bench)
    assert controller.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert controller.trigger_cleanup() == TransitionCallbackReturn.FAILURE
    assert controller.trigger_activate() == TransitionCallbackReturn.FAILURE
    bench.until_code("STOPPED")
    bench.until(lambda: controller.trigger_cleanup() == TransitionCallbackReturn.SUCCESS, "cleanup at rest")
    assert not sent[-1].velocity.any() and any(safe.velocity.any() for safe in sent), "the last command is at rest"


def begin_anew(bench) -> None:
    """From active to active through all transitions, with a new supervisor."""
    controller = bench.controller
    assert controller.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    bench.until(lambda: controller.trigger_cleanup() == TransitionCallbackReturn.SUCCESS, "cleanup")
    assert controller.trigger_configure() == TransitionCallbackReturn.SUCCESS
    bench.until(lambda: controller.trigger_activate() == TransitionCallbackReturn.SUCCESS, "activation")
    bench.reports.clear()


def test_an_emergency_stop_stays_latched_through_cleanup_and_configure(bench):
    assert bench.call("estop", topics.SetBool, data=True)[0]
    bench.until_code("ESTOP")
    assert bench.call("estop", topics.SetBool, data=False)[0]
    begin_anew(bench)
    assert bench.until_code("ESTOP").state == State.ESTOP
    assert bench.call("start")[0] is False
    bench.until(lambda: bench.call("reset")[0], "reset refused")
    assert bench.call("start")[0]
    bench.until_code("WAITING")


def test_a_fault_stays_latched_through_cleanup_and_configure(bench):
    bench.act([math.nan] * 7)
    bench.until_code("ACT_NONFINITE")
    begin_anew(bench)
    assert bench.until_code("ACT_NONFINITE").state == State.FAULT
    assert bench.call("start")[0] is False
    bench.until(lambda: bench.call("reset")[0], "reset refused")
    begin_anew(bench)
    bench.until_code("WAITING")


def fails(*arguments, **named):
    raise ZeroDivisionError("nobody foresaw this")


@pytest.mark.parametrize("broken", ["problem", "send_once", "input"])
def test_an_unexpected_error_brakes_and_is_a_fault(bench, monkeypatch, broken):
    in_motion(bench)
    backend = bench.controller.backend
    with monkeypatch.context() as patch:
        if broken == "problem":
            patch.setattr(backend, "problem", fails)
        elif broken == "send_once":
            send = backend.send
            patch.setattr(backend, "send", lambda *given: (setattr(backend, "send", send), fails()))
        else:
            patch.setattr(conversions, "to_text", fails)
            bench.node.create_publisher(topics.String, topics.POLICY_INSTRUCTION, topics.LATCHED).publish(
                topics.String(data="x")
            )
        assert bench.until_code("INTERNAL").state == State.FAULT
        bench.more_commands(25)  # it brakes
        assert bench.stands_still()
        assert bench.call("start")[0] is False
    bench.until(lambda: bench.call("reset")[0], "reset refused")
    bench.until_code("WAITING")


def test_a_service_that_fails_unexpectedly_says_no(bench, monkeypatch):
    monkeypatch.setattr(bench.controller.supervisor, "pause", fails)
    done, sentence = bench.call("pause")
    assert not done and "log" in sentence
    assert bench.until_code("INTERNAL").state == State.FAULT


def test_the_pose_may_come_from_joint_angles(start, tmp_path):
    """A WidowX publishes no pose of its tool."""
    arm = load_arm("wx250s")
    card = tmp_path / "card.yaml"
    card.write_text(CARD.read_text().replace("tool_link: panda_hand_tcp", f"tool_link: {arm.tool_link}"))
    joints = np.array([0.0, -0.3, 0.3, 0.0, 0.6, 0.0])
    bench = start(
        pose_source="joints", arm="wx250s", base_frame=arm.base_link, tool_link=arm.tool_link, dry_run=True,
        convention=str(card), workspace_low=[-0.6, -0.6, 0.0], workspace_high=[0.6, 0.6, 0.8],
    )  # fmt: skip
    publisher = bench.node.create_publisher(topics.JointState, topics.JOINT_STATES, topics.RECORD)

    def publish() -> None:
        gripper = conversions.joint_state_message(["gripper"], np.zeros(1), np.zeros(1), bench.now_ns)
        publisher.publish(gripper)
        names = [*arm.joint_names, "gripper"]
        publisher.publish(conversions.joint_state_message(names, np.append(joints, 0), np.zeros(7), bench.now_ns))

    bench.node.create_timer(0.02, publish)
    bench.until_code("WAITING")
    bench.until(lambda: bench.previews, "a command")
    assert np.allclose(bench.previews[0].position, arm.forward(joints).position, atol=1e-9)


def test_diagnostics_tell_ticks_latencies_and_reasons(bench):
    heard = []
    bench.node.create_subscription(topics.DiagnosticArray, topics.DIAGNOSTICS, heard.append, 10)
    bench.act((0.08, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), age_s=0.12)
    bench.until(lambda: bench.applied, "no applied action")
    bench.act(age_s=3.0)

    def values() -> dict[str, str]:
        return {pair.key: pair.value for pair in heard[-1].status[0].values} if heard else {}

    bench.until(lambda: values().get("refused: OBS_STALE") == "1", "the refused action")
    told = values()
    buckets = [int(value) for key, value in told.items() if key.startswith("photon_to_command_")]
    assert len(buckets) == 8 and sum(buckets) == 1
    assert told["clipped: step shortened to 0.05 m"] == "1"
    assert 0.0 < float(told["tick_p50_ms"]) <= float(told["tick_p99_ms"])
    assert told["tick_overruns"].isdigit()
