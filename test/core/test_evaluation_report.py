import io

import pytest
from rich.console import Console

from openvla_core.evaluation.report import print_report, row_line
from openvla_core.evaluation.results import EpisodeRow


def row(index=0, task="reach", success=True, outcome="", **changes):
    outcome = outcome or ("success" if success else "time-out")
    sentence = changes.pop("instruction", "move to the red cube")
    return EpisodeRow(index, 900_000 + index, task, "red", sentence, outcome, success, duration_s=2.0, **changes)


def printed(rows, line=""):
    console = Console(file=io.StringIO(), width=120)
    console.print(line) if line else print_report(console, rows)
    return console.file.getvalue()


def test_report_gives_rate_interval_and_latency_per_task():
    rows = [row(i, photon_to_command_ms=[100.0, 140.0], policy_hz=5.0, actions=2) for i in range(4)]
    text = printed([*rows, row(4, "pick", success=False)])
    assert "4/4 = 100.0 %" in text
    assert "51.0 to 100.0 %" in text
    assert "0/1 = 0.0 %" in text
    assert "policy 5.0 Hz, photon to command p50 120.0 ms, p95 140.0 ms (8 actions)" in text


def test_an_unjudged_sentence_gets_no_rate():
    text = printed([row(task="free", success=False, outcome="shown")])
    assert "%" not in text
    assert "see the video" in text


def test_a_busy_machine_is_named_as_the_reason():
    late = row(success=False, actions=2, inference_ms=[400.0] * 20, photon_to_command_ms=[450.0, 460.0])
    assert "only 2 of 20 predicted actions" in printed([late])
    in_time = row(actions=19, inference_ms=[40.0] * 20, photon_to_command_ms=[100.0] * 19)
    assert "only" not in printed([in_time])


@pytest.mark.parametrize(
    "sentence", ["[bold]pick[/bold]", "pick [/red] up", "[", "a [link=x] b", "a \\[/red] b", "end\\"]
)
def test_a_sentence_is_shown_as_it_is(sentence):
    one = row(instruction=sentence)
    assert sentence in printed([], row_line(one, [one]))
