"""The simulated cell: true kinematics, limits, determinism, and a camera whose pixels mean positions."""

import numpy as np
import pytest

from openvla_core.sim.scene import CUBE_COLORS, HOME_JOINTS, JOINT_SPEED
from openvla_core.sim.tabletop import TOOL_DOWN, TabletopSim
from openvla_core.types import Pose


@pytest.fixture(scope="module")
def sim():
    simulation = TabletopSim()
    yield simulation
    simulation.close()


def panda_tool(joints):
    """Tool position from the Denavit-Hartenberg table Franka publishes (modified convention), written independently."""
    table = [
        (0, 0, 0.333), (0, -np.pi / 2, 0), (0, np.pi / 2, 0.316), (0.0825, np.pi / 2, 0),
        (-0.0825, -np.pi / 2, 0.384), (0, np.pi / 2, 0), (0.088, np.pi / 2, 0),
    ]  # fmt: skip
    pose = np.eye(4)
    for (a, alpha, d), theta in zip(table, joints, strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
        pose = pose @ np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    return (pose @ [0, 0, 0.107 + 0.1034, 1])[:3]


def test_tool_follows_the_published_kinematics(sim):
    for seed in range(10):
        sim.reset(seed)
        _, positions, _ = sim.joint_state()
        np.testing.assert_allclose(sim.tcp_pose().position, panda_tool(positions[:7]), atol=1e-9)
    assert np.linalg.norm(panda_tool(HOME_JOINTS)) > 0.3


def test_same_seed_and_commands_give_the_same_images_and_states():
    def play():
        simulation = TabletopSim()
        simulation.reset(5)
        simulation.set_target(Pose(np.array([0.5, 0.05, 0.1]), TOOL_DOWN))
        simulation.set_gripper(0.0)
        simulation.step(0.5)
        image, state = simulation.render("policy").copy(), simulation.joint_state()[1]
        simulation.close()
        return image, state

    (image, state), (again, state_again) = play(), play()
    assert np.array_equal(image, again)
    assert np.array_equal(state, state_again)


def test_different_seeds_give_different_scenes(sim):
    sim.reset(1)
    first = sim.object_positions()["red cube"]
    sim.reset(2)
    assert not np.allclose(first, sim.object_positions()["red cube"])


@pytest.mark.parametrize("target", [(0.4, -0.2, 0.1), (0.65, 0.2, 0.3), (0.5, 0.0, 0.02)])
def test_tool_arrives_at_its_target_pointing_down(sim, target):
    sim.reset(3)
    sim.place(np.array([0.5, 0.0, 0.25]), 1.0, np.array([[0.3 + 0.1 * i, -0.4, 0.02] for i in range(4)]))
    sim.set_target(Pose(np.array(target), TOOL_DOWN))
    sim.step(2.0)
    assert np.linalg.norm(sim.tcp_pose().position - target) < 0.005
    assert abs(sim.tcp_pose().quaternion @ TOOL_DOWN) > 0.999


def test_joints_stay_below_their_speed_limits(sim):
    sim.reset(4)
    rng = np.random.default_rng(0)
    fastest = np.zeros(7)
    for _ in range(20):
        sim.set_target(Pose(rng.uniform([0.3, -0.3, 0.05], [0.7, 0.3, 0.5]), TOOL_DOWN))
        for _ in range(10):
            sim.step(0.02)
            fastest = np.maximum(fastest, np.abs(sim.joint_state()[2][:7]))
    assert fastest.max() > 0.3, "the arm did move"
    assert (fastest <= JOINT_SPEED * 1.05).all()


def test_a_cube_shows_its_colour_where_projection_says(sim):
    sim.reset(11)
    sim.place(np.array([0.4, 0.0, 0.5]), 1.0, np.array([[0.45 + 0.05 * i, -0.15 + 0.1 * i, 0.02] for i in range(4)]))
    image = sim.render("policy").astype(float)
    for name, position in sim.object_positions().items():
        column, row = sim.project(position[None])[0]
        pixel = image[int(row), int(column)]
        expected = np.array(CUBE_COLORS[name.split()[0]])
        assert np.dot(pixel, expected) / np.linalg.norm(pixel) / np.linalg.norm(expected) > 0.95, name


def test_gripper_closes_on_a_cube_and_lifts_it(sim):
    cubes = np.array([[0.5, 0.0, 0.02], [0.4, -0.15, 0.02], [0.6, 0.15, 0.02], [0.6, -0.15, 0.02]])
    sim.place(np.array([0.5, 0.0, 0.02]), 1.0, cubes)
    sim.set_gripper(0.0)
    sim.step(0.6)
    assert 0.4 < sim.gripper_opening() < 0.56, "the fingers rest on a cube of half the opening"
    sim.set_target(Pose(np.array([0.5, 0.0, 0.2]), TOOL_DOWN))
    sim.step(1.5)
    assert sim.object_positions()["red cube"][2] > 0.15
