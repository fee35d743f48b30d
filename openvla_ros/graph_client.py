"""A client of the running system: what its nodes say, its services, and waiting for conditions with a time limit."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python

from openvla_core.errors import OpenVLAError
from openvla_ros import conversions, topics
from openvla_ros.conversions import Scene, StatusReport
from openvla_ros.topics import State


class GraphError(OpenVLAError):
    """A process of the graph ended, did not get ready or does not answer."""


class GraphClient:
    """A node beside the simulated cell, the controller and the policy, with the newest word of each.

    `check` is called while waiting and raises when a process has died. rclpy must be initialised.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self.node = Node("demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.scene: Scene | None = None
        self.policy: StatusReport | None = None
        self.controller: StatusReport | None = None
        self.camera_stamp_ns = 0
        subscribe = self.node.create_subscription
        subscribe(topics.SceneState, of("sim_node", topics.SCENE_STATE), self.on_scene, topics.RECORD)
        subscribe(topics.Status, of("policy_node", topics.STATUS), self._on_policy_status, topics.LATCHED)
        subscribe(topics.Status, of("controller_node", topics.STATUS), self._on_controller_status, topics.LATCHED)
        subscribe(topics.Image, topics.CAMERA_IMAGE, self.on_camera, topics.SENSOR)
        self._instruction = self.node.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
        client = self.node.create_client
        self.stop_policy = client(topics.Trigger, of("policy_node", topics.STOP))
        self.stop_controller = client(topics.Trigger, of("controller_node", topics.STOP))
        self.reset_controller = client(topics.Trigger, of("controller_node", topics.RESET))
        self.start_controller = client(topics.Trigger, of("controller_node", topics.START))
        self.reset_scene = client(topics.Trigger, of("sim_node", topics.RESET))
        self._set_parameters = client(topics.SetParameters, "sim_node/set_parameters")
        self._get_parameters = client(topics.GetParameters, "policy_node/get_parameters")

    def on_scene(self, message: topics.SceneState) -> None:
        """Keeps the newest ground truth."""
        self.scene = conversions.to_scene(message)

    def on_camera(self, message: topics.Image) -> None:
        """Notes when the policy's camera took its newest frame."""
        self.camera_stamp_ns = conversions.stamp_ns(message)

    def _on_policy_status(self, message: topics.Status) -> None:
        self.policy = conversions.to_status(message)

    def _on_controller_status(self, message: topics.Status) -> None:
        self.controller = conversions.to_status(message)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Handles messages until the condition holds; False after timeout_s seconds without it."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._check()
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def require(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Like spin_until, but raises GraphError naming what was missing and what the nodes last said."""
        if not self.spin_until(condition, timeout_s):
            raise GraphError(f"{what}: not within {timeout_s:.0f} s. {self._last_words()}")

    def _last_words(self) -> str:
        said = [
            f"{name} says {report.state.name} {report.code}: {report.sentence}" if report else f"{name} says nothing"
            for name, report in (("policy_node", self.policy), ("controller_node", self.controller))
        ]
        return " ".join(said) + ("" if self.scene else " sim_node publishes no scene.")

    def call(self, client: rclpy.client.Client, request: Any, timeout_s: float = 20.0) -> Any:
        """The response of a service; raises GraphError when there is none in time."""
        self.require(client.service_is_ready, timeout_s, f"service {client.srv_name}")
        future = client.call_async(request)
        self.require(future.done, timeout_s, f"answer of {client.srv_name}")
        return future.result()

    def trigger(self, client: rclpy.client.Client) -> None:
        """Calls a Trigger service; raises GraphError when it declines."""
        success, sentence = conversions.replied(self.call(client, topics.Trigger.Request()))
        if not success:
            raise GraphError(f"{client.srv_name} answered: {sentence}")

    def set_sim_parameters(self, **values: bool | int | float | str) -> None:
        """Sets parameters of sim_node; raises GraphError when it refuses one."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        response = self.call(self._set_parameters, topics.SetParameters.Request(parameters=parameters))
        for result in response.results:
            if not result.successful:
                raise GraphError(f"sim_node refused {values}: {result.reason}")

    def policy_parameters(self, names: Sequence[str]) -> dict[str, Any]:
        """Values of parameters of policy_node."""
        response = self.call(self._get_parameters, topics.GetParameters.Request(names=list(names)))
        return dict(zip(names, map(parameter_value_to_python, response.values), strict=True))

    def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once every process of the graph is up: state known, frames flowing, the instruction has a reader."""

        def ready() -> bool:
            for name, report in (("policy_node", self.policy), ("controller_node", self.controller)):
                if report is not None and report.state == State.FAULT:
                    raise GraphError(f"{name} did not start: {report.code}: {report.sentence}")
            if self.node.count_publishers(topics.POLICY_ACTION_CHUNK) > 1:
                domain = os.environ.get("ROS_DOMAIN_ID", "0")
                raise GraphError(f"Another policy runs in ROS_DOMAIN_ID={domain}. Stop it, or use another domain.")
            return (
                self.scene is not None
                and self.camera_stamp_ns > 0
                and all(report is not None and report.code != "STARTING" for report in (self.policy, self.controller))
                and self._instruction.get_subscription_count() > 0
                and self.node.count_subscribers(topics.TARGET_POSE) > 0
                and self.node.count_subscribers(topics.POLICY_ACTION_CHUNK) > 1
                and all(client.service_is_ready() for client in self.node.clients)
            )

        self.require(ready, timeout_s, "The nodes did not get ready")

    def now_ns(self) -> int:
        """The ROS time in nanoseconds."""
        return self.node.get_clock().now().nanoseconds

    def instruct(self, sentence: str) -> None:
        """Publishes the instruction, as `ros2 topic pub` would."""
        self._instruction.publish(conversions.text_message(sentence))

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self.node.destroy_node()


def of(node: str, name: str) -> str:
    """The name a node's own `~/` topic or service has for others."""
    return name.replace("~", node, 1)
