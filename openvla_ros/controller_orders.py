"""The services of the controller node: start, stop, pause, reset, dry run and the emergency stop."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from openvla_core.supervisor import Supervisor
from openvla_ros import conversions, topics
from openvla_ros.guard import guarded

if TYPE_CHECKING:
    from openvla_ros.controller_node import ControllerNode

Order = Callable[["ControllerNode", Supervisor], tuple[bool, str]]


def offer_services(node: "ControllerNode") -> None:
    """Offers them; each answers with a sentence."""
    orders: dict[str, Order] = {topics.START: start, topics.STOP: stop, topics.PAUSE: pause, topics.RESET: reset}
    for name, order in orders.items():
        node.create_service(topics.Trigger, name, partial(answer, node, order))
    node.create_service(topics.SetBool, topics.SET_DRY_RUN, partial(set_dry_run, node))
    node.create_service(topics.SetBool, topics.PRESS_ESTOP, partial(press_estop, node))


@guarded
def answer(node: "ControllerNode", order: Order, request, response):
    """Carries out an order and fills in the response."""
    if node.supervisor is None:
        return conversions.reply(response, False, f"Not configured. {node.board.report.sentence}")
    return conversions.reply(response, *order(node, node.supervisor))


def start(node: "ControllerNode", supervisor: Supervisor) -> tuple[bool, str]:
    """Allows motion."""
    if not node.active:
        return False, "The node is not active; activate it first."
    node.inputs.take_poses()
    supervisor.on_backend(node.backend_problem())  # after a dry run, no tick has asked yet
    return supervisor.start(time.monotonic())


def stop(node: "ControllerNode", supervisor: Supervisor) -> tuple[bool, str]:
    """Brakes, then sends nothing more."""
    return supervisor.stop()


def pause(node: "ControllerNode", supervisor: Supervisor) -> tuple[bool, str]:
    """Brakes and holds."""
    return supervisor.pause()


def reset(node: "ControllerNode", supervisor: Supervisor) -> tuple[bool, str]:
    """Clears a fault, here and in the backend."""
    node.inputs.take_poses()
    done, sentence = supervisor.reset(time.monotonic())
    if done and node.backend is not None:
        node.backend.reset()
    return done, sentence


@guarded
def set_dry_run(node: "ControllerNode", request, response):
    """Whether commands reach the robot."""
    wanted = conversions.is_set_to(request)
    done, sentence = True, "Set; it counts once the node is configured."
    if node.supervisor is not None:
        node.inputs.take_poses()
        done, sentence = node.supervisor.set_follows(not wanted, time.monotonic())
    if done:
        node.dry_run = wanted
        node.get_logger().warning(sentence)
    return conversions.reply(response, done, sentence)


@guarded
def press_estop(node: "ControllerNode", request, response):
    """The emergency stop by a service."""
    pressed = conversions.is_set_to(request)
    node.inputs.press(lambda: node.estop.on_service(pressed))
    return conversions.reply(response, True, "Pressed." if pressed else "Released; reset and start must follow.")
