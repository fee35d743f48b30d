"""The process of a fleet, from a few arguments, and how it is started."""

import ast
import importlib
import importlib.util
import os
import re
from pathlib import Path

import pytest
from policy_bench import KNOWN, OTHER

from openvla_core.errors import ConfigError
from openvla_ros import bringup, conversions, topics
from openvla_ros.fleet import LAUNCH_ARGUMENTS, describe_fleet, fleet_fields
from openvla_ros.node_support import EXIT_CONFIG
from openvla_ros.policy_fleet import FleetSettings
from openvla_ros.policy_setup import PolicySettings
from openvla_ros.system import arguments_from, describe_system

ROOT = Path(__file__).resolve().parents[2]
START_S = 300.0  # a process that imports torch on a busy machine
LAUNCH_FILE = ROOT / "launch" / "fleet.launch.py"


def fleet_spec(checkpoint, robots: str = "left,right", **arguments):
    given = {name: str(arguments.pop(name)) for name in LAUNCH_ARGUMENTS if name in arguments}
    (spec,) = describe_fleet(arguments_from({"checkpoint": checkpoint, **arguments}), {"robots": robots, **given})
    return spec


def test_a_fleet_is_one_process_with_the_parameters_of_a_policy_and_its_own(tiny_checkpoint):
    spec = fleet_spec(tiny_checkpoint, " left, right", max_batch=4, gather_s=0.01, rate_hz=5, namespace="cell")
    policy = describe_system(arguments_from({"checkpoint": tiny_checkpoint, "rate_hz": 5, "namespace": "cell"}))[-1]
    own = {"robots": "left,right", "max_batch": 4, "gather_s": 0.01}
    assert dict(spec.parameters) == {**policy.parameters, **own}
    assert (spec.namespace, spec.restarts, spec.essential) == ("cell", policy.restarts, policy.essential)
    assert (spec.parameter_files, spec.environment) == (policy.parameter_files, policy.environment)


def test_every_parameter_given_exists_in_one_of_its_nodes(tiny_checkpoint):
    known = set(PolicySettings.__dataclass_fields__) | set(FleetSettings.__dataclass_fields__)
    given = {"device": "cpu", "dtype": "float32", "decoding": "reference", "seed": 1, "max_batch": 2}
    assert set(fleet_spec(tiny_checkpoint, **given).parameters) <= known
    assert set(LAUNCH_ARGUMENTS) == set(FleetSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("given", "part"),
    [({"robots": ""}, "robots is empty"), ({"max_batch": "many"}, "'many'"), ({"robots": "a,a"}, "twice")],
)
def test_arguments_that_cannot_work_are_refused(tiny_checkpoint, given, part):
    with pytest.raises(ConfigError, match=re.escape(part)):
        fleet_spec(tiny_checkpoint, **given)


def test_the_process_is_installed(tiny_checkpoint):
    cmake = (ROOT / "CMakeLists.txt").read_text()
    installed = dict(re.findall(r"^install_executable\((\w+) (\w+)\)", cmake, flags=re.MULTILINE))
    spec = fleet_spec(tiny_checkpoint)
    assert f"openvla_ros.{installed[spec.executable]}" == spec.module
    assert callable(importlib.import_module(spec.module).main)


def test_a_whole_process_serves_each_robot_in_its_namespace(world, start, tiny_checkpoint):
    """Started as launch does it, which names the process for all of its nodes."""
    spec = fleet_spec(tiny_checkpoint, namespace="cell", rate_hz=20)
    command = bringup.command(spec)
    assert command[1:4] == ["-m", "openvla_ros.policy_fleet", "--ros-args"]
    process = start(spec.module, *command[4:], "-p", "max_observation_age_s:=5.0")
    heard = {}
    for name, sentence in (("left", KNOWN), ("right", OTHER)):
        place = f"/cell/{name}"
        chunks = world.listen(topics.ActionChunk, f"{place}/policy_node/action_chunk", topics.COMMAND)
        statuses = world.listen(topics.Status, f"{place}/policy_node/status", topics.LATCHED, conversions.to_status)
        images = world.peer.create_publisher(topics.Image, f"{place}/camera/image_raw", topics.SENSOR)
        words = world.peer.create_publisher(topics.String, f"{place}/instruction", topics.COMMAND)
        heard[name] = (chunks, statuses, images, words, sentence)

    def show() -> None:
        import numpy as np

        stamp_ns = world.peer.get_clock().now().nanoseconds
        rgb = np.random.default_rng(stamp_ns).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        for _, _, images, _, _ in heard.values():
            images.publish(conversions.image_message(rgb, stamp_ns, "camera"))

    world.peer.create_timer(0.05, show)
    for chunks, statuses, _, words, sentence in heard.values():
        is_ready = lambda: statuses and statuses[-1].code == "READY"  # noqa: B023, E731
        world.wait_for(is_ready, "a robot that is ready", timeout_s=START_S)
        world.wait_for(words.get_subscription_count, "a reader of the instruction")
        words.publish(conversions.text_message(sentence))
        world.wait_for(lambda: len(chunks) >= 2, "chunks")  # noqa: B023
        assert {conversions.to_chunk(chunk).instruction for chunk in chunks} == {sentence}
    names = {f"{space.rstrip('/')}/{name}" for name, space in world.peer.get_node_names_and_namespaces()}
    assert {"/cell/policy_fleet", "/cell/left/policy_node", "/cell/right/policy_node"} <= names
    process.terminate()
    assert process.wait(30) == 0, process.log.read_text()


def test_a_process_without_robots_says_so_and_ends_as_a_wrong_setting(start):
    process = start("openvla_ros.policy_fleet", "-p", "checkpoint:=anything")
    assert process.wait(START_S) == EXIT_CONFIG
    assert "the parameter robots is empty" in process.log.read_text()


def test_the_launch_file_calls_the_description():
    calls = [node for node in ast.walk(ast.parse(LAUNCH_FILE.read_text())) if isinstance(node, ast.Call)]
    assert [ast.unparse(call.func) for call in calls] == ["fleet_description"]


def test_launch_describes_every_argument_and_starts_the_same_process(tiny_checkpoint, monkeypatch):
    launch = pytest.importorskip("launch", reason="ros2 launch is not installed here")
    pytest.importorskip("launch_ros")
    from openvla_ros import launching

    made = []
    monkeypatch.setattr(launching, "Node", lambda **details: made.append(details))
    file = importlib.util.spec_from_file_location("fleet_launch_file", LAUNCH_FILE)
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    description = module.generate_launch_description()
    declared = {argument.name: argument for argument in description.get_launch_arguments()}
    assert set(declared) == {field.name for field in fleet_fields()} | set(LAUNCH_ARGUMENTS)
    assert all(argument.description for argument in declared.values())
    context = launch.LaunchContext()
    context.launch_configurations |= {"checkpoint": str(tiny_checkpoint), "robots": "a,b"}
    for entity in description.entities:
        entity.visit(context)
    (node,) = made
    spec = fleet_spec(tiny_checkpoint, "a,b")
    assert (node["executable"], node["name"]) == ("policy_fleet", "policy_fleet")
    values = {k: v.evaluate(context) for p in node["parameters"] if isinstance(p, dict) for k, v in p.items()}
    assert values == dict(spec.parameters)
    assert node["additional_env"]["OPENVLA_SUPERVISOR_PID"] == str(os.getpid())
