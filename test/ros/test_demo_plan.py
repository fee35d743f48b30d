"""What `openvla demo` makes of its options, before anything is started."""

import contextlib
import json
import os
import socket

import pytest

from openvla_core.errors import ConfigError
from openvla_core.evaluation.results import EpisodeRow, Results
from openvla_ros.demo import build_parser, check_same_policy, finished_rows, free_domain, main, plan


def planned(*options):
    return plan(build_parser().parse_args(options))


def test_default_is_a_quick_mix_of_both_tasks():
    assert [episode.task.kind for episode in planned()] == ["reach", "pick"] * 4


def test_a_known_sentence_of_ones_own_is_judged_and_a_new_one_is_shown():
    (known,) = planned("--instruction", "Pick up the red cube.")
    assert (known.task.kind, known.task.color) == ("pick", "red")
    (new,) = planned("--instruction", "please dance")
    assert new.task is None


@pytest.mark.parametrize("options", [("--episodes", "0"), ("--tasks", "dance"), ("--tasks", ""), ("--seed", "-1")])
def test_impossible_options_end_before_anything_starts(options, tmp_path, capsys):
    assert main([*options, "--out", str(tmp_path / "out")]) == 1
    assert "ConfigError" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_named(tmp_path, capsys, monkeypatch):
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the demo changes them; this restores them
    assert main(["--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().out.replace("\n", "")


def test_a_free_domain_is_one_where_nobody_is():
    with contextlib.ExitStack() as taken:
        free = free_domain()
        for domain in range(1, 101):
            if domain != free:
                port = taken.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                with contextlib.suppress(OSError):  # somebody really is in that domain
                    port.bind(("", 7410 + 250 * domain))
        assert free_domain() == free
        last = taken.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        last.bind(("", 7410 + 250 * free))
        with pytest.raises(ConfigError, match="--domain"):
            free_domain()


def row_of(episode):
    task = episode.task
    return EpisodeRow(
        episode.index, episode.scene_seed, task.kind, task.color, episode.instruction, "success", True, duration_s=1.0
    )


def test_resuming_keeps_rows_of_the_same_plan_only(tmp_path):
    results = Results(tmp_path / "results.json", {}, planned=4)
    for episode in planned("--episodes", "2"):
        results.add(row_of(episode))
    assert finished_rows(results.path, planned("--episodes", "4")) == results.rows
    with pytest.raises(ConfigError, match="other options"):
        finished_rows(results.path, planned("--episodes", "1"))
    with pytest.raises(ConfigError, match="other options"):
        finished_rows(results.path, planned("--episodes", "4", "--seed", "1"))


def test_episodes_of_another_policy_are_not_continued(tmp_path):
    """Resuming with other weights once relabelled the finished episodes as theirs."""
    path = tmp_path / "results.json"
    facts = {"decoding": {"temperature": 0.0}, "checkpoint": {"sha256": {"model.safetensors": "a"}}}
    path.write_text(json.dumps({**facts, "rows": []}))
    check_same_policy(path, facts)
    with pytest.raises(ConfigError, match="another checkpoint"):
        check_same_policy(path, {**facts, "checkpoint": {"sha256": {"model.safetensors": "b"}}})
