"""Grippers that are moved by actions: one goal per change, half widths where the server wants them, faults told."""

from dataclasses import replace

import pytest
from backend_bench import HOME, Bench, parameters

from openvla_core.types import SafeAction

OPEN, CLOSED, ALONE = (SafeAction(HOME, opening) for opening in (1.0, 0.0, None))
HELD_OPEN, HELD_CLOSED = (replace(command, active=False) for command in (OPEN, CLOSED))


def fingers(world, **values):
    from franka_gripper import FakeFrankaGripper

    return world.add(FakeFrankaGripper(parameter_overrides=parameters(values)))


def gripper_bench(world, kind: str, **own) -> Bench:
    prefix = "franka_gripper" if kind == "franka" else kind
    return Bench(world, "crisp", gripper=kind, **{f"{prefix}.{key}": value for key, value in own.items()})


def tick_until(bench, command, condition, what: str) -> None:
    def ticked() -> bool:
        bench.backend.send(command, bench.now_ns())
        bench.world.executor.spin_once(timeout_sec=0.01)
        return bool(condition())

    bench.world.wait_for(ticked, what)


def gripper_problem(bench):
    return bench.backend._gripper.problem()


def settle(bench, command, ticks: int = 30) -> None:
    for _ in range(ticks):
        bench.backend.send(command, bench.now_ns())
        bench.world.executor.spin_once(timeout_sec=0.01)


def test_the_franka_hand_gets_one_goal_per_change(world):
    hand = fingers(world)
    bench = gripper_bench(world, "franka")
    settle(bench, ALONE)
    assert not hand.goals, "None leaves the gripper alone"
    tick_until(bench, CLOSED, lambda: hand.width == 0.0, "the fingers close")
    settle(bench, CLOSED)
    tick_until(bench, OPEN, lambda: hand.width == 0.079, "the fingers open")
    settle(bench, OPEN)
    settle(bench, ALONE)
    (first, grasp), (second, move) = hand.goals
    assert (first, second) == ("grasp", "move")
    assert (grasp.width, grasp.speed, grasp.force) == (0.0, 0.1, 30.0)
    assert (grasp.epsilon.inner, grasp.epsilon.outer) == (0.08, 0.08)
    assert (move.width, move.speed) == (0.079, 0.1)
    assert gripper_problem(bench) is None


def test_gripper_command_means_half_of_the_width(world):
    hand = fingers(world)
    bench = gripper_bench(world, "gripper_command")
    tick_until(bench, CLOSED, lambda: hand.width == 0.0, "the fingers close")
    tick_until(bench, OPEN, lambda: hand.width == 0.079, "the fingers open")
    settle(bench, OPEN)
    (_, closing), (_, opening) = hand.goals
    assert closing.command.position == 0.0 and closing.command.max_effort == 30.0
    assert opening.command.position == 0.0395, "0 to 0.04 m, doubled by the server"
    assert gripper_problem(bench) is None


def test_the_nominal_width_is_beyond_what_a_hand_measured_and_would_be_refused(world):
    """The hand measures its widest gap at homing, a little below 0.08 m, and aborts what goes beyond."""
    fingers(world)
    bench = gripper_bench(world, "gripper_command", open_position=0.04)
    tick_until(bench, OPEN, lambda: gripper_problem(bench), "the goal is refused")


@pytest.mark.parametrize("kind", ["franka", "gripper_command"])
def test_closing_on_a_thing_is_no_fault(world, kind):
    """The server of the Franka hand aborts a GripperCommand that ends on anything thicker than 5 mm."""
    hand = fingers(world, object_width=0.04)
    bench = gripper_bench(world, kind)
    tick_until(bench, CLOSED, lambda: hand.width == 0.04, "the fingers hold the thing")
    settle(bench, CLOSED, 60)
    assert len(hand.goals) == 1 and gripper_problem(bench) is None


@pytest.mark.parametrize("kind", ["franka", "gripper_command"])
@pytest.mark.parametrize(
    ("fault", "words"), [("rejecting", "rejected"), ("blocked", "aborted"), ("silent", "no answer")]
)
def test_a_failing_gripper_is_tried_twice_then_told_and_the_arm_goes_on(world, kind, fault, words):
    hand = fingers(world, fault=fault)
    bench = gripper_bench(world, kind, timeout_s=0.3)
    poses: list = world.listen(*_poses())
    tick_until(bench, OPEN if fault == "blocked" else CLOSED, lambda: gripper_problem(bench), "the fault is told")
    problem = gripper_problem(bench)
    assert problem.code == "GRIPPER_FAULT" and words in problem.sentence and not problem.latched
    assert len(hand.goals) == 2
    count = len(poses)
    tick_until(bench, CLOSED, lambda: len(poses) > count + 3, "the arm is still commanded")
    settle(bench, OPEN)
    assert len(hand.goals) == 2, "no third try by itself"
    hand.set_parameters(parameters({"fault": ""}))
    bench.backend.reset()
    tick_until(bench, CLOSED, lambda: hand.width == 0.0, "it works again after a reset")
    assert gripper_problem(bench) is None


def _poses():
    from openvla_ros import topics

    return topics.PoseStamped, "target_pose", topics.COMMAND


def test_an_absent_gripper_is_told_without_stopping_the_arm(world):
    poses = world.listen(*_poses())
    bench = gripper_bench(world, "franka", timeout_s=0.2, name="/elsewhere")
    tick_until(bench, CLOSED, lambda: gripper_problem(bench), "the fault is told")
    assert "no action server" in gripper_problem(bench).sentence
    tick_until(bench, CLOSED, lambda: len(poses) > 3, "the arm is commanded")


@pytest.mark.parametrize("name", ["/franka_gripper", "/elsewhere"], ids=["silent", "absent"])
def test_a_dead_gripper_is_told_also_to_a_policy_that_keeps_changing_its_mind(world, name):
    """Every wish lasts for less than its motion may take."""
    hand = fingers(world, fault="silent")
    bench = gripper_bench(world, "franka", timeout_s=0.3, name=name)
    begun_ns = bench.now_ns()

    def is_told() -> bool:
        changes = (bench.now_ns() - begun_ns) // 200_000_000
        settle(bench, OPEN if changes % 2 else CLOSED, 1)
        return gripper_problem(bench) is not None

    bench.world.wait_for(is_told, "the fault is told")
    assert gripper_problem(bench).code == "GRIPPER_FAULT" and len(hand.goals) <= 4


def test_a_motion_that_works_forgives_the_failures_before(world):
    """A hand that cannot close on what lies between its fingers, and opens."""
    hand = fingers(world, fault="rejecting")
    bench = gripper_bench(world, "franka")
    for _ in range(3):
        hand.set_parameters(parameters({"fault": "rejecting"}))
        tick_until(bench, CLOSED, lambda: bench.backend._gripper._failures == 1, "a failure")
        hand.set_parameters(parameters({"fault": ""}))
        tick_until(bench, OPEN, lambda: bench.backend._gripper._failures == 0, "a motion that works")
    settle(bench, OPEN)
    assert gripper_problem(bench) is None


def test_the_newest_wish_waits_for_the_motion_in_progress(world):
    """These servers do not stop a motion for the next one."""
    hand = fingers(world, fault="silent")
    bench = gripper_bench(world, "franka", timeout_s=10.0)
    tick_until(bench, CLOSED, lambda: hand.goals, "the first goal")
    settle(bench, OPEN)
    assert len(hand.goals) == 1


# Holds: what the hand carries must not be dropped while nothing is carried out ----------------------------------------


def test_a_hold_asks_nothing_of_the_gripper(world):
    hand = fingers(world)
    bench = gripper_bench(world, "franka")
    settle(bench, HELD_OPEN, 60)
    assert not hand.goals
    tick_until(bench, OPEN, lambda: hand.width == 0.079, "the wish is sent once an action asks for it")


def test_a_wish_that_waited_for_a_motion_is_not_sent_in_a_hold(world):
    hand = fingers(world, fault="silent")
    bench = gripper_bench(world, "franka", timeout_s=0.3)
    tick_until(bench, CLOSED, lambda: hand.goals, "the first goal")
    settle(bench, OPEN, 3)
    tick_until(bench, HELD_OPEN, lambda: bench.backend._gripper._attempt is None, "the first goal is over")
    settle(bench, HELD_OPEN)
    assert [name for name, _ in hand.goals] == ["grasp"]
    tick_until(bench, OPEN, lambda: len(hand.goals) == 2, "the wish is sent when actions go on")


def test_the_second_try_waits_for_the_end_of_a_hold(world):
    hand = fingers(world, fault="rejecting")
    bench = gripper_bench(world, "franka")
    tick_until(bench, CLOSED, lambda: hand.goals, "the first try")
    settle(bench, HELD_CLOSED, 60)
    assert len(hand.goals) == 1 and gripper_problem(bench) is None
    tick_until(bench, CLOSED, lambda: gripper_problem(bench), "the second try fails as well")
    assert len(hand.goals) == 2 and "2 tries in a row failed" in gripper_problem(bench).sentence


def test_a_server_that_appears_in_a_hold_gets_no_goal(world):
    bench = gripper_bench(world, "franka", timeout_s=10.0)
    settle(bench, CLOSED)
    hand = fingers(world)
    ready = bench.backend._gripper._moves[False].client.server_is_ready
    tick_until(bench, HELD_CLOSED, ready, "the server is there")
    settle(bench, HELD_CLOSED)
    assert not hand.goals
    tick_until(bench, CLOSED, lambda: hand.width == 0.0, "the fingers close when actions go on")


def test_a_goal_in_progress_is_followed_up_in_a_hold(world):
    hand = fingers(world, fault="silent")
    bench = gripper_bench(world, "franka", timeout_s=0.3)
    tick_until(bench, CLOSED, lambda: hand.goals, "the goal")
    tick_until(bench, HELD_CLOSED, lambda: bench.backend._gripper._failures == 1, "its failure is noticed")


@pytest.mark.parametrize("sign", [replace(HELD_CLOSED, restarted=True), ALONE], ids=["restarted", "left alone"])
def test_a_gripper_opened_by_hand_is_commanded_again(world, sign):
    hand = fingers(world)
    bench = gripper_bench(world, "franka")
    tick_until(bench, CLOSED, lambda: hand.width == 0.0, "the fingers close")
    settle(bench, CLOSED)
    hand.width = 0.05
    settle(bench, sign, 1)
    tick_until(bench, CLOSED, lambda: hand.width == 0.0, "the fingers close again")
    settle(bench, CLOSED)
    assert len(hand.goals) == 2
