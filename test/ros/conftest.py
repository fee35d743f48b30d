"""Real rclpy in a private domain. Tests wait for conditions; what they start is ended whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy

PATIENCE_S = 60.0  # how long a condition may take on a busy machine


def use_private_domain() -> None:
    """A domain of our own on this machine only, and messages that check their fields."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Read when messages are first imported, which the next line does.
    os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
    from openvla_ros.demo import free_domain

    os.environ["ROS_DOMAIN_ID"] = str(free_domain())


use_private_domain()


class World:
    """An executor with the nodes of one test and a peer node that plays everybody else."""

    def __init__(self) -> None:
        from rclpy.executors import SingleThreadedExecutor

        rclpy.init()
        self.executor = SingleThreadedExecutor()
        self.nodes = []
        self.peer = self.add(rclpy.create_node("peer"))

    def add(self, node):
        """Lets a node take part; it is destroyed at the end of the test."""
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def wait_for(self, condition, what: str = "the condition", timeout_s: float = PATIENCE_S):
        """Spins until the condition is true and returns its value; fails the test when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def listen(self, kind, name: str, qos, convert=lambda message: message) -> list:
        """A list that grows with every message on a topic."""
        heard: list = []
        self.peer.create_subscription(kind, name, lambda message: heard.append(convert(message)), qos)
        return heard

    def call(self, service_type, name: str, request=None):
        """Calls a service and returns its response."""
        client = self.peer.create_client(service_type, name)
        self.wait_for(client.service_is_ready, f"service {name}")
        future = client.call_async(request or service_type.Request())
        self.wait_for(future.done, f"answer of {name}")
        return future.result()

    def close(self) -> None:
        """Ends all nodes."""
        for node in self.nodes:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()


@pytest.fixture
def world():
    """A fresh graph for one test."""
    world = World()
    yield world
    world.close()


@pytest.fixture
def camera(world):
    """A camera that is on."""
    from camera_bench import Camera

    return Camera(world)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """An untrained tiny OpenVLA."""
    import tiny_checkpoint

    return tiny_checkpoint.write(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def start(tmp_path):
    """Starts a module as a process: `start("openvla_ros.sim_node", "-p", "scene_seed:=3")`; its output is in .log."""
    processes = []

    def run(module: str, *ros_arguments: str) -> subprocess.Popen:
        log = (tmp_path / f"{module}_{len(processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *(["--ros-args", *ros_arguments] if ros_arguments else [])],
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell's background jobs, pytest among them, ignore SIGINT and would pass that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        process.log = Path(log.name)
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
