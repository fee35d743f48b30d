"""The recorder node: one bag per episode, begun and ended by services. It only listens; nothing here moves an arm."""

import contextlib
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message

from openvla_core.datasets.bags.message_types import MessageTypes
from openvla_core.datasets.bags.sentence_log import SentenceLog
from openvla_core.datasets.bags.sentences import longest
from openvla_core.datasets.bags.store import GIGABYTE, EpisodeStore
from openvla_core.datasets.bags.thread import EpisodeThread
from openvla_core.errors import DatasetError, OpenVLAError
from openvla_ros import conversions, topics
from openvla_ros.controller_card import ControllerCard
from openvla_ros.episode_facts import ClockWatch, audit, package_version, slow_topics
from openvla_ros.message_files import find_definition
from openvla_ros.node_support import run
from openvla_ros.parameters import declare_settings
from openvla_ros.recorder_settings import RecorderSettings, wanted_topics
from openvla_ros.status_board import StatusBoard
from openvla_ros.timing import steady_timer
from openvla_ros.topic_tap import TopicTap
from openvla_ros.topics import State

LOOK_S = 0.2
# Said once and true until said again: an episode begins with the newest of these.
SAID_ONCE = (topics.INSTRUCTION, topics.POLICY_INSTRUCTION, "controller_node/status")


class RecorderNode(Node):
    """Writes what is said on the chosen topics between ~/start_episode and ~/end_episode."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("recorder_node", **node_arguments)
        self.settings = declare_settings(self, RecorderSettings)
        wanted = wanted_topics(self.settings)
        self.store = EpisodeStore(Path(self.settings.root).expanduser())
        self.writing: EpisodeThread | None = None
        self.started_s = 0.0
        self.sentences = SentenceLog(self.settings.instruction)
        self.clock = ClockWatch()
        self.others = 0  # recorders that answer the same calls
        self.controller = ControllerCard(self, self.settings.convention)
        self.board = StatusBoard(self, self.measure, self.details)
        types = MessageTypes(find_definition)
        self.taps = [
            TopicTap(self, topic, types, self.on_message, self.settings.images, self.settings.jpeg_quality)
            for topic in wanted
        ]
        self.create_subscription(topics.String, topics.INSTRUCTION, self.on_instruction, topics.RECORD)
        self.create_subscription(topics.String, topics.POLICY_INSTRUCTION, self.on_active, topics.LATCHED)
        self.create_service(topics.Trigger, topics.START_EPISODE, self.on_start)
        self.create_service(topics.SetBool, topics.END_EPISODE, self.on_end)
        self.create_service(topics.Trigger, topics.DISCARD_EPISODE, self.on_discard)
        steady_timer(self, LOOK_S, self.on_look)
        left = len(self.store.left_open())
        if left:
            self.get_logger().warning(
                f"{left} episode(s) under {self.store.open_root} were left behind: openvla record repair "
                f"{self.settings.root}"
            )
        self.say_ready()

    # What is heard --------------------------------------------------------------------------------------------------

    def on_message(self, tap: TopicTap, now_ns: int, data: bytes, sent_ns: int) -> None:
        if self.writing is not None and tap.facts is not None:
            self.writing.write(tap.facts, now_ns, data, sent_ns)
        if tap.wanted.name == topics.INSTRUCTION and not self.sentences.said:
            # Said before this node was there, by somebody who repeats it for those who come later.
            self.on_instruction(deserialize_message(data, topics.String))

    def on_instruction(self, message) -> None:
        self.sentences.hear(conversions.to_text(message))
        self.note_instruction()

    def on_active(self, message) -> None:
        self.sentences.follow(conversions.to_text(message))
        self.note_instruction()

    def note_instruction(self) -> None:
        """Keeps every change within an episode, where a repair finds it too."""
        if self.writing is not None and self.sentences.note():
            self.writing.note({"instructions": [*self.sentences.entries]})

    # Time -----------------------------------------------------------------------------------------------------------

    def on_look(self) -> None:
        for tap in self.taps:
            tap.look()
        self.clock.look()
        self.look_for_others()
        if self.writing is None:
            if self.board.report.code in ("READY", "TOPIC_MISSING", "STARTING"):
                self.say_ready()
        elif self.writing.error is not None:
            self.fail(self.writing.error)
        else:
            self.say_recording()

    def look_for_others(self) -> None:
        """Two recorders of one name both answer a call; each episode is then there twice."""
        others = self.count_publishers(self.resolve_topic_name(topics.STATUS)) - 1
        if others > self.others:
            self.get_logger().warning(
                f"{others} other node(s) called {self.get_fully_qualified_name()} run too: every episode is recorded "
                "more than once. End all but one of them."
            )
        self.others = others

    def missing(self) -> list[str]:
        """What is wrong with the topics every episode must have, one phrase each."""
        phrases = []
        for tap in self.taps:
            allowed_s = self.settings.missing_after_s
            if tap.wanted.rate_hz:
                allowed_s = max(allowed_s, 2.0 / tap.wanted.rate_hz)
            if tap.problem:
                phrases.append(tap.problem)
            elif tap.wanted.required and tap.facts is None:
                phrases.append(f"{tap.name} has no publisher")
            elif tap.wanted.required and tap.silent_s() > allowed_s:
                phrases.append(f"{tap.name} is silent")
        return phrases

    def say_ready(self) -> None:
        phrases = self.missing()
        if phrases:
            self.board.set(State.STANDBY, "TOPIC_MISSING", f"Not recording: {'; '.join(phrases)}.")
        else:
            self.board.set(State.STANDBY, "READY", f"Ready to record to {self.store.root}.")

    def say_recording(self) -> None:
        assert self.writing is not None
        name, phrases = self.writing.episode.name, self.missing()
        if time.monotonic() - self.started_s < self.settings.missing_after_s:
            phrases = []
        if phrases:
            sentence = f"Recording {name}, but {'; '.join(phrases)}. Discard it unless that is meant."
            self.board.set(State.ACTIVE, "TOPIC_MISSING", sentence)
        elif self.writing.dropped:
            sentence = f"Recording {name}, but the disk does not keep up: messages were dropped. Discard it."
            self.board.set(State.ACTIVE, "DISK_SLOW", sentence)
        elif not self.sentences.current:
            sentence = f"Recording {name} without an instruction: say what the robot is to do on the topic instruction."
            self.board.set(State.ACTIVE, "NO_INSTRUCTION", sentence)
        else:
            self.board.set(State.ACTIVE, "RECORDING", f"Recording {name}: {self.sentences.current!r}.")

    def fail(self, error: DatasetError) -> None:
        """Stops at an error of the disk; what was written stays under .open for a repair."""
        if self.writing is not None:
            self.writing.episode.leave()
            self.writing = None
        self.board.set(State.FAULT, "DISK", str(error))

    # Services -------------------------------------------------------------------------------------------------------

    def on_start(self, request, response):
        if self.writing is not None:
            sentence = f"{self.writing.episode.name} is being recorded; end or discard it first."
            return conversions.reply(response, False, sentence)
        phrases = self.missing()
        if phrases and self.settings.require_topics:
            return conversions.reply(response, False, f"Not started: {'; '.join(phrases)}.")
        try:
            self.begin()
        except DatasetError as error:
            self.board.set(State.FAULT, "DISK", str(error))
            return conversions.reply(response, False, str(error))
        self.say_recording()
        return conversions.reply(response, True, self.board.report.sentence)

    def begin(self) -> None:
        """Opens an episode; raises DatasetError."""
        self.store.require_space(self.settings.min_free_gb)
        self.sentences.begin()
        episode = self.store.begin(self.facts())
        self.writing = EpisodeThread(episode)
        self.started_s = time.monotonic()
        self.clock = ClockWatch()
        now_ns = time.time_ns()
        for tap in self.taps:
            tap.clear()
            if tap.wanted.name == topics.INSTRUCTION and not self.sentences.said:
                continue
            if tap.facts is not None and tap.last is not None and tap.wanted.name in SAID_ONCE:
                self.writing.write(tap.facts, now_ns, tap.last[1], tap.last[0])

    def on_end(self, request, response):
        if self.writing is None:
            return conversions.reply(response, False, self.why_not_recording())
        outcome = "success" if conversions.is_set_to(request) else "failure"
        duration_s = time.monotonic() - self.started_s
        writing = self.writing
        try:
            writing.stop()
            folder = writing.episode.commit(self.ending_facts(outcome, duration_s, writing.dropped))
        except DatasetError as error:
            self.fail(error)
            return conversions.reply(response, False, str(error))
        self.writing = None
        count = sum(writing.episode.writer.counts.values())
        sentence = f"Committed {folder.name}: {outcome}, {duration_s:.1f} s, {count} messages."
        sentence = " ".join([sentence, *self.complaints()])
        self.board.set(State.STANDBY, "COMMITTED", sentence)
        return conversions.reply(response, True, sentence)

    def why_not_recording(self) -> str:
        """What to answer when there is no episode to end."""
        failed = self.board.report.state == State.FAULT
        return self.board.report.sentence if failed else "No episode is being recorded."

    def on_discard(self, request, response):
        if self.writing is None:
            return conversions.reply(response, False, self.why_not_recording())
        writing, self.writing = self.writing, None
        try:
            writing.stop()
        except DatasetError as error:
            self.get_logger().warning(str(error))
        try:
            folder = writing.episode.discard()
        except OSError as error:
            writing.episode.leave()
            return conversions.reply(response, False, f"It could not be moved to .discarded: {error}.")
        self.board.set(State.STANDBY, "DISCARDED", f"Discarded {folder.name}; it is in {folder.parent}.")
        return conversions.reply(response, True, self.board.report.sentence)

    def close(self) -> None:
        """The process ends: an open episode is completed but not committed, as nobody has told its outcome."""
        if self.writing is None:
            return
        writing, self.writing = self.writing, None
        try:
            writing.stop()
            facts = self.ending_facts("unknown", time.monotonic() - self.started_s, writing.dropped)
            writing.episode.finish({**facts, "interrupted": True})
        except OpenVLAError as error:
            self.get_logger().error(str(error))
        writing.episode.leave()
        self.get_logger().warning(
            f"{writing.episode.name} was being recorded. It is kept, but not committed: openvla record repair "
            f"{self.settings.root}"
        )

    # What an episode says about itself ------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What is known at the start."""
        return {
            "version": package_version(),
            "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "instruction": self.sentences.current,
            "instructions": self.sentences.entries,
            "operator": self.settings.operator,
            "robot": self.settings.robot,
            "convention": self.controller.card,
        }

    def ending_facts(self, outcome: str, duration_s: float, dropped: int) -> dict[str, Any]:
        """What is known at the end: the verdict, the sentence, and how the topics came."""
        facts = {
            "outcome": outcome,
            "duration_s": round(duration_s, 3),
            "convention": self.controller.card,
            **audit(self.taps),
        }
        entries = self.sentences.entries
        facts |= {"instruction": longest(entries, duration_s), "instructions": entries}
        facts |= {"clock_jumps": self.clock.jumps} if self.clock.jumps else {}
        return {**facts, "dropped": dropped} if dropped else facts

    def complaints(self) -> list[str]:
        """What a person should know about an episode that has just ended, one sentence each."""
        sentences = self.sentences.complaints()
        if self.clock.jumps:
            sentences.append(f"The clock was set by {self.clock.jumps[0][1]:+.1f} s in between: discard it.")
        if self.controller.card is None:
            sentences.append("It has no convention card.")
        return sentences + slow_topics(self.taps)

    def measure(self) -> dict:
        return {"instruction": self.sentences.current, "rate_hz": self.taps[0].rate_hz if self.taps else 0.0}

    def details(self) -> dict[str, str]:
        details = {f"rate {tap.name}": f"{tap.rate_hz:.2f}" for tap in self.taps if tap.count}
        with contextlib.suppress(DatasetError):
            details["free_gb"] = f"{self.store.free_bytes() / GIGABYTE:.2f}"
        if self.writing is not None:
            details["seconds"] = f"{time.monotonic() - self.started_s:.1f}"
            details["dropped"] = str(self.writing.dropped)
        return details


def main(args: list[str] | None = None) -> int:
    """Entry point of the recorder process."""
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
