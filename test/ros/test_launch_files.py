"""Launch files and `openvla up` start the same processes, because both read one description."""

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml

from openvla_core.arm_chains import CHAINS
from openvla_core.errors import ConfigError
from openvla_core.safety_settings import check_safety_settings
from openvla_ros import bringup, topics
from openvla_ros.backends.crisp import CrispSettings
from openvla_ros.backends.interbotix import InterbotixSettings
from openvla_ros.backends.joint_trajectory import JointTrajectorySettings
from openvla_ros.backends.servo import ServoSettings
from openvla_ros.controller_node import ControllerSettings
from openvla_ros.node_support import PARENT_VARIABLE
from openvla_ros.policy_node import PolicySettings
from openvla_ros.say import SaySettings
from openvla_ros.sim_node import SimSettings
from openvla_ros.system import DEFAULT_BACKENDS, ROBOTS, SystemArguments, arguments_from, describe_system

BACKEND_SETTINGS = {
    "crisp": CrispSettings,
    "servo_twist": ServoSettings,
    "servo_pose": ServoSettings,
    "joint_trajectory": JointTrajectorySettings,
    "interbotix": InterbotixSettings,
}
ROOT = Path(__file__).resolve().parents[2]
# These have arguments of their own: test_recording_plan.py, test_fleet_launch.py.
OTHERS = ("record.launch.py", "fleet.launch.py")
LAUNCH_FILES = sorted(path for path in (ROOT / "launch").glob("*.launch.py") if path.name not in OTHERS)
SETTINGS = {
    "policy_node": PolicySettings,
    "controller_node": ControllerSettings,
    "sim_node": SimSettings,
    "say": SaySettings,
}


@pytest.fixture
def specs(tiny_checkpoint):
    arguments = arguments_from({
        "checkpoint": tiny_checkpoint,
        "device": "cpu",
        "dtype": "bfloat16",
        "decoding": "reference",
        "temperature": 0.5,
        "seed": 3,
        "rate_hz": 4,
        "dry_run": True,
        "camera_topic": "/front/image",
        "instruction_topic": "/spoken",
        "namespace": "/cell/",
        "instruction": "move to the red cube",
    })  # fmt: skip
    return describe_system(arguments)


def names_of(cls) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_the_system_is_robot_controller_policy_and_the_sentence(specs):
    assert [spec.name for spec in specs] == ["sim_node", "controller_node", "policy_node", "say"]


def test_every_parameter_given_exists_in_its_node(specs):
    """ROS ignores a parameter nobody declares without a word."""
    for spec in specs:
        assert set(spec.parameters) <= names_of(SETTINGS[spec.name]), spec.name


@pytest.mark.parametrize(
    "path", [ROOT / "config/openvla.yaml", *(ROOT / f"config/robots/{r}.yaml" for r in ROBOTS)], ids=str
)
def test_every_parameter_in_a_file_exists_and_has_a_valid_value(path):
    from openvla_core.config import check_setting

    for section, content in yaml.safe_load(path.read_text()).items():
        cls = SETTINGS[section.removeprefix("/**/")]
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if section.endswith("controller_node"):
            for backend, own in BACKEND_SETTINGS.items():
                fields |= {f"{backend}.{field.name}": field for field in dataclasses.fields(own)}
        for name, value in content["ros__parameters"].items():
            assert name in fields, f"{path.name}: {section} has no parameter {name}"
            check_setting(fields[name], value)


def test_arguments_reach_their_process(specs, tiny_checkpoint):
    by_name = {spec.name: spec for spec in specs}
    policy = by_name["policy_node"]
    assert policy.parameters["checkpoint"] == str(tiny_checkpoint)
    assert policy.parameters["temperature"] == 0.5
    assert policy.parameters["seed"] == 3
    assert policy.namespace == "cell"
    assert (topics.CAMERA_IMAGE, "/front/image") in policy.remappings
    assert (topics.INSTRUCTION, "/spoken") in by_name["say"].remappings
    assert by_name["controller_node"].parameters["dry_run"] is True
    assert by_name["controller_node"].parameters["convention"] == str(tiny_checkpoint / "action_convention.json")
    assert "MUJOCO_GL" in by_name["sim_node"].environment


def test_what_is_not_given_is_left_to_the_files(tiny_checkpoint):
    specs = describe_system(arguments_from({"checkpoint": tiny_checkpoint}))
    assert dict(specs[-1].parameters) == {"checkpoint": str(tiny_checkpoint)}
    assert all(spec.remappings == () for spec in specs)


def test_a_real_robot_has_no_simulation_waits_for_start_and_starts_dry(tiny_checkpoint):
    openvla = yaml.safe_load((ROOT / "config/openvla.yaml").read_text())
    assert openvla["/**/controller_node"]["ros__parameters"]["dry_run"] is True
    assert ControllerSettings().start_when_active is False
    for robot in ("franka", "widowx"):
        specs = describe_system(arguments_from({"robot": robot, "checkpoint": tiny_checkpoint}))
        assert [spec.name for spec in specs] == ["controller_node", "policy_node"]
        (content,) = yaml.safe_load((ROOT / f"config/robots/{robot}.yaml").read_text()).values()
        assert not {"dry_run", "start_when_active"} & set(content["ros__parameters"])


@pytest.mark.parametrize("robot", ["franka", "widowx"])
def test_a_robots_links_are_those_of_its_arm_and_its_limits_can_be_used(robot):
    (content,) = yaml.safe_load((ROOT / f"config/robots/{robot}.yaml").read_text()).values()
    known = {name: value for name, value in content["ros__parameters"].items() if name in names_of(ControllerSettings)}
    settings = ControllerSettings(**known)
    check_safety_settings(settings)
    chain = CHAINS[settings.arm]
    assert (settings.base_frame, settings.tool_link) == (chain.base_link, chain.tool_link)
    assert settings.max_speed <= 0.25, "reduced speed"
    assert settings.backend == DEFAULT_BACKENDS[robot]


def test_the_reflexes_of_a_franka_are_watched_by_every_backend_that_can():
    files = yaml.safe_load((ROOT / "config/robots/franka.yaml").read_text())
    values = files["/**/controller_node"]["ros__parameters"]
    able = {name for name, own in BACKEND_SETTINGS.items() if "robot_state" in names_of(own)}
    assert len(able) == 4
    for backend in able:
        assert values[f"{backend}.robot_state"] == "franka_robot_state_broadcaster/robot_state"


def test_a_parameter_file_cannot_turn_the_simulation_into_a_robot(tiny_checkpoint):
    """It would start by itself, with the limits of the simulated arm."""
    by_name = {spec.name: spec for spec in describe_system(arguments_from({"checkpoint": tiny_checkpoint}))}
    assert by_name["controller_node"].parameters["backend"] == "sim"


def test_where_a_robot_publishes_its_state_depends_on_robot_backend_and_arguments(tiny_checkpoint):
    def pose_topic(**given) -> str:
        specs = describe_system(arguments_from({"checkpoint": tiny_checkpoint, **given}))
        return dict(specs[-1].remappings).get(topics.CURRENT_POSE, topics.CURRENT_POSE)

    assert pose_topic(robot="sim") == "robot/current_pose"
    assert pose_topic(robot="franka") == "current_pose"
    assert pose_topic(robot="franka", backend="servo_twist") == "franka_robot_state_broadcaster/current_pose"
    assert pose_topic(robot="franka", pose_topic="/ee") == "/ee"
    widowx = describe_system(arguments_from({"robot": "widowx", "checkpoint": tiny_checkpoint}))
    assert (topics.JOINT_STATES, "wx250s/joint_states") in widowx[0].remappings


def test_an_arm_brings_its_links_and_a_card_may_be_named(tiny_checkpoint):
    given = {"robot": "franka", "checkpoint": tiny_checkpoint, "arm": "panda", "convention": "droid", "start": True}
    controller, policy = describe_system(arguments_from(given))
    assert controller.parameters["base_frame"] == "panda_link0"
    assert controller.parameters["tool_link"] == "panda_hand_tcp"
    assert controller.parameters["start_when_active"] is True
    for spec in (controller, policy):
        assert Path(spec.parameters["convention"]) == ROOT / "config/conventions/droid.yaml"


def test_a_real_robot_needs_a_checkpoint():
    with pytest.raises(ConfigError, match="no checkpoint is shipped for the robot franka"):
        describe_system(arguments_from({"robot": "franka"}))


def test_the_controller_outlives_the_policy_but_not_the_other_way_round(specs):
    assert {spec.name: spec.essential for spec in specs} == {
        "sim_node": True,
        "controller_node": True,
        "policy_node": False,
        "say": False,
    }


def test_every_process_runs_as_a_module_and_is_installed_as_an_executable(specs):
    cmake = (ROOT / "CMakeLists.txt").read_text()
    installed = dict(re.findall(r"^install_executable\((\w+) (\w+)\)", cmake, flags=re.MULTILINE))
    for spec in specs:
        assert callable(importlib.import_module(spec.module).main)
        assert f"openvla_ros.{installed[spec.executable]}" == spec.module


def test_the_command_line_says_what_the_description_says(specs):
    for spec in specs:
        command = bringup.command(spec)
        pairs = list(zip(command, command[1:], strict=False))
        assert ("-m", spec.module) in pairs
        assert ("-r", f"__node:={spec.name}") in pairs
        assert ("-r", "__ns:=/cell") in pairs
        assert [b for a, b in pairs if a == "--params-file"] == [str(path) for path in spec.parameter_files]
        given = dict(b.split(":=", 1) for a, b in pairs if a == "-p")
        assert {name: yaml.safe_load(text) for name, text in given.items()} == dict(spec.parameters)
        last_file = max((i for i, word in enumerate(command) if word == "--params-file"), default=0)
        assert all(i > last_file for i, word in enumerate(command) if word == "-p")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"robot": "toaster"}, "toaster"),
        ({"checkpoint": "openvla/openvla-7b"}, "nothing is downloaded"),
        ({"params_file": "/nowhere.yaml"}, "/nowhere.yaml"),
        ({"camera": "/x"}, "camera_topic"),
        ({"decoding": "greedy"}, "constrained"),
        ({"backend": "crisp"}, "the backend crisp does not go with the robot sim"),
        ({"robot": "sim", "backend": "interbotix"}, "franka, widowx"),
        ({"robot": "franka", "backend": "sim"}, "the backend sim does not go with the robot franka"),
    ],
)
def test_arguments_that_cannot_work_are_refused(given, part, tiny_checkpoint):
    with pytest.raises(ConfigError, match=re.escape(part)):
        describe_system(arguments_from({"checkpoint": str(tiny_checkpoint), **given}))


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_only_names_known_defaults(path):
    """Checked in the source, so that it holds where launch is not installed."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "launch_description"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    arguments_from(given)


def test_both_launch_files_are_there():
    assert [path.name for path in LAUNCH_FILES] == ["demo.launch.py", "policy.launch.py"]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_describes_every_argument_and_starts_the_same_processes(path, tiny_checkpoint, monkeypatch):
    launch = pytest.importorskip("launch", reason="ros2 launch is not installed here")
    pytest.importorskip("launch_ros")
    from openvla_ros import launching

    made = []
    monkeypatch.setattr(launching, "Node", lambda **details: made.append(details))
    description = load(path).generate_launch_description()
    declared = {a.name: a for a in description.get_launch_arguments()}
    assert set(declared) == names_of(SystemArguments)
    assert all(argument.description for argument in declared.values())
    assert declared["robot"].choices == list(ROBOTS)

    context = launch.LaunchContext()
    context.launch_configurations["checkpoint"] = str(tiny_checkpoint)
    for entity in description.entities:
        entity.visit(context)
    given = {name: context.launch_configurations[name] for name in declared}
    expected = describe_system(arguments_from(given))
    assert [node["name"] for node in made] == [spec.name for spec in expected]
    for node, spec in zip(made, expected, strict=True):
        assert (node["executable"], node["namespace"]) == (spec.executable, spec.namespace)
        assert node["remappings"] == list(spec.remappings)
        # By its process id the nodes notice when launch is gone.
        assert node["additional_env"] == {**spec.environment, PARENT_VARIABLE: str(os.getpid())}
        files = [parameter for parameter in node["parameters"] if isinstance(parameter, str)]
        assert files == [str(file) for file in spec.parameter_files]
        values = {k: v.evaluate(context) for p in node["parameters"] if isinstance(p, dict) for k, v in p.items()}
        assert values == dict(spec.parameters)
        assert ("on_exit" in node) == spec.essential
        assert node.get("respawn_max_retries", spec.restarts) == spec.restarts
