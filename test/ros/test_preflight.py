"""Protection that somebody asked for and that would not be there: refused before anything starts."""

import os
import signal
import socket

import pytest

from openvla_core.errors import SecurityError
from openvla_ros import cli, network, preflight, say
from openvla_ros.system import arguments_from, describe_system

ENCLAVE = "/openvla/say"
# What preflight.enter() sets, here set to nothing first, so that monkeypatch puts it back afterwards.
RESTORED = dict.fromkeys([*network.environment(network.LOOPBACK, {}), network.ACCEPT_VARIABLE], "")


@pytest.fixture(autouse=True)
def no_security_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ROS_SECURITY", "OPENVLA_", "FAST"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def keystore(tmp_path):
    """A keystore with everything ROS 2 looks for, though not with real keys."""
    folder = tmp_path / "keystore" / "enclaves" / ENCLAVE.strip("/")
    folder.mkdir(parents=True)
    for name in preflight.ENCLAVE_FILES:
        (folder / name).write_text("-----BEGIN CERTIFICATE-----\n")
    return tmp_path / "keystore"


def secured(keystore, **changes) -> dict[str, str]:
    """Settings of DDS security as they should be, but for some; None leaves one out."""
    values = {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(keystore),
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


MISTAKES = {
    "enable in capitals": ({"ROS_SECURITY_ENABLE": "TRUE"}, "'TRUE'"),
    "enable as a number": ({"ROS_SECURITY_ENABLE": "1"}, "'1'"),
    "enable with a space": ({"ROS_SECURITY_ENABLE": "true "}, "'true '"),
    "enable forgotten": ({"ROS_SECURITY_ENABLE": None}, "nothing would be protected"),
    "strategy permissive": ({"ROS_SECURITY_STRATEGY": "Permissive"}, "'Permissive'"),
    "strategy misspelt": ({"ROS_SECURITY_STRATEGY": "enforce"}, "'enforce'"),
    "strategy forgotten": ({"ROS_SECURITY_STRATEGY": None}, "Set ROS_SECURITY_STRATEGY=Enforce"),
    "keystore forgotten": ({"ROS_SECURITY_KEYSTORE": None}, "no keystore"),
    "keystore elsewhere": ({"ROS_SECURITY_KEYSTORE": "/nowhere/at/all"}, "/nowhere/at/all"),
    "keystore is no keystore": ({"ROS_SECURITY_KEYSTORE": "/"}, "no keystore"),
}
ENCLAVE_MISTAKES = {
    "enclave missing": ({"ROS_SECURITY_ENCLAVE_OVERRIDE": "/openvla/nobody"}, "/openvla/nobody"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_security_that_would_not_hold_is_refused(mistake, keystore, tmp_path):
    changes, part = MISTAKES[mistake]
    with pytest.raises(SecurityError, match=part):
        preflight.check_security(secured(keystore, **changes))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_nothing_is_started_with_it(mistake, keystore, tiny_checkpoint, monkeypatch, capsys):
    changes, part = MISTAKES[mistake]
    for name, value in secured(keystore, **changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SecurityError):
        describe_system(arguments_from({"checkpoint": tiny_checkpoint}))
    assert cli.main(["up", "--checkpoint", str(tiny_checkpoint)]) == cli.EXIT_ERROR
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("missing", preflight.ENCLAVE_FILES)
def test_an_enclave_needs_all_its_files(missing, keystore):
    assert preflight.check_security(secured(keystore), ENCLAVE)
    (keystore / "enclaves" / ENCLAVE.strip("/") / missing).unlink()
    with pytest.raises(SecurityError, match=f"no readable {missing}.*ros2 security create_enclave"):
        preflight.check_security(secured(keystore), ENCLAVE)


@pytest.fixture
def signals():
    """Puts back the signal handlers, which a node's main replaces."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("mistake", [*MISTAKES, *ENCLAVE_MISTAKES])
def test_every_node_refuses_by_itself(mistake, keystore, monkeypatch, signals, capfd):
    """However it was started: exit code 3 and one sentence."""
    changes, part = {**MISTAKES, **ENCLAVE_MISTAKES}[mistake]
    for name, value in {**secured(keystore, **changes), **RESTORED}.items():
        monkeypatch.setenv(name, value)
    assert say.main(["--ros-args", "--enclave", ENCLAVE, "-p", "instruction:=hi"]) == 3
    said = capfd.readouterr().err
    assert part in said
    assert "Traceback" not in said


def test_a_ros_that_cannot_protect_a_node_is_noticed(keystore, start, monkeypatch):
    """Fast DDS without security, or keys that are none: both are only found by making a node."""
    for name, value in secured(keystore).items():
        monkeypatch.setenv(name, value)
    process = start("openvla_ros.say", "--enclave", ENCLAVE, "-p", "instruction:=hi")
    assert process.wait(120) == 3
    said = process.log.read_text()
    assert "ROS_SECURITY_ENABLE is true, but no protected node can be made here" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("env", [{}, {"ROS_SECURITY_ENABLE": "false"}, {"ROS_SECURITY_KEYSTORE": "/somewhere"}])
def test_security_that_nobody_asked_for_is_not_missed(env):
    assert preflight.check_security(env) is False


def test_lan_has_to_be_meant(keystore):
    with pytest.raises(SecurityError, match=r"accept_open_dds:=true"):
        preflight.check(network.LAN, False, {})
    assert preflight.check(network.LAN, True, {})[network.ACCEPT_VARIABLE] == "true"
    assert preflight.check(network.LAN, False, secured(keystore))[network.MODE_VARIABLE] == network.LAN


def test_lan_is_an_argument_of_the_system(tiny_checkpoint):
    given = {"checkpoint": tiny_checkpoint, "network": "lan"}
    with pytest.raises(SecurityError, match=r"network:=lan"):
        describe_system(arguments_from(given))
    for spec in describe_system(arguments_from({**given, "accept_open_dds": True})):
        assert spec.environment[network.MODE_VARIABLE] == network.LAN
        assert spec.environment[network.PROFILE_VARIABLES[0]] == str(network.profile(network.LAN))
    for spec in describe_system(arguments_from({"checkpoint": tiny_checkpoint})):
        assert spec.environment[network.MODE_VARIABLE] == network.LOOPBACK
        assert spec.environment[network.PROFILE_VARIABLES[0]] == str(network.profile(network.LOOPBACK))


def test_a_node_by_itself_is_closed_unless_told_otherwise(monkeypatch):
    for name, value in RESTORED.items():
        monkeypatch.setenv(name, value)
    preflight.enter([])
    assert os.environ[network.MODE_VARIABLE] == network.LOOPBACK
    assert os.environ[network.PROFILE_VARIABLES[0]] == str(network.profile(network.LOOPBACK))
    monkeypatch.setenv(network.MODE_VARIABLE, network.LAN)
    with pytest.raises(SecurityError, match="accept_open_dds"):
        preflight.enter([])


def test_the_enclave_is_read_from_the_ros_arguments():
    assert preflight.enclave_of(["--ros-args", "--enclave", "/openvla/say", "-p", "a:=1"]) == "/openvla/say"
    assert preflight.enclave_of(["--ros-args", "-e", "/x"]) == "/x"
    assert preflight.enclave_of([]) == "/"


def test_a_node_that_can_be_reached_all_the_same_does_not_go_on(world, monkeypatch):
    """Whatever the reason, such as another middleware: here, plain ROS 2, which listens on every interface."""
    monkeypatch.setenv(network.MODE_VARIABLE, network.LOOPBACK)
    with pytest.raises(SecurityError, match=r"listens on .*udp 0\.0\.0\.0:\d+"):
        preflight.verify(world.peer)
    monkeypatch.setenv(network.MODE_VARIABLE, network.LAN)
    preflight.verify(world.peer)


@pytest.mark.parametrize(
    ("family", "kind", "address", "found"),
    [
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", True),
        (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", False),
        (socket.AF_INET6, socket.SOCK_DGRAM, "::", True),
        (socket.AF_INET6, socket.SOCK_DGRAM, "::1", False),
        (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", True),
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", False),
    ],
)
def test_ports_that_others_can_reach_are_found(family, kind, address, found):
    with socket.socket(family, kind) as listener:
        listener.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        name = "tcp" if kind == socket.SOCK_STREAM else "udp"
        assert (f"{name} {address}:{listener.getsockname()[1]}" in network.reachable_ports()) == found


def test_a_socket_that_is_connected_hears_nobody_else():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", 9))
        assert not [port for port in network.reachable_ports() if port.endswith(f":{sender.getsockname()[1]}")]
