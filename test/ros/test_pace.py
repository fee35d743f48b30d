"""What keeps the controller's pace: floods cost little, garbage waits, a frozen process is nobody's problem."""

import gc
import os
import time
from time import monotonic, time_ns
from xml.etree import ElementTree

import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy

from openvla_ros import network, pace, topics
from openvla_ros.taken_messages import TakenMessages

QUEUE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


@pytest.fixture
def taken(world):
    reader = world.add(rclpy.create_node("reader"))
    messages = TakenMessages(reader, topics.String, "chatter", QUEUE)
    publisher = world.peer.create_publisher(topics.String, "chatter", QoSProfile(depth=200))
    world.wait_for(publisher.get_subscription_count, "the reader")
    return messages, publisher


def collect(world, messages, count: int) -> list:
    got: list = []
    world.wait_for(lambda: got.extend(messages.take()) or len(got) >= count, f"{count} messages")
    return got


def test_messages_are_taken_in_order_with_the_time_they_came(world, taken):
    messages, publisher = taken
    messages.take()
    before_s = monotonic()
    for word in "abc":
        publisher.publish(topics.String(data=word))
    got = collect(world, messages, 3)
    assert [message.data for message, _ in got] == ["a", "b", "c"]
    arrived = [arrived_s for _, arrived_s in got]
    assert before_s - 0.001 <= arrived[0] <= arrived[-1] <= monotonic()
    assert messages.take() == []


def test_of_a_flood_only_the_newest_are_read_and_no_executor_wakes_up(world, taken):
    messages, publisher = taken
    for number in range(100):
        publisher.publish(topics.String(data=str(number)))
    publisher.publish(topics.String(data="last"))
    got: list = []
    world.wait_for(lambda: got.append(messages.take()) or (got[-1] and got[-1][-1][0].data == "last"), "the last one")
    assert max(len(batch) for batch in got) <= QUEUE.depth


def test_times_of_arrival_stay_between_two_looks_whatever_the_wall_clock_says(world, taken, monkeypatch):
    messages, publisher = taken
    for jump_s in (-3600, 3600):
        messages.take()
        before_s = monotonic()
        publisher.publish(topics.String(data="x"))
        monkeypatch.setattr("time.time_ns", lambda by=jump_s: time_ns() + by * 10**9)
        [(_, arrived_s)] = collect(world, messages, 1)
        assert before_s - 1.0 <= arrived_s <= monotonic()


def test_garbage_is_looked_for_when_asked_and_not_among_what_was_set_up():
    ready = []
    collector = pace.Collector(lambda: bool(ready))
    frozen = gc.get_freeze_count()
    try:
        collector.collect()
        assert gc.get_freeze_count() == frozen
        ready.append(True)
        collector.collect()
        first = gc.get_freeze_count()
        assert first > frozen
        cycle: list = []
        cycle.append(cycle)
        del cycle
        collector.collect()
        assert gc.get_freeze_count() == first, "what comes later is searched"
    finally:
        gc.unfreeze()


def test_a_priority_that_is_not_permitted_is_said_and_nothing_else(monkeypatch):
    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    assert "rtprio 20" in pace.take_priority(20)


def transports(mode: str, shared_memory: bool) -> set[str]:
    root = ElementTree.parse(network.profile(mode, shared_memory)).getroot()
    return {element.text for element in root.iter() if element.tag.endswith("}type")}


@pytest.mark.parametrize("mode", network.MODES)
def test_the_profile_of_the_controller_is_the_other_one_without_shared_memory(mode):
    assert transports(mode, True) == {"SHM", "UDPv4"} and transports(mode, False) == {"UDPv4"}

    def parts(shared_memory: bool) -> list[str]:
        root = ElementTree.parse(network.profile(mode, shared_memory)).getroot()
        for parent in list(root.iter()):
            for child in list(parent):
                described = child.tag.endswith("transport_descriptor") and "SHM" in child.itertext()
                if described or child.text == "openvla_shared_memory":
                    parent.remove(child)
        return ["".join((element.text or "").split()) for element in root.iter() if isinstance(element.tag, str)]

    assert parts(True) == parts(False)


@pytest.mark.parametrize("mode", network.MODES)
def test_the_controller_may_be_started_from_a_shell_with_the_profile_of_the_others(mode):
    for given in (True, False):
        env = network.environment(mode, {}, shared_memory=given)
        for wanted in (True, False):
            values = network.environment(mode, env, shared_memory=wanted)
            assert values[network.PROFILE_VARIABLES[0]] == str(network.profile(mode, wanted))


def test_the_controller_process_opens_no_shared_memory(start):
    process = start("openvla_ros.controller_node", "-p", "autostart:=false")
    other = start("openvla_ros.say", "-p", "instruction:=hello")

    def segments(pid: int) -> int:
        with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
            return sum("/dev/shm/fast" in line for line in maps)

    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s and not (
        segments(other.pid) and any(s.protocol == "udp" for s in network.open_sockets(process.pid))
    ):
        time.sleep(0.05)
    assert segments(other.pid) > 0, "say, as everybody else, shares memory"
    assert len([s for s in network.open_sockets(process.pid) if s.protocol == "udp"]) >= 2
    assert segments(process.pid) == 0
