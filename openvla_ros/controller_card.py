"""The convention card of the episodes: given, or the one that the running controller follows."""

from typing import Any

from rclpy.node import Node

from openvla_core.conventions import load_convention
from openvla_core.errors import ConventionError
from openvla_ros import conversions, topics
from openvla_ros.timing import steady_timer

LOOK_S = 2.0


class ControllerCard:
    """card: the values of the card; None until it is known."""

    def __init__(self, node: Node, path: str = "") -> None:
        """path: of the card; empty asks the controller, once it is there. Raises ConventionError for a wrong one."""
        self.card: dict[str, Any] | None = load_convention(path).to_mapping() if path else None
        self._node = node
        self._asked = False
        self._client = node.create_client(topics.GetParameters, "controller_node/get_parameters")
        steady_timer(node, LOOK_S, self.ask)

    def ask(self) -> None:
        """Asks the controller, once."""
        if self.card is None and not self._asked and self._client.service_is_ready():
            self._asked = True
            request = topics.GetParameters.Request(names=["convention"])
            self._client.call_async(request).add_done_callback(self._on_answer)

    def _on_answer(self, future) -> None:
        try:
            self.card = load_convention(conversions.parameter_values(future.result())[0]).to_mapping()
        except (ConventionError, IndexError, TypeError) as error:
            self._node.get_logger().warning(
                f"the controller's convention card cannot be read ({error}); set the parameter convention of "
                f"{self._node.get_name()}, or episodes do not say what their actions mean."
            )
