from collections import Counter

import pytest

from openvla_core.errors import ConfigError
from openvla_core.evaluation.episodes import HELD_OUT_BASE, plan_episodes
from openvla_core.sim.tasks import COLORS, parse_instruction


def test_same_seed_same_plan_and_another_seed_other_scenes():
    plan = plan_episodes(20, 0, ("reach", "pick"))
    assert plan == plan_episodes(20, 0, ("reach", "pick"))
    other = plan_episodes(20, 1, ("reach", "pick"))
    assert not {episode.scene_seed for episode in plan} & {episode.scene_seed for episode in other}


def test_a_longer_evaluation_begins_with_the_shorter_one():
    assert plan_episodes(40, 2, ("reach", "pick"))[:7] == plan_episodes(7, 2, ("reach", "pick"))


def test_scenes_are_held_out_and_tasks_take_turns():
    plan = plan_episodes(8, 0, ("reach", "pick"))
    assert [episode.scene_seed for episode in plan] == [HELD_OUT_BASE + index for index in range(8)]
    assert [episode.task.kind for episode in plan] == ["reach", "pick"] * 4


def test_every_colour_is_asked_for_equally_often():
    plan = plan_episodes(16 * len(COLORS), 0, ("reach", "pick"))
    counts = Counter((episode.task.kind, episode.task.color) for episode in plan)
    assert set(counts.values()) == {8}
    assert len(counts) == 2 * len(COLORS)


def test_sentences_mean_their_task_and_vary():
    plan = plan_episodes(200, 0, ("reach", "pick"))
    assert all(parse_instruction(episode.instruction) == episode.task for episode in plan)
    assert len({episode.instruction for episode in plan}) > 2 * len(COLORS)


def test_swap_asks_the_same_scene_for_two_colours():
    plan = plan_episodes(9, 0, ("reach", "pick"), swap=True)
    assert len(plan) == 10
    for first, second in zip(plan[::2], plan[1::2], strict=True):
        assert first.scene_seed == second.scene_seed
        assert first.pair == second.pair
        assert first.task.kind == second.task.kind
        assert first.task.color != second.task.color


@pytest.mark.parametrize("arguments", [(0, 0, ("reach",)), (1, -1, ("reach",)), (1, 0, ("dance",)), (1, 0, ())])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(ConfigError):
        plan_episodes(*arguments)
