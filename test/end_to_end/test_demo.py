"""`openvla demo` as a user runs it: the whole graph, the shipped checkpoint, the files it leaves."""

import json
import os
import signal

import imageio_ffmpeg
import pytest
from PIL import Image

DEMO_WITHIN_S = 400


@pytest.fixture(scope="module")
def finished(start_demo, tmp_path_factory):
    """One demo of two reaches and two picks: (output, folder)."""
    out = tmp_path_factory.mktemp("demo")
    process = start_demo("--episodes", "4", "--out", str(out))
    output, _ = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 0, output
    return output, out


@pytest.fixture
def results(finished):
    return json.loads((finished[1] / "results.json").read_text())


def test_results_hold_what_was_run(results):
    assert results["episodes"] == len(results["rows"]) == 4
    assert results["complete"] is True
    assert results["successes"] == sum(row["success"] for row in results["rows"])
    assert {task: values["episodes"] for task, values in results["per_task"].items()} == {"reach": 2, "pick": 2}
    assert [row["scene_seed"] for row in results["rows"]] == [900_000, 900_001, 900_002, 900_003]
    assert {"python", "torch", "numpy", "mujoco", "rclpy"} <= results["versions"].keys()
    assert results["decoding"]["decoding"] == "constrained"
    assert len(results["checkpoint"]["sha256"]["model.safetensors"]) == 64


def test_the_arm_does_what_it_is_told(results):
    """At most one of four may fail; the rates of the shipped checkpoint are far higher."""
    assert results["successes"] >= 3, [row["outcome"] for row in results["rows"]]
    assert results["wrong_object"]["count"] == 0


def test_every_action_has_a_latency(results):
    assert all(row["actions"] == len(row["photon_to_command_ms"]) > 0 for row in results["rows"])
    latency = results["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] < 500  # an action from an older image is refused
    assert results["policy_hz"] > 1


def test_a_person_reads_rates_intervals_and_latency(finished):
    output, _ = finished
    for word in ("reach", "pick", "95 % interval", "wrong object", "Hz", "p50", "p95"):
        assert word in output


def test_video_and_pictures_open(finished, results):
    _, out = finished
    reader = imageio_ffmpeg.read_frames(str(out / "demo.mp4"))
    header = next(reader)
    assert (header["codec"], header["size"]) == ("h264", (640, 544))
    shown_s = sum(1 for _ in reader) / header["fps"]
    run_s = sum(row["duration_s"] for row in results["rows"])
    assert run_s < shown_s < run_s + 4 * 2.5  # each episode and the second that holds its outcome
    assert Image.open(out / "contact_sheet.png").size[1] == 4 * 188
    assert Image.open(out / "demo.gif").n_frames > 10
    assert (out / "demo.gif").stat().st_size <= 1_000_000


def test_a_sentence_with_unknown_words_is_refused_honestly(start_demo, tmp_path, descendants):
    process = start_demo("--instruction", "please dance a waltz", "--out", str(tmp_path))
    output, _ = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 2, output
    assert "The policy refused the instruction" in output
    assert "waltz" in output.partition("The policy refused")[2]
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (row["outcome"], row["actions"]) == ("refused", 0)
    assert not list(descendants())


def test_ctrl_c_leaves_no_processes_and_keeps_the_results(start_demo, tmp_path, descendants):
    process = start_demo("--episodes", "100", "--out", str(tmp_path))
    try:
        said = ""
        while " actions " not in said:  # the line about the first episode
            line = process.stdout.readline()
            assert line, f"the demo ended too early: {said}"
            said += line
        assert len(list(descendants())) >= 4
        for _ in range(2):  # an impatient person presses twice
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert not list(descendants())
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["complete"] is False
        assert results["episodes"] >= 1
        assert next(imageio_ffmpeg.read_frames(str(tmp_path / "demo.mp4")))["codec"] == "h264"
    finally:
        process.kill()


def test_an_interrupted_evaluation_goes_on_where_it_was(start_demo, tmp_path, finished):
    """The rows of the finished run are kept, not run again."""
    done = json.loads((finished[1] / "results.json").read_text())
    done["rows"] = done["rows"][:3]
    (tmp_path / "results.json").write_text(json.dumps(done))
    process = start_demo("--episodes", "4", "--resume", "--video-episodes", "0", "--out", str(tmp_path))
    output, _ = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 0, output
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows[:3] == done["rows"]
    assert len(rows) == 4
