"""The services of the policy node: start, stop, pause and reset."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from openvla_ros import conversions, topics
from openvla_ros.topics import State

if TYPE_CHECKING:
    from openvla_ros.policy_node import PolicyNode


def offer_services(node: "PolicyNode") -> None:
    """Offers ~/start, ~/stop, ~/pause and ~/reset; each answers with a sentence."""
    for name, order in ((topics.START, start), (topics.STOP, stop), (topics.PAUSE, pause), (topics.RESET, reset)):
        node.create_service(topics.Trigger, name, partial(answer, node, order))


def answer(node: "PolicyNode", order: Callable[["PolicyNode"], tuple[bool, str]], request, response):
    """Carries out an order and fills in the response."""
    return conversions.reply(response, *order(node))


def start(node: "PolicyNode") -> tuple[bool, str]:
    """Goes on with the instruction in force, if there is one."""
    if not node.active:
        return False, "The node is not active; activate it first."
    if node.fault:
        return False, f"{node.board.report.sentence} Call ~/reset first."
    node.paused = False
    if not node.instruction:
        node.drop_task()
        return True, "Ready: publish a sentence on the instruction topic."
    node.say_following()
    return True, f"Following {node.instruction!r}."


def stop(node: "PolicyNode") -> tuple[bool, str]:
    """Forgets the instruction."""
    node.paused = False
    if node.active and not node.fault:
        node.drop_task()
    return True, "Stopped: the instruction is forgotten."


def pause(node: "PolicyNode") -> tuple[bool, str]:
    """Keeps the instruction but acts no more on it."""
    node.paused = True
    node.generation += 1
    if node.active and not node.fault:
        node.board.set(State.STANDBY, "PAUSED", "Paused: call ~/start to go on.")
    return True, "Paused."


def reset(node: "PolicyNode") -> tuple[bool, str]:
    """Clears a fault and forgets the instruction."""
    node.fault = ""
    return stop(node)
