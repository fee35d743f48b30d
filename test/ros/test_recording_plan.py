"""Which processes record, and which episodes, before anything is started."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from openvla_core.errors import ConfigError
from openvla_core.evaluation.episodes import HELD_OUT_BASE, SCENES_PER_SEED
from openvla_ros.expert_node import ExpertSettings
from openvla_ros.record import build_parser, main, plan
from openvla_ros.recorder_settings import RecorderSettings
from openvla_ros.recording import LAUNCH_ARGUMENTS, SOURCES, describe_recording, teleop_arguments
from openvla_ros.system import arguments_from, describe_system

ROOT = Path(__file__).resolve().parents[2]


WIDOWX = {"robot": "widowx", "convention": "bridge_orig"}


def names(source: str, **arguments) -> list[str]:
    return [spec.name for spec in describe_recording(arguments_from(arguments), "episodes", source)]


def test_each_source_brings_what_it_needs():
    assert names("none") == ["recorder_node"]
    assert names("policy") == ["sim_node", "controller_node", "policy_node", "recorder_node"]
    assert sorted(names("expert")) == sorted(names("policy"))
    assert names("teleop") == ["sim_node", "controller_node", "recorder_node"]


def test_the_expert_takes_the_place_of_the_policy_and_follows_the_controllers_card():
    specs = {spec.name: spec for spec in describe_recording(arguments_from({}), "episodes", "expert")}
    assert specs["policy_node"].module == "openvla_ros.expert_node"
    assert specs["policy_node"].parameters["convention"] == specs["controller_node"].parameters["convention"]


def test_controller_and_robot_are_those_of_the_running_system():
    system = {spec.name: spec for spec in describe_system(arguments_from({}))}
    for spec in describe_recording(arguments_from({}), "episodes", "expert"):
        if spec.name in ("sim_node", "controller_node"):
            assert spec == system[spec.name]


def test_a_real_robot_is_steered_and_recorded_without_weights():
    specs = {spec.name: spec for spec in describe_recording(arguments_from(WIDOWX), "episodes", "teleop")}
    assert list(specs) == ["controller_node", "pose_node", "recorder_node"]
    assert Path(specs["controller_node"].parameters["convention"]) == ROOT / "config/conventions/bridge_orig.yaml"


def test_robots_whose_driver_publishes_no_pose_get_one():
    """A WidowX once could neither be steered nor recorded: nobody published robot/current_pose."""
    (pose, recorder) = describe_recording(arguments_from({"robot": "widowx"}), "episodes", "none")
    assert pose.parameters == {"arm": "wx250s"}
    assert ("joint_states", "wx250s/joint_states") in pose.remappings
    assert pose.remappings == recorder.remappings
    assert names("none", robot="widowx", pose_topic="/mocap/pose") == ["recorder_node"]
    assert names("none", robot="franka") == ["recorder_node"]


def test_the_card_reaches_a_recorder_that_runs_alone():
    (recorder,) = describe_recording(arguments_from({"convention": "droid"}), "episodes", "none")
    assert Path(recorder.parameters["convention"]) == ROOT / "config/conventions/droid.yaml"


def test_teleop_hears_the_topics_of_its_robot():
    given = teleop_arguments(arguments_from({"robot": "franka", "namespace": "cell"}), "take it: now")
    assert {"__node:=policy_node", "robot/current_pose:=current_pose", "__ns:=/cell"} <= set(given)
    assert given[-1] == 'instruction:="take it: now"'


def test_a_recording_takes_every_argument_of_the_system():
    options = build_parser().parse_args(["--robot", "franka", "--dry-run", "false", "--pose-topic", "/pose"])
    assert (options.robot, options.dry_run, options.pose_topic) == ("franka", "false", "/pose")


def test_steering_without_a_card_says_that_a_card_is_enough():
    with pytest.raises(ConfigError, match="convention is enough"):
        names("teleop", robot="widowx")
    with pytest.raises(ConfigError, match="checkpoint"):
        names("policy", **WIDOWX)


def test_every_parameter_given_exists_in_its_node():
    specs = describe_recording(arguments_from({}), "episodes", "expert", "Ada", min_free_gb=1.0)
    given = {spec.name: set(spec.parameters) for spec in specs}
    assert given["recorder_node"] <= set(RecorderSettings.__dataclass_fields__)
    assert given["policy_node"] <= set(ExpertSettings.__dataclass_fields__)


def test_names_and_namespace_reach_the_recorder():
    arguments = arguments_from({"camera_topic": "/front/image", "namespace": "/cell/"})
    (recorder,) = describe_recording(arguments, "episodes", "none")
    assert ("camera/image_raw", "/front/image") in recorder.remappings
    assert recorder.namespace == "cell"
    assert Path(recorder.parameters["root"]).is_absolute()


@pytest.mark.parametrize(("source", "arguments"), [("nobody", {}), ("expert", {"robot": "franka", "checkpoint": "."})])
def test_what_cannot_record_is_refused(source, arguments):
    with pytest.raises(ConfigError):
        names(source, **arguments)


def test_every_process_is_installed():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    installed = dict(re.findall(r"^install_executable\((\w+) (\w+)\)", cmake, flags=re.MULTILINE))
    for spec in describe_recording(arguments_from({}), "episodes", "expert"):
        assert f"openvla_ros.{installed[spec.executable]}" == spec.module
        assert callable(importlib.import_module(spec.module).main)
    assert installed["teleop"] == "teleop"


def planned(*options: str):
    return plan(build_parser().parse_args(options))


def test_no_scene_of_an_evaluation_is_recorded():
    seeds = {episode.scene_seed for seed in ("0", "3") for episode in planned("--episodes", "20", "--seed", seed)}
    assert len(seeds) == 40
    assert min(seeds) > HELD_OUT_BASE + 1000 * SCENES_PER_SEED


def test_tasks_come_in_turn_and_unknown_ones_are_refused():
    assert [episode.task.kind for episode in planned("--episodes", "4")] == ["reach", "pick"] * 2
    assert {episode.task.kind for episode in planned("--tasks", "pick")} == {"pick"}
    with pytest.raises(ConfigError, match="dance"):
        planned("--tasks", "dance")


def test_teleoperation_without_a_terminal_is_refused_before_anything_starts(tmp_path, capsys, monkeypatch):
    with (tmp_path / "no_terminal").open("w+") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["--source", "teleop", "--root", str(tmp_path / "root")]) == 3
    assert "terminal" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_the_launch_file_declares_what_the_description_takes():
    """Checked in the source, so that it holds where launch is not installed."""
    assert set(LAUNCH_ARGUMENTS) == {"root", "source", "operator"}
    assert LAUNCH_ARGUMENTS["source"][2] == SOURCES
    assert "recording_description()" in (ROOT / "launch" / "record.launch.py").read_text()


def test_launch_starts_the_same_processes(tmp_path, monkeypatch):
    launch = pytest.importorskip("launch", reason="ros2 launch is not installed here")
    pytest.importorskip("launch_ros")
    from openvla_ros import launching

    made = []
    monkeypatch.setattr(launching, "Node", lambda **details: made.append(details))
    path = ROOT / "launch" / "record.launch.py"
    spec = importlib.util.spec_from_file_location("record_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = launch.LaunchContext()
    context.launch_configurations |= {"source": "expert", "root": str(tmp_path)}
    for entity in module.generate_launch_description().entities:
        entity.visit(context)
    assert [node["name"] for node in made] == names("expert")
