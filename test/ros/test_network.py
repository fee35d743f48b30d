"""Who can reach the running system: everybody on this machine, nobody else."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import rclpy
from rclpy.node import NodeNameNonExistentError

from openvla_core.errors import SecurityError
from openvla_ros import network, topics
from openvla_ros.bringup import ProcessGroup
from openvla_ros.system import arguments_from, describe_system

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
POLICY = ROOT / "config" / "sros2" / "policy.xml"
NAMESPACE = {"": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
XINCLUDE = "{http://www.w3.org/2001/XInclude}include"


@pytest.fixture(scope="module")
def system(tiny_checkpoint, tmp_path_factory):
    """The simulated robot, the controller and the policy, started as always."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*network.PROFILE_VARIABLES, network.MODE_VARIABLE):
            patch.delenv(name, raising=False)
        arguments = arguments_from({"checkpoint": tiny_checkpoint, "robot": "sim", "dry_run": False})
        group = ProcessGroup(describe_system(arguments), tmp_path_factory.mktemp("logs"))
    yield group
    group.stop()


@pytest.fixture
def running(system, world):
    """The system, once all of its nodes are there."""

    def all_there() -> bool:
        system.check()
        return {"sim_node", "controller_node", "policy_node"} <= set(world.peer.get_node_names())

    world.wait_for(all_there, "the nodes")
    return system


def test_no_port_of_the_system_can_be_reached_from_outside(running, world):
    for name, process in running.processes.items():
        sockets = [row for row in network.open_sockets(process.pid) if row.protocol == "udp"]
        assert len(sockets) >= 3, f"{name} takes part in no graph"
        assert {str(row.address) for row in sockets} == {"127.0.0.1"}, name
        assert network.reachable_ports(process.pid) == []
    assert network.reachable_ports(), "plain ROS 2, as this process, should have shown open ports"


def test_the_diagnostics_of_the_running_nodes_say_so(running, world):
    said = world.listen(topics.DiagnosticArray, topics.DIAGNOSTICS, 10)

    def networks() -> dict[str, str]:
        statuses = [status for message in said for status in message.status]
        return {status.name: pair.value for status in statuses for pair in status.values if pair.key == "network"}

    world.wait_for(lambda: len(networks()) >= 2, "diagnostics of policy and controller")
    assert set(networks().values()) == {"this machine only"}


def test_every_process_has_the_settings_of_its_mode(running):
    expected = network.environment(network.LOOPBACK, {})
    for name, process in running.processes.items():
        environment = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        given = dict(line.split("=", 1) for line in environment if "=" in line)
        assert {key: given.get(key) for key in expected} == expected, name


PLAIN_PROGRAM = """
import sys, time
import rclpy
from openvla_ros import network, topics
rclpy.init()
node = rclpy.create_node("plain")
heard, pictures = [], []
node.create_subscription(topics.String, topics.POLICY_INSTRUCTION, lambda m: heard.append(m.data), topics.LATCHED)
node.create_subscription(topics.Image, topics.CAMERA_IMAGE, pictures.append, topics.SENSOR)
sentence = node.create_publisher(topics.String, topics.INSTRUCTION, 10)
deadline = time.monotonic() + 150
while time.monotonic() < deadline and not (sys.argv[1] in heard and pictures):
    sentence.publish(topics.String(data=sys.argv[1]))
    rclpy.spin_once(node, timeout_sec=0.2)
print(bool(network.reachable_ports()), sys.argv[1] in heard, bool(pictures))
"""


@pytest.mark.parametrize(
    ("discovery", "sentence"), [({}, "move to the red cube"), ({network.RANGE: "LOCALHOST"}, "move to the blue cube")]
)
def test_a_program_without_our_settings_talks_to_the_system_and_hears_it(running, discovery, sentence):
    """As `ros2 topic pub /instruction` in another terminal, or a camera driver that somebody else started."""
    dropped = ("ROS_AUTOMATIC", "ROS_STATIC", "ROS_LOCALHOST", "FAST", "OPENVLA_NETWORK")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_PROGRAM, sentence],
        env={**plain, **discovery, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["True", "True", "True"], done.stdout + done.stderr


def test_the_sros2_policy_allows_what_the_nodes_do_and_nothing_else(running, world):
    """Topics of the robot are announced with the first command, so somebody has to ask for one."""
    instruction = world.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
    world.peer.create_timer(0.5, lambda: instruction.publish(topics.String(data="move to the red cube")))
    for name in running.processes:
        assert seen_by_newcomers(world, name, "/", allowed_by_policy(name)) == allowed_by_policy(name), name


def test_the_sros2_policy_fits_say(start, world):
    start("openvla_ros.say", "-p", "instruction:=hello", "-r", "__ns:=/alone")
    allowed = allowed_by_policy("say")
    world.wait_for(lambda: "say" in world.peer.get_node_names(), "say")
    assert seen_by_newcomers(world, "say", "/alone", allowed) == allowed


def seen_by_newcomers(world, name: str, namespace: str, expected: dict[str, set[str]]) -> dict[str, set[str]]:
    """What a node does, in the eyes of a program that came last.

    Up to three are asked, one after the other: a program that joins a busy machine can know a node by name for good and
    none of its topics, which says nothing about the node.
    """
    found: dict[str, set[str]] = {}
    for _ in range(3):
        context = rclpy.Context()
        rclpy.init(context=context)
        newcomer = rclpy.create_node("newcomer", context=context)

        def look(newcomer=newcomer) -> bool:
            found.clear()
            with contextlib.suppress(NodeNameNonExistentError):
                found.update(done_by_node(newcomer, name, namespace))
            return found == expected

        with contextlib.suppress(AssertionError):
            world.wait_for(look, timeout_s=20)
        newcomer.destroy_node()
        rclpy.shutdown(context=context)
        if found == expected:
            break
    return found


def done_by_node(peer, name: str, namespace: str) -> dict[str, set[str]]:
    """Topics published and subscribed, services offered and asked, named as if the node had no namespace."""
    questions = {
        "publish": peer.get_publisher_names_and_types_by_node,
        "subscribe": peer.get_subscriber_names_and_types_by_node,
        "reply": peer.get_service_names_and_types_by_node,
        "request": peer.get_client_names_and_types_by_node,
    }
    found = {}
    for right, ask in questions.items():
        names = {entry[0] for entry in ask(name, namespace)}
        found[right] = {"/" + each.removeprefix(namespace).lstrip("/") for each in names}
    return found


def allowed_by_policy(name: str) -> dict[str, set[str]]:
    """The rights the policy file gives to the one profile of an enclave."""
    (enclave,) = (each for each in ElementTree.parse(POLICY).iter("enclave") if each.get("path") == f"/openvla/{name}")
    (profile,) = enclave.iter("profile")
    assert profile.get("node") == name
    rules = []
    for child in profile:
        rules += ElementTree.parse(POLICY.parent / child.get("href")).getroot() if child.tag == XINCLUDE else [child]
    rights = {right: set() for right in ("publish", "subscribe", "reply", "request")}
    for rule in rules:
        for right in rights.keys() & rule.attrib.keys():
            assert rule.get(right) == "ALLOW"
            rights[right] |= {item.text.replace("~", f"/{name}") for item in rule}
    return rights


def test_only_the_controller_may_move_the_robot_and_only_the_policy_may_propose():
    enclaves = [each.get("path").rsplit("/", 1)[1] for each in ElementTree.parse(POLICY).iter("enclave")]
    assert len(enclaves) == len(set(enclaves)) >= 7
    publishers = {
        topic: {name for name in enclaves if f"/{topic}" in allowed_by_policy(name)["publish"]}
        for topic in (topics.TARGET_POSE, topics.GRIPPER_COMMAND, topics.POLICY_ACTION_CHUNK)
    }
    assert publishers == {
        topics.TARGET_POSE: {"controller_node"},
        topics.GRIPPER_COMMAND: {"controller_node"},
        topics.POLICY_ACTION_CHUNK: {"policy_node"},
    }


@pytest.mark.parametrize("mode", network.MODES)
def test_a_profile_replaces_the_builtin_transports_and_carries_images(mode):
    root = ElementTree.parse(network.profile(mode)).getroot()
    (participant,) = root.findall("participant", NAMESPACE)
    assert participant.get("is_default_profile") == "true"
    assert participant.findtext("rtps/useBuiltinTransports", namespaces=NAMESPACE) == "false"
    used = {each.text for each in participant.findall("rtps/userTransports/transport_id", NAMESPACE)}
    transports = {
        each.findtext("type", namespaces=NAMESPACE): each
        for each in root.iter(f"{{{NAMESPACE['']}}}transport_descriptor")
    }
    assert used == {each.findtext("transport_id", namespaces=NAMESPACE) for each in transports.values()}
    assert set(transports) == {"SHM", "UDPv4"}
    image_bytes = 1280 * 720 * 3
    assert int(transports["SHM"].findtext("maxMessageSize", namespaces=NAMESPACE)) > image_bytes
    assert int(transports["SHM"].findtext("segment_size", namespaces=NAMESPACE)) > 4 * image_bytes
    addresses = [each.text for each in transports["UDPv4"].findall("interfaceWhiteList/address", NAMESPACE)]
    assert addresses == (["127.0.0.1"] if mode == network.LOOPBACK else [])


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}, "/mine.xml"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}, "network:=lan"),
        ({"ROS_DISCOVERY_SERVER": "10.0.0.1:11811"}, "ROS_DISCOVERY_SERVER"),
    ],
)
def test_settings_that_contradict_loopback_are_refused_not_overwritten(env, part):
    with pytest.raises(SecurityError, match=part):
        network.environment(network.LOOPBACK, env)


def test_loopback_can_be_entered_twice():
    first = network.environment(network.LOOPBACK, {})
    assert network.environment(network.LOOPBACK, first) == first


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({network.MODE_VARIABLE: "loopback"}, "this machine only"),
        ({network.MODE_VARIABLE: "lan"}, "open to everybody"),
        ({network.MODE_VARIABLE: "lan", "ROS_SECURITY_ENABLE": "true"}, "DDS security"),
        ({}, "shell"),
    ],
)
def test_diagnostics_say_who_can_reach_a_node(env, said):
    assert said in network.describe(env)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "SUBNET"),
        ({network.RANGE: "LOCALHOST"}, "SUBNET"),
        ({network.RANGE: "SYSTEM_DEFAULT"}, "SUBNET"),
        ({network.RANGE: "LOCALHOST", network.PEERS: "10.0.0.7"}, "LOCALHOST"),
        ({network.RANGE: "OFF"}, "OFF"),
    ],
)
def test_lan_looks_for_other_machines_unless_told_which(env, expected):
    assert {**env, **network.environment(network.LAN, env)}[network.RANGE] == expected


def test_lan_keeps_a_profile_of_ones_own():
    env = {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    assert {**env, **network.environment(network.LAN, env)}["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/mine.xml"


def test_an_unknown_mode_is_refused():
    with pytest.raises(SecurityError, match="loopback, lan"):
        network.environment("internet", {})


TRAPS = ("ROS_LOCALHOST_ONLY=1", "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST", "FASTDDS_BUILTIN_TRANSPORTS=SHM", "file")


def test_what_would_open_the_profile_again_does_not(tmp_path):
    """Each of these opened ports on every interface beside the profile, or replaced it, in Fast DDS 2.14."""
    (tmp_path / "file").mkdir()
    text = network.profile(network.LAN).read_text()
    (tmp_path / "file" / "DEFAULT_FASTRTPS_PROFILES.xml").write_text(text)
    env = {key: each for key, each in os.environ.items() if not key.startswith(("FAST", "OPENVLA_NETWORK"))}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with contextlib.ExitStack() as stack:
        listeners = {}
        for trap in TRAPS:
            name, _, value = trap.partition("=")
            listeners[trap] = subprocess.Popen(
                [sys.executable, BENCHMARKS / "isolation_peer.py", "listen", "--ours"],
                env={**env, **({name: value} if value else {})},
                cwd=tmp_path if value else tmp_path / trap,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(listeners[trap].kill)
        for trap, listener in listeners.items():
            out, said = listener.communicate(timeout=120)
            assert json.loads(out.splitlines()[0]) == {"reachable": []}, f"{trap}: {said}"


@pytest.fixture(scope="module")
def isolation():
    """The benchmark with two network namespaces."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import isolation
    finally:
        sys.path.remove(str(BENCHMARKS))
    missing = isolation.what_is_missing()
    if missing:
        pytest.skip(f"needs root and network namespaces: {missing}")
    return isolation


def test_another_computer_delivers_nothing_by_default_and_everything_when_opened(isolation):
    """The attacker knows the address. The same with network:=lan shows that the attack itself works."""
    closed, opened = (case for case in isolation.CASES if case.name in (isolation.CASES[0].name, "lan (control)"))
    with isolation.two_computers() as computers:
        closed_row = isolation.run_case(computers, closed, count=50, patience_s=4.0)
        open_row = isolation.run_case(computers, opened, count=50, patience_s=30.0)
    assert closed_row["received"] == {"action": 0, "instruction": 0, "target pose": 0}
    assert not closed_row["matched"]
    assert min(open_row["received"].values()) > 0
    assert open_row["reachable_ports"]
