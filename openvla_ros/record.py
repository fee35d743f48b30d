"""`openvla record`: episodes from the running system, from the simulation's expert, or from you at the keyboard."""

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import rclpy
from rclpy.signals import SignalHandlerOptions

from openvla_core.datasets.bags import repair as bag_repair
from openvla_core.datasets.bags.store import OUTCOMES, label
from openvla_core.errors import OpenVLAError
from openvla_core.evaluation.episodes import SCENES_PER_SEED, PlannedEpisode, plan_episodes
from openvla_core.sim.tasks import TASK_KINDS
from openvla_ros import conversions, preflight, topics
from openvla_ros.bringup import ProcessGroup
from openvla_ros.demo import Interruption, use_private_graph
from openvla_ros.episode_runner import EpisodeRunner
from openvla_ros.graph_client import GraphError, of
from openvla_ros.recording import SOURCES, describe_recording, teleop_arguments
from openvla_ros.system import SystemArguments, argument_fields, arguments_from

RECORDED_BASE = 50_000_000  # scenes that no evaluation uses
READY_WITHIN_S = 120.0
EXIT_ERROR, EXIT_INTERRUPTED = 3, 130
BESIDE = """Recording to {root}. In another terminal:
  ros2 service call /recorder_node/start_episode std_srvs/srv/Trigger
  ros2 service call /recorder_node/end_episode std_srvs/srv/SetBool "{{data: true}}"     # false: it failed
  ros2 service call /recorder_node/discard_episode std_srvs/srv/Trigger
Ctrl-C ends the recorder."""


def build_parser() -> argparse.ArgumentParser:
    """The options of `openvla record`."""
    parser = argparse.ArgumentParser(
        prog="openvla record",
        description=f"{__doc__} Also: openvla record repair ROOT; openvla record label EPISODE OUTCOME.",
    )
    add = parser.add_argument
    add("--root", type=Path, default=Path("recordings"), help="folder for the episodes (default recordings)")
    add(
        "--source",
        choices=SOURCES,
        default="none",
        help="none: only the recorder, beside a system that runs; policy, expert, teleop: also the system, with that "
        "in charge (default none)",
    )
    add("--episodes", type=int, default=10, help="how many, with --source expert (default 10)")
    add("--seed", type=int, default=0, help="which scenes, colours and wordings, with --source expert (default 0)")
    add("--tasks", default=",".join(TASK_KINDS), help="tasks of the expert, separated by commas (default reach,pick)")
    add("--instruction", default="", help="what the robot is to do, with --source policy or teleop")
    add("--operator", default="", help="who operates the robot; written into every episode")
    add("--min-free-gb", type=float, help="free disk space needed to start an episode (default 2)")
    system = parser.add_argument_group("the system", "as of `openvla up`")
    for field in _system_fields():
        shown = field.metadata["description"] + (f" (default {field.default})" if field.default else "")
        name = "--" + field.name.replace("_", "-")
        system.add_argument(name, dest=field.name, choices=field.metadata["choices"] or None, help=shown)
    return parser


def _system_fields() -> list[dataclasses.Field]:
    """Arguments of the system, without those that mean something else to a recording."""
    return [field for field in argument_fields() if field.name not in ("instruction", "seed")]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 3 for anything the user can correct, 130 after Ctrl-C in a series of episodes."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["repair"]:
        return bag_repair.main(argv[1:])
    try:
        if argv[:1] == ["label"]:
            return relabel(argv[1:])
        options = build_parser().parse_args(argv)
        arguments = arguments_from({field.name: getattr(options, field.name) for field in _system_fields()})
        if options.source == "expert":
            return record_expert(options, arguments)
        return record_teleop(options, arguments) if options.source == "teleop" else record_live(options, arguments)
    except OpenVLAError as error:
        tell(f"{type(error).__name__}: {error}", sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        tell("Interrupted; committed episodes are complete.")
        return EXIT_INTERRUPTED


def tell(line: str, stream: TextIO | None = None) -> None:
    """Shows one line at once."""
    stream = stream or sys.stdout
    stream.write(line + "\n")
    stream.flush()


def relabel(argv: Sequence[str]) -> int:
    """`openvla record label EPISODE OUTCOME`: corrects the outcome of a committed episode."""
    parser = argparse.ArgumentParser(prog="openvla record label")
    parser.add_argument("episode", type=Path, help="folder of the episode")
    parser.add_argument("outcome", choices=OUTCOMES)
    options = parser.parse_args(argv)
    label(options.episode, options.outcome)
    return 0


# The expert -------------------------------------------------------------------------------------------------------


class RecordingRunner(EpisodeRunner):
    """Runs episodes as an evaluation does, each with a recording around it."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(check)
        client = self.node.create_client
        self.start_episode = client(topics.Trigger, of("recorder_node", topics.START_EPISODE))
        self.end_episode = client(topics.SetBool, of("recorder_node", topics.END_EPISODE))
        self.recorder = ""
        self.node.create_subscription(
            topics.Status, of("recorder_node", topics.STATUS), self._on_recorder_status, topics.LATCHED
        )

    def _on_recorder_status(self, message) -> None:
        self.recorder = conversions.to_status(message).code

    def wait_for_recorder(self) -> None:
        """Returns once the recorder hears every topic it needs."""
        self.require(lambda: self.recorder == "READY", READY_WITHIN_S, "the recorder hearing its topics")

    def instruct(self, sentence: str) -> None:
        """Begins to record just before the sentence is said."""
        self.trigger(self.start_episode)
        super().instruct(sentence)

    def record(self, planned: PlannedEpisode) -> tuple[bool, str]:
        """Runs and commits one episode; returns the verdict of the judge and what the recorder said."""
        row, _, refusal = self.run(planned, "", record=False)
        if refusal:
            raise GraphError(f"the expert refused: {refusal}")
        response = self.call(self.end_episode, topics.SetBool.Request(data=row.success))
        committed, sentence = conversions.replied(response)
        if not committed:
            raise GraphError(f"the recorder answered: {sentence}")
        return row.success, sentence


def plan(options: argparse.Namespace) -> list[PlannedEpisode]:
    """The episodes to record, in scenes that no evaluation uses. Raises ConfigError."""
    kinds = [kind.strip() for kind in options.tasks.split(",") if kind.strip()]
    base = RECORDED_BASE + SCENES_PER_SEED * options.seed
    episodes = plan_episodes(options.episodes, options.seed, kinds)
    return [dataclasses.replace(episode, scene_seed=base + episode.index) for episode in episodes]


def record_expert(options: argparse.Namespace, arguments: SystemArguments) -> int:
    """Records a series of the expert's episodes in a graph of its own."""
    episodes = plan(options)
    settings = {"min_free_gb": options.min_free_gb}
    operator = options.operator or "scripted expert"
    interruption = Interruption()
    earlier = {n: signal.signal(n, interruption.request) for n in (signal.SIGINT, signal.SIGTERM)}
    use_private_graph(None)
    group = ProcessGroup(
        describe_recording(arguments, str(options.root), "expert", operator, **settings), options.root / ".logs"
    )
    try:
        os.environ.update(preflight.check(arguments.network, False))
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)

        def check() -> None:
            interruption.check()
            group.check()

        runner = RecordingRunner(check)
        with contextlib.closing(runner):
            runner.wait_until_ready(READY_WITHIN_S)
            runner.wait_for_recorder()
            successes = 0
            for episode in episodes:
                success, sentence = runner.record(episode)
                successes += success
                tell(f"{episode.index + 1}/{len(episodes)} {episode.instruction!r}: {sentence}")
        tell(f"{len(episodes)} episodes in {options.root}, {successes} successful.")
        return 0
    finally:
        group.stop()
        rclpy.try_shutdown()
        for number, handler in earlier.items():
            signal.signal(number, handler)


# A person ---------------------------------------------------------------------------------------------------------


def record_live(options: argparse.Namespace, arguments: SystemArguments) -> int:
    """Starts the recorder, with --source policy the whole system too, and shows their output until Ctrl-C."""
    if options.instruction:
        arguments = dataclasses.replace(arguments, instruction=options.instruction)
    specs = describe_recording(
        arguments, str(options.root), options.source, options.operator, min_free_gb=options.min_free_gb
    )
    interruption = Interruption()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interruption.request)
    group = ProcessGroup(specs, show=True)
    tell(BESIDE.format(root=options.root))
    try:
        while not interruption.requested:
            group.check()
            time.sleep(0.1)
        return 0
    finally:
        group.stop()


def record_teleop(options: argparse.Namespace, arguments: SystemArguments) -> int:
    """Starts robot, controller and recorder, and takes the keys of this terminal."""
    from openvla_ros import teleop
    from openvla_ros.keyboard import Keyboard

    Keyboard()  # refuses before anything is started
    specs = describe_recording(
        arguments, str(options.root), "teleop", options.operator, min_free_gb=options.min_free_gb
    )
    os.environ.update(preflight.check(arguments.network, arguments.accept_open_dds == "true"))
    group = ProcessGroup(specs, options.root / ".logs")
    try:
        return teleop.main(teleop_arguments(arguments, options.instruction))
    finally:
        group.stop()


if __name__ == "__main__":
    sys.exit(main())
