"""What the cards do to poses, compared with plain 4 x 4 matrices that share no code with the project."""

import math
from pathlib import Path

import numpy as np
import pytest

from openvla_core import rotations
from openvla_core.conventions import convention_from_mapping, load_convention
from openvla_core.types import Pose

CARDS = {
    path.stem: load_convention(path)
    for path in sorted((Path(__file__).parents[2] / "config/conventions").glob("*.yaml"))
}
EULER_DIFFERENCE_CARDS = [name for name, card in CARDS.items() if card.rotation == "euler_difference_xyz"]
# 1 % and 99 % quantiles of the actions of BridgeV2: metres, radians.
LOW = np.array([-0.028727, -0.041703, -0.026094, -0.080921, -0.092887, -0.207183])
HIGH = np.array([0.028310, 0.040855, 0.040162, 0.081920, 0.077929, 0.203826])
FRANKA_DOWN = np.diag([1.0, -1.0, -1.0])
WIDOWX_DOWN = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])


def axis_matrix(axis, angle):
    c, s = math.cos(angle), math.sin(angle)
    return np.array(
        {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
         "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis]
    )  # fmt: skip


def euler_matrix(angles):
    return axis_matrix("z", angles[2]) @ axis_matrix("y", angles[1]) @ axis_matrix("x", angles[0])


def euler_angles(matrix):
    """The textbook reading of a matrix; good for 1e-15 / cos(pitch)."""
    pitch = math.atan2(-matrix[2, 0], math.hypot(matrix[0, 0], matrix[1, 0]))
    return np.array([math.atan2(matrix[2, 1], matrix[2, 2]), pitch, math.atan2(matrix[1, 0], matrix[0, 0])])


def vector_matrix(vector):
    """Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def quaternion_matrix(q):
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def expected(mapping, row, start):
    """The pose (4, 4) after the action `row` from the pose `start` (4, 4), straight from the words of the card."""
    position = row[:3] * mapping["translation_scale"]
    numbers = row[3:6] * mapping["rotation_scale"]
    orientation = start[:3, :3]
    end = np.eye(4)
    if mapping["rotation"] == "euler_difference_xyz":
        default = quaternion_matrix(mapping["default_rotation"])
        end[:3, :3] = euler_matrix(euler_angles(orientation @ default.T) + numbers) @ default
    else:
        turn = {"euler_xyz": euler_matrix, "rotation_vector": vector_matrix}[mapping["rotation"]](numbers)
        end[:3, :3] = orientation @ turn if mapping["composition"] == "tool_axes" else turn @ orientation
    end[:3, 3] = start[:3, 3] + (orientation @ position if mapping["composition"] == "tool_axes" else position)
    return end


def homogeneous(pose):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = quaternion_matrix(pose.quaternion), pose.position
    return matrix


def after(card, row, pose):
    action = card.action(row, pose)
    return rotations.moved(pose, action.translation, action.rotation)


def row_of(card, numbers, gripper=1.0):
    """Metres and radians (6,) in the units of the card."""
    return np.array([*numbers[:3] / card.translation_scale, *numbers[3:] / card.rotation_scale, gripper])


def random_pose(generator, card=None):
    """Any pose; away from the gimbal lock of the card, where the textbook formula of this test loses digits."""
    while True:
        quaternion = generator.normal(size=4)
        pose = Pose(generator.uniform(-0.6, 0.6, 3), quaternion / np.linalg.norm(quaternion))
        if card is None or abs(math.cos(card._angles(pose.quaternion)[1])) > 1e-3:
            return pose


@pytest.mark.parametrize("name", CARDS)
def test_an_action_moves_the_pose_as_matrices_say(name):
    card, generator = CARDS[name], np.random.default_rng(7)
    mapping = card.to_mapping()
    worst = 0.0
    for _ in range(500):
        pose, row = random_pose(generator, card), row_of(card, generator.uniform(LOW, HIGH))
        error = homogeneous(after(card, row, pose)) - expected(mapping, row, homogeneous(pose))
        worst = max(worst, float(np.abs(error).max()))
    assert worst <= 1e-9


def test_tool_axes_move_the_pose_as_matrices_say():
    generator = np.random.default_rng(8)
    for rotation in ("rotation_vector", "euler_xyz"):
        mapping = {**CARDS["droid"].to_mapping(), "composition": "tool_axes", "rotation": rotation}
        card = convention_from_mapping(mapping)
        for _ in range(100):
            pose, row = random_pose(generator), row_of(card, generator.uniform(LOW, HIGH))
            error = homogeneous(after(card, row, pose)) - expected(mapping, row, homogeneous(pose))
            assert np.abs(error).max() <= 1e-9


@pytest.mark.parametrize("name", CARDS)
def test_the_label_of_a_step_leads_from_its_start_to_its_end(name):
    """Between any two poses, not only between neighbours."""
    card, generator = CARDS[name], np.random.default_rng(9)
    for _ in range(100):
        start, end, opening = random_pose(generator), random_pose(generator), float(generator.uniform())
        row = card.difference(start, end, opening)
        assert np.abs(homogeneous(after(card, row, start)) - homogeneous(end)).max() <= 1e-9
        assert card.action(row, start).gripper == pytest.approx(opening, abs=1e-12)


@pytest.mark.parametrize("name", CARDS)
def test_the_action_of_a_label_is_that_label(name):
    card, generator = CARDS[name], np.random.default_rng(10)
    down = CARDS["bridge_orig"].default_rotation
    for _ in range(100):
        tilt = rotations.from_euler_xyz(generator.normal(0, 0.3, 3))
        start = Pose(generator.uniform(-0.6, 0.6, 3), rotations.multiply(tilt, np.array(down)))
        row = row_of(card, generator.uniform(LOW, HIGH))
        assert np.allclose(card.difference(start, after(card, row, start), 1.0), row, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", EULER_DIFFERENCE_CARDS)
def test_a_recorded_walk_is_labelled_as_bridge_labels_it_and_played_back(name):
    """Labels of the data set are plain differences of states; away from gimbal lock ours are the same numbers."""
    card, generator = CARDS[name], np.random.default_rng(11)
    default = quaternion_matrix(card.default_rotation)
    states = np.cumsum(generator.uniform(LOW, HIGH, (60, 6)) * [1, 1, 1, 0.5, 0.5, 0.3], axis=0)
    poses = [
        Pose(state[:3], rotations.from_matrix(euler_matrix(state[3:]) @ default)) for state in states
    ]  # the recorded arm
    replayed = poses[0]
    for start, end, change in zip(poses, poses[1:], np.diff(states, axis=0), strict=False):
        row = card.difference(start, end, 0.0)
        assert np.allclose(row[:6], change, rtol=0, atol=1e-9)
        replayed = after(card, row, replayed)
        assert np.abs(homogeneous(replayed) - homogeneous(end)).max() <= 1e-9


def test_naive_differences_jump_on_a_franka_that_points_down_and_ours_do_not():
    """Its roll in raw base axes is 180 degrees, where the angle changes its sign."""
    card = CARDS["bridge_orig_fr3"]
    naive_card = convention_from_mapping({**card.to_mapping(), "default_rotation": [0, 0, 0, 1]})
    generator = np.random.default_rng(0)
    naive_jumps, largest_label, largest_step = 0, 0.0, 0.0
    for _ in range(300):
        angles, change = generator.normal(0, 0.05, 3), generator.uniform(LOW[3:], HIGH[3:])
        start, end = euler_matrix(angles) @ FRANKA_DOWN, euler_matrix(angles + change) @ FRANKA_DOWN
        naive = euler_angles(end) - euler_angles(start)
        naive_jumps += bool(np.abs(naive).max() > math.pi)
        poses = [Pose(np.zeros(3), rotations.from_matrix(matrix)) for matrix in (start, end)]
        for chosen in (card, naive_card):
            row = chosen.difference(*poses, 1.0)
            assert np.abs(homogeneous(after(chosen, row, poses[0]))[:3, :3] - end).max() <= 1e-9
            largest_label = max(largest_label, float(np.abs(row[3:6]).max()))
            # A wrapped label in a data set means the same turn: it is added to angles, not carried out as 6.28 rad.
            row[3:6] += 2 * math.pi * generator.integers(-1, 2, 3)
            largest_step = max(largest_step, float(np.linalg.norm(chosen.action(row, poses[0]).rotation)))
    assert 0.2 < naive_jumps / 300 < 0.35
    assert largest_label < 0.3
    assert largest_step < 0.3


@pytest.mark.parametrize(("tilt", "mean_degrees"), [(0.1, 0.38), (0.3, 1.15), (0.6, 2.2)])
def test_adding_angles_and_composing_turns_differ_by_the_published_amounts(tilt, mean_degrees):
    generator = np.random.default_rng(1)
    added, composed = CARDS["bridge_orig"], CARDS["bridge_orig_composed"]
    degrees = []
    for _ in range(600):
        orientation = rotations.from_matrix(euler_matrix(generator.normal(0, tilt, 3)) @ WIDOWX_DOWN)
        pose, row = Pose(np.zeros(3), orientation), row_of(added, generator.uniform(LOW, HIGH))
        ends = [after(card, row, pose).quaternion for card in (added, composed)]
        degrees.append(math.degrees(float(np.linalg.norm(rotations.rotation_between(*ends)))))
    assert np.mean(degrees) == pytest.approx(mean_degrees, rel=0.1)


def test_bridge_actions_turn_both_robots_alike_near_gripper_down():
    """The cards differ in link and default rotation, so that the same numbers are the same motion in base axes."""
    generator = np.random.default_rng(2)
    for _ in range(100):
        state, row = euler_matrix(generator.normal(0, 0.3, 3)), np.array([*generator.uniform(LOW, HIGH), 1.0])
        turns = [
            CARDS[name].action(row, Pose(np.zeros(3), rotations.from_matrix(state @ down))).rotation
            for name, down in (("bridge_orig", WIDOWX_DOWN), ("bridge_orig_fr3", FRANKA_DOWN))
        ]
        assert np.allclose(*turns, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EULER_DIFFERENCE_CARDS)
def test_gripper_straight_down_has_no_angles(name):
    down = {"bridge_orig": WIDOWX_DOWN, "bridge_orig_fr3": FRANKA_DOWN}[name]
    assert np.allclose(CARDS[name]._angles(rotations.from_matrix(down)), 0.0, atol=1e-12)


@pytest.mark.parametrize("pitch", [math.pi / 2, -math.pi / 2])
@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-8, 1e-3])
@pytest.mark.parametrize("name", EULER_DIFFERENCE_CARDS)
def test_at_gimbal_lock_labels_still_lead_to_their_end_and_steps_stay_small(name, pitch, distance):
    card, generator = CARDS[name], np.random.default_rng(4)
    for _ in range(40):
        yaw, roll = generator.uniform(-math.pi, math.pi, 2)
        locked = rotations.from_euler_xyz(np.array([roll, pitch - math.copysign(distance, pitch), yaw]))
        start = Pose(np.zeros(3), rotations.multiply(locked, np.array(card.default_rotation)))
        end = rotations.moved(start, np.full(3, 0.01), generator.uniform(-0.1, 0.1, 3))
        row = card.difference(start, end, 1.0)
        assert np.abs(homogeneous(after(card, row, start)) - homogeneous(end)).max() <= 1e-9
        # Angles say little here, but a small change of them is a small turn: at most the sum of the three.
        small = np.array([0, 0, 0, *generator.uniform(LOW[3:], HIGH[3:]), 1.0])
        turn = float(np.linalg.norm(card.action(small, start).rotation))
        assert turn <= float(np.abs(small[3:6]).sum()) + 1e-9


def test_gimbal_lock_of_bridge_is_a_level_gripper_with_its_z_axis_upright():
    """The home pose of a WidowX 250s, in which all joints are zero, has the orientation of its base."""
    angles = CARDS["bridge_orig"]._angles(np.array([0.0, 0.0, 0.0, 1.0]))
    assert abs(angles[1]) == pytest.approx(math.pi / 2)


def test_a_label_takes_the_near_one_of_two_sets_of_angles():
    card = CARDS["bridge_orig_fr3"]
    down = np.array(card.default_rotation)
    before, past = (rotations.from_euler_xyz(np.array([0.0, pitch, 0.0])) for pitch in (1.5, 1.65))
    start, end = (Pose(np.zeros(3), rotations.multiply(q, down)) for q in (before, past))
    assert np.allclose(card.difference(start, end, 1.0)[3:6], [0, 0.15, 0], atol=1e-9)
