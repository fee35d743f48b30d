"""Tasks in words, judged from the true state; and an expert that solves them."""

import numpy as np
import pytest

from openvla_core.sim.expert import MAX_STEP, expert_action
from openvla_core.sim.tabletop import TabletopSim
from openvla_core.sim.tasks import (
    ALL_TASKS,
    COLORS,
    HOLD_TIME,
    KNOWN_KINDS,
    POINT_HEIGHT,
    TAUGHT_KINDS,
    Judge,
    Task,
    all_sentences,
    parse_instruction,
)
from openvla_core.training.sim_frames import advance


def test_every_sentence_names_its_task():
    sentences = [task.sentence(i) for task in ALL_TASKS for i in range(4)]
    assert sorted(sentences) == sorted(all_sentences())
    assert len(set(sentences)) == len(sentences)
    for task in ALL_TASKS:
        assert {parse_instruction(task.sentence(i)) for i in range(4)} == {task}


def test_what_can_be_taught_is_understood_and_is_no_part_of_the_training():
    taught = [Task(kind, color) for kind in TAUGHT_KINDS for color in COLORS]
    for task in taught:
        assert {parse_instruction(task.sentence(i)) for i in range(4)} == {task}
        assert not set(all_sentences()) & {task.sentence(i) for i in range(4)}


def test_pointing_needs_closed_fingers():
    objects = {f"{name} cube": np.array([0.5, 0.1 * i, 0.02]) for i, name in enumerate(COLORS)}
    tool = objects["red cube"] + [0.0, 0.0, POINT_HEIGHT]
    for opening, wanted in ((1.0, False), (0.0, True)):
        judge = Judge(Task("point", "red"))
        for tick in range(4):
            judge.update(tool, opening, objects, tick * HOLD_TIME / 2)
        assert judge.success == wanted


def test_case_spaces_and_a_full_stop_do_not_matter():
    assert parse_instruction("  Pick up the RED  cube. ") == Task("pick", "red")


@pytest.mark.parametrize("text", ["", "pick up the purple cube", "sing a song", "pick up the red and the blue cube"])
def test_other_sentences_are_no_task(text):
    assert parse_instruction(text) is None


@pytest.mark.parametrize("kind", KNOWN_KINDS)
def test_expert_solves_ten_scenes_in_a_row(kind):
    sim = TabletopSim()
    for seed in range(10):
        task = Task(kind, COLORS[seed % 4])
        judge = Judge(task)
        sim.reset(1000 + seed)
        for _ in range(40):
            cube = sim.object_positions()[task.object_name]
            action = expert_action(task, sim.tcp_pose().position, sim.gripper_opening(), cube)
            assert np.linalg.norm(action[:3]) <= MAX_STEP + 1e-12
            assert not action[3:6].any()
            advance(sim, action, judge)
            if judge.success:
                break
        assert judge.success, f"scene {1000 + seed}"
        assert not judge.wrong_object
    sim.close()


def lifted_state(color, height):
    objects = {f"{name} cube": np.array([0.5, 0.1 * i, 0.02]) for i, name in enumerate(COLORS)}
    objects[f"{color} cube"][2] = height
    return objects[f"{color} cube"] + [0, 0, 0.005], objects


def test_success_has_to_last():
    judge = Judge(Task("pick", "blue"))
    tool, objects = lifted_state("blue", 0.15)
    assert not judge.update(tool, 0.5, objects, 10.0)
    assert not judge.update(tool, 0.5, objects, 10.0 + HOLD_TIME / 2)
    dropped = lifted_state("blue", 0.02)[1]
    assert not judge.update(tool, 0.5, dropped, 10.0 + HOLD_TIME)
    assert not judge.update(tool, 0.5, objects, 11.0)
    assert judge.update(tool, 0.5, objects, 11.0 + HOLD_TIME)


def test_lifting_another_cube_is_told_and_is_no_success():
    judge = Judge(Task("pick", "blue"))
    tool, objects = lifted_state("red", 0.15)
    judge.update(tool, 0.5, objects, 0.0)
    assert not judge.update(tool, 0.5, objects, 5.0)
    assert judge.wrong_object
    assert judge.lifted == "red cube"


def test_a_cube_thrown_into_the_air_is_not_held():
    judge = Judge(Task("pick", "red"))
    tool, objects = lifted_state("red", 0.15)
    judge.update(tool + [0.1, 0, 0], 0.5, objects, 0.0)
    assert not judge.update(tool + [0.1, 0, 0], 0.5, objects, 5.0)
