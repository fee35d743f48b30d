"""Starting and ending the processes of the system."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from openvla_core.errors import ConfigError
from openvla_core.sim import rendering
from openvla_ros import bringup, cli, conversions, topics
from openvla_ros.bringup import ProcessError, ProcessGroup
from openvla_ros.node_support import PARENT_VARIABLE
from openvla_ros.system import ProcessSpec, arguments_from, describe_system


def spec_of(tmp_path, monkeypatch, name: str, program: str) -> ProcessSpec:
    """A process that runs a program written here."""
    (tmp_path / f"{name}.py").write_text(program, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return ProcessSpec(name=name, module=name, executable=name)


def wait_until(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def test_a_process_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(bringup, "TERM_WITHIN_S", 0.3)
    group = ProcessGroup([spec_of(tmp_path, monkeypatch, "stubborn", STUBBORN)], tmp_path)
    wait_until(lambda: "up" in (tmp_path / "stubborn.log").read_text())
    group.stop()
    assert group.ended() == {"stubborn": -signal.SIGKILL}


def test_a_process_that_ends_is_reported_with_its_last_words(tmp_path, monkeypatch):
    program = "import sys\nprint('the reason')\nsys.exit(3)\n"
    group = ProcessGroup([spec_of(tmp_path, monkeypatch, "short_lived", program)], tmp_path)
    wait_until(group.ended)
    with pytest.raises(ProcessError, match="(?s)short_lived ended with exit code 3.*the reason"):
        group.check()
    group.stop()


def test_a_process_that_fails_is_started_anew_but_not_for_ever(tmp_path, monkeypatch):
    spec = spec_of(tmp_path, monkeypatch, "failing", "print('once more', flush=True)\nraise SystemExit(1)\n")
    group = ProcessGroup([dataclasses.replace(spec, restarts=3)], tmp_path)
    for allowed in (True, True, True, False):
        wait_until(group.ended)
        assert group.restart("failing") is allowed
    group.stop()
    assert (tmp_path / "failing.log").read_text().count("once more") == 4


def test_the_policy_is_started_anew_and_a_wrong_setting_is_not(tmp_path, monkeypatch, capsys):
    path = tmp_path / "count"
    program = f"import pathlib\np = pathlib.Path({str(path)!r})\nagain = p.exists()\np.touch()\n"
    program += "raise SystemExit(3 if again else 1)\n"
    spec = spec_of(tmp_path, monkeypatch, "policy_node", program)
    group = ProcessGroup([dataclasses.replace(spec, essential=False, restarts=3)])
    assert bringup._watch(group) == 3
    assert "started anew" in capsys.readouterr().out


def test_when_one_process_cannot_start_the_others_are_ended(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def fail_second(*arguments, **options):
        if started:
            raise OSError("no more processes")
        started.append(popen(*arguments, **options))
        return started[0]

    spec = spec_of(tmp_path, monkeypatch, "stubborn", STUBBORN)
    monkeypatch.setattr(bringup, "TERM_WITHIN_S", 0.3)
    monkeypatch.setattr(bringup.subprocess, "Popen", fail_second)
    with pytest.raises(OSError, match="no more"):
        ProcessGroup([spec, ProcessSpec("other", "other", "other")], tmp_path)
    assert started[0].poll() is not None


def test_the_policy_is_ended_before_what_carries_out_its_orders(tmp_path, monkeypatch):
    order = []
    specs = [
        ProcessSpec(name=name, module=spec_of(tmp_path, monkeypatch, "stubborn", STUBBORN).module, executable="x")
        for name in ("sim_node", "controller_node", "policy_node")
    ]
    monkeypatch.setattr(bringup, "TERM_WITHIN_S", 0.3)
    group = ProcessGroup(specs, tmp_path)
    for name, process in group.processes.items():
        monkeypatch.setattr(process, "terminate", lambda name=name: order.append(name))
    group.stop()
    assert order == ["policy_node", "controller_node", "sim_node"]


@pytest.mark.parametrize(
    "value", ["7", "no", "pick up: the red cube", "it's #1", 'say "hi"', "a\\b", 5.0, 3, True, [1.0, 2.0], "ünï ✋"]
)
def test_parameters_survive_the_command_line(value):
    text = bringup.parameter_text(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
    assert type(yaml.safe_load(text)) is type(value)


@pytest.mark.parametrize("gap_s", [0.0, 0.003, 0.02])
def test_two_ctrl_c_in_a_row_end_a_node_cleanly(start, world, gap_s):
    """A launcher relays the Ctrl-C that the node has already received; the second one must not hit the clean-up."""
    node = start("openvla_ros.sim_node", "-p", "image_rate_hz:=30.0")
    poses = world.listen(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
    world.wait_for(lambda: poses, "a pose")
    node.send_signal(signal.SIGINT)
    time.sleep(gap_s)
    node.send_signal(signal.SIGINT)
    assert node.wait(20) == 0
    assert "Traceback" not in node.log.read_text()


def test_sigterm_ends_a_node_cleanly_even_amid_its_callbacks(start, world):
    for round_number in range(3):
        node = start("openvla_ros.sim_node", "-p", "image_rate_hz:=50.0")
        poses = world.listen(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
        world.wait_for(lambda heard=poses: len(heard) > 5, f"poses in round {round_number}")
        node.terminate()
        assert node.wait(20) == 0
        assert "Traceback" not in node.log.read_text()


def test_nodes_end_when_their_supervisor_is_killed(world, tmp_path):
    """A policy or simulation nobody supervises any more would go on moving the arm."""
    program = tmp_path / "supervisor.py"
    program.write_text(
        "import time\n"
        "from openvla_ros.bringup import ProcessGroup\n"
        "from openvla_ros.system import node_spec\n"
        "group = ProcessGroup([node_spec('sim_node')])\n"
        "print(group.processes['sim_node'].pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, env=os.environ, start_new_session=True
    )
    node = int(supervisor.stdout.readline())
    try:
        poses = world.listen(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
        world.wait_for(lambda: poses, "a pose")
        supervisor.kill()
        supervisor.wait()
        wait_until(lambda: not is_running(node), 30)
    finally:
        supervisor.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(node, signal.SIGKILL)


@pytest.mark.parametrize(("alive", "printed"), [(True, "goes on\n"), (False, "")])
def test_a_node_that_is_started_through_another_program_ends_only_when_its_supervisor_is_gone(alive, printed):
    """As with `ros2 launch --launch-prefix`: its parent is then not the launcher."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    supervisor = os.getpid() if alive else gone.pid
    node = "from openvla_ros.node_support import end_with_parent; end_with_parent(); print('goes on')"
    through = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {node!r}])"
    done = subprocess.run(
        [sys.executable, "-c", through],
        env={**os.environ, PARENT_VARIABLE: str(supervisor)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == printed, done.stderr


def is_running(pid: int) -> bool:
    """False once the process has ended, also while nobody has collected it."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_wrong_parameter_ends_the_process_with_one_sentence(start):
    node = start("openvla_ros.sim_node", "-p", "image_rate_hz:=500.0")
    assert node.wait(60) == 3
    assert "image_rate_hz is 500.0 Hz; it must lie between 1.0 and 50.0 Hz" in node.log.read_text()
    assert "Traceback" not in node.log.read_text()


def test_the_whole_system_follows_a_sentence_and_ends(world, tiny_checkpoint, tmp_path):
    """Camera to arm through three processes, in a namespace; every one of them ends when asked."""
    arguments = arguments_from(
        {"checkpoint": tiny_checkpoint, "namespace": "cell", "instruction": "move to the red cube", "dry_run": False}
    )
    group = ProcessGroup(describe_system(arguments), tmp_path)
    try:
        applied = world.listen(
            topics.AppliedAction, "/cell/controller_node/applied_action", topics.RECORD, conversions.to_applied
        )

        def is_applied() -> bool:
            group.check()
            return bool(applied)

        world.wait_for(is_applied, "an applied action", timeout_s=300)
        wait_until(lambda: "say" in group.ended())
    finally:
        group.stop()
    assert applied[0].photon_to_command_s > 0
    assert set(group.ended().values()) == {0}
    assert "OK: Following 'move to the red cube'" in (tmp_path / "say.log").read_text()


def test_a_policy_without_a_checkpoint_is_refused_before_anything_starts(capsys):
    assert cli.main(["up", "--checkpoint", "/nowhere/at/all"]) == cli.EXIT_ERROR
    assert "/nowhere/at/all" in capsys.readouterr().err


def test_doctor_describes_a_checkpoint(tiny_checkpoint, capsys):
    assert cli.main(["doctor", str(tiny_checkpoint)]) == 0
    text = capsys.readouterr().out
    for part in ("vision tower", "language", "unnorm_key    sim_tabletop", "+0.0500", "base_axes", "self-test passed"):
        assert part in text


def test_doctor_refuses_what_is_no_checkpoint(tmp_path, capsys):
    assert cli.main(["doctor", str(tmp_path)]) == cli.EXIT_ERROR
    assert "Error" in capsys.readouterr().err


def test_the_entry_point_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "openvla_ros.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("up", "demo", "say", "doctor"):
        assert command in run.stdout


def test_rendering_prefers_what_is_asked_for_then_what_is_installed(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.rendering_backend() == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    for libraries, expected in (({"EGL", "EGL_mesa"}, "egl"), ({"EGL", "OSMesa"}, "osmesa"), ({"OSMesa"}, "osmesa")):
        monkeypatch.setattr(
            rendering.ctypes.util, "find_library", lambda name, have=libraries: name if name in have else None
        )
        assert rendering.rendering_backend() == expected


def test_numbers_that_are_none_are_refused(tiny_checkpoint):
    with pytest.raises(ConfigError, match="temperature is 'warm'"):
        describe_system(arguments_from({"checkpoint": tiny_checkpoint, "temperature": "warm"}))
