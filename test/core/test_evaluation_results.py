import json

import pytest

from openvla_core.errors import ConfigError
from openvla_core.evaluation.results import EpisodeRow, Results, read_rows, summarize


def row(index=0, task="reach", success=True, **changes):
    outcome = changes.pop("outcome", "success" if success else "time-out")
    values = {"index": index, "scene_seed": 900_000 + index, "task": task, "color": "red", "instruction": "a sentence"}
    return EpisodeRow(**{**values, "outcome": outcome, "success": success, "duration_s": 2.0, **changes})


def test_tasks_are_counted_apart():
    summary = summarize([row(0), row(1, success=False), row(2, "pick")])
    assert (summary["episodes"], summary["successes"]) == (3, 2)
    assert summary["per_task"]["reach"]["success"]["rate"] == 0.5
    assert summary["per_task"]["pick"]["success"]["wilson95"] == [0.2065, 1.0]


def test_a_sentence_nobody_can_judge_is_not_a_failure():
    rows = [row(0), row(1, "free", success=False, outcome="shown"), row(2, "free", success=False, outcome="refused")]
    summary = summarize(rows)
    assert summary["episodes"] == 3
    assert summary["success"]["of"] == 1
    assert "free" not in summary["per_task"]


def test_a_refused_sentence_counts_as_a_failure():
    assert summarize([row(0, success=False, outcome="refused")])["success"]["rate"] == 0.0


def test_swapped_scenes_count_only_when_both_succeed():
    rows = [row(0, pair=0), row(1, pair=0), row(2, pair=1), row(3, pair=1, success=False), row(4, pair=2)]
    swap = summarize(rows)["swap"]
    assert swap["scenes"] == 2  # the third scene is not finished
    assert swap["both"]["count"] == 1


def test_latency_is_over_all_actions_of_all_episodes():
    summary = summarize(
        [row(0, photon_to_command_ms=[10.0, 20.0]), row(1, photon_to_command_ms=[90.0], inference_ms=[5.0])]
    )
    assert summary["latency_ms"]["p50"] == 20.0
    assert summary["latency_ms"]["count"] == 3
    assert summary["latency_ms"]["inference"]["p95"] == 5.0


def test_no_actions_give_null_latency_not_nan():
    assert summarize([row()])["latency_ms"]["p50"] is None


def test_file_is_whole_after_every_episode(tmp_path):
    results = Results(tmp_path / "results.json", {"seed": 3, "versions": {"numpy": "2"}}, planned=2)
    for index in range(2):
        results.add(row(index, "pick", lifted_object="red cube"))
        content = json.loads(results.path.read_text())
        assert (content["episodes"], content["complete"], content["seed"]) == (index + 1, index == 1, 3)
    assert read_rows(results.path) == results.rows
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_reading_another_file_as_results_says_so(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="--out"):
        read_rows(tmp_path / "results.json")
