"""`openvla demo`: starts the simulated arm, runs episodes through the ROS graph and reports what happened."""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from openvla_core.errors import ConfigError, OpenVLAError
from openvla_core.evaluation.contact_sheet import save_contact_sheet
from openvla_core.evaluation.episodes import TIMEOUT_S, PlannedEpisode, plan_episodes, scene_seed
from openvla_core.evaluation.report import print_report, row_line
from openvla_core.evaluation.results import EpisodeRow, Results, read_rows
from openvla_core.evaluation.video import Clip, Mp4Writer, write_gif
from openvla_core.sim.tasks import TASK_KINDS, parse_instruction
from openvla_core.training.versions import library_versions
from openvla_ros import bringup, network
from openvla_ros.episode_runner import VIDEO_FPS, EpisodeRunner

GIF_EPISODES = 4
FILES = ("results.json", "demo.mp4", "demo.gif", "contact_sheet.png")
READY_WITHIN_S = 240.0
EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """The options of `openvla demo`."""
    parser = argparse.ArgumentParser(prog="openvla demo", description=__doc__)
    add = parser.add_argument
    add("--episodes", type=int, default=8, help="how many episodes, the tasks in turn (default 8)")
    add("--seed", type=int, default=0, help="which held-out scenes, colours and phrasings (default 0)")
    add(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder for results.json, demo.mp4, demo.gif, contact_sheet.png",
    )
    add("--instruction", help="show one episode of your own sentence")
    add("--tasks", default=",".join(TASK_KINDS), help="tasks to run, separated by commas (default reach,pick)")
    add("--swap", action="store_true", help="run every scene twice, for two different colours")
    add("--checkpoint", help="checkpoint directory (default: the one that comes with the project)")
    add("--device", help="where the model runs: cpu, cuda (default: as in the configuration)")
    add("--decoding", choices=("constrained", "reference"), help="how action tokens are picked")
    add("--temperature", type=float, help="0 picks the most probable token, above 0 samples")
    add("--video-episodes", type=int, default=8, help="how many episodes are filmed (default 8)")
    add("--domain", type=int, help="ROS domain to run in (default: one that nobody on this machine uses)")
    add("--resume", action="store_true", help="keep the finished episodes of results.json in --out and run the rest")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo. Returns 0, 1 when something broke, 2 when the instruction was refused, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = build_parser().parse_args(argv)
    console = Console(highlight=False)
    interruption = Interruption()
    earlier = {n: signal.signal(n, interruption.request) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return Demo(arguments, argv, console, interruption).run()
    except OpenVLAError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}", markup=True, soft_wrap=True)
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.print("Interrupted; all processes have been stopped.")
        return EXIT_INTERRUPTED
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class Interruption:
    """Ctrl-C and SIGTERM, noticed at a safe place: raised in the middle of rclpy they come out as another error."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, signum: int, frame: object) -> None:
        """The signal handler."""
        self.requested = True

    def check(self) -> None:
        """Raises KeyboardInterrupt once it has been requested."""
        if self.requested:
            raise KeyboardInterrupt


class Demo:
    """One run of the command: its plan, its results and its films."""

    def __init__(
        self, arguments: argparse.Namespace, argv: Sequence[str], console: Console, interruption: Interruption
    ) -> None:
        self.arguments = arguments
        self.console = console
        self.interruption = interruption
        self.plan = plan(arguments)
        self.out: Path = arguments.out
        self.clips: list[Clip] = []
        self.refusal = ""
        self.results = Results(self.out / "results.json", run_facts(arguments, argv), len(self.plan))

    def run(self) -> int:
        """Runs what is planned and writes everything; whatever happens, the processes are stopped."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.arguments.resume and self.results.path.exists():
            self.results.rows = finished_rows(self.results.path, self.plan)
        else:
            for name in FILES:
                (self.out / name).unlink(missing_ok=True)
        use_private_graph(self.arguments.domain)
        try:
            with graph(self.arguments, self.out, self.console, self.interruption) as runner:
                facts = policy_facts(runner)
                if self.results.rows:
                    check_same_policy(self.results.path, facts)
                self.results.facts |= facts
                self._run_episodes(runner)
        finally:
            self._write_pictures()
        self._report()
        return EXIT_REFUSED if self.refusal else 0

    def _run_episodes(self, runner: EpisodeRunner) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with (
            contextlib.closing(Mp4Writer(self.out / "demo.mp4", VIDEO_FPS)) as film,
            Progress(*columns, console=self.console, transient=True) as progress,
        ):
            bar = progress.add_task("episodes", total=len(self.plan), completed=len(self.results.rows))
            done = {row.index for row in self.results.rows}
            for planned in (episode for episode in self.plan if episode.index not in done):
                progress.update(bar, description=escape(f'"{planned.instruction}"'))
                record = len(self.clips) < self.arguments.video_episodes
                row, clip, refusal = runner.run(planned, title(planned), record=record)
                self.results.add(row)
                self.refusal = refusal or self.refusal
                if record:
                    self.clips.append(clip)
                    film.add(clip)
                progress.advance(bar)
                self.console.print(row_line(row, self.results.rows), soft_wrap=True)

    def _write_pictures(self) -> None:
        if self.clips:
            save_contact_sheet(self.out / "contact_sheet.png", self.clips)
            write_gif(self.out / "demo.gif", self.clips[:GIF_EPISODES], VIDEO_FPS)

    def _report(self) -> None:
        print_report(self.console, self.results.rows)
        if self.refusal:
            self.console.print(f"The policy refused the instruction: {self.refusal}", markup=False, soft_wrap=True)
        names = ", ".join(name for name in FILES if (self.out / name).exists())
        self.console.print(f"Written to {self.out}: {names}", markup=False, soft_wrap=True)


def policy_facts(runner: EpisodeRunner) -> dict[str, Any]:
    """How the running policy was set up, as the node itself says, and which weights it has."""
    names = ("checkpoint", "decoding", "temperature", "seed", "device", "dtype")
    facts = runner.policy_parameters(names)
    folder = Path(facts.pop("checkpoint"))
    weights = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    return {"decoding": facts, "checkpoint": {"name": folder.name, "sha256": weights}}


def check_same_policy(path: Path, facts: dict[str, Any]) -> None:
    """Raises ConfigError when the episodes in this results.json were run by other weights or with other decoding."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name, value in facts.items() if earlier.get(name, value) != value]
    if changed:
        raise ConfigError(
            f"{path} was made with another {' and '.join(changed)}; rates of two policies cannot be mixed. "
            "Give the same options, or another --out."
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def plan(arguments: argparse.Namespace) -> list[PlannedEpisode]:
    """The episodes the options ask for. Raises ConfigError for impossible ones."""
    if arguments.instruction is not None:
        task = parse_instruction(arguments.instruction)
        timeout_s = TIMEOUT_S[task.kind] if task else max(TIMEOUT_S.values())
        return [PlannedEpisode(0, scene_seed(arguments.seed, 0), arguments.instruction, timeout_s, task)]
    kinds = [kind.strip() for kind in arguments.tasks.split(",") if kind.strip()]
    return plan_episodes(arguments.episodes, arguments.seed, kinds, swap=arguments.swap)


def finished_rows(path: Path, plan: Sequence[PlannedEpisode]) -> list[EpisodeRow]:
    """The rows of an interrupted run of the same plan. Raises ConfigError when they belong to another plan."""
    rows = read_rows(path)
    wanted = {(planned.index, planned.scene_seed, planned.instruction) for planned in plan}
    if any((row.index, row.scene_seed, row.instruction) not in wanted for row in rows):
        raise ConfigError(f"{path} holds episodes of other options. Give the same options, or another --out.")
    return rows


def use_private_graph(domain: int | None) -> None:
    """Keeps a pretend arm's commands away from real robots: this machine only, in a domain nobody else is in.

    Whatever the environment says: the shell the demo is started from may well be set up for a robot.
    """
    for name in (*network.PROFILE_VARIABLES, network.MODE_VARIABLE, "ROS_DISCOVERY_SERVER"):
        os.environ.pop(name, None)
    os.environ.update(network.environment(network.LOOPBACK))
    os.environ["ROS_DOMAIN_ID"] = str(free_domain() if domain is None else domain)


def free_domain() -> int:
    """A ROS domain, 1 to 100, that no process of this machine takes part in. Raises ConfigError when there is none."""
    domains = list(range(1, 101))
    random.SystemRandom().shuffle(domains)
    for domain in domains:
        # Port of the first participant in a domain, by the DDS rules: it is bound while somebody is there.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind(("", 7410 + 250 * domain))
            return domain
    raise ConfigError("every ROS domain from 1 to 100 is in use on this machine. Give one with --domain.")


@contextlib.contextmanager
def graph(
    arguments: argparse.Namespace, out: Path, console: Console, interruption: Interruption
) -> Iterator[EpisodeRunner]:
    """The running graph and a runner in it; on the way out every process is stopped."""
    overrides = {name: getattr(arguments, name) for name in ("checkpoint", "device", "decoding", "temperature")}
    given = {name: value for name, value in overrides.items() if value is not None}
    processes = bringup.start_demo({**given, "seed": arguments.seed}, log_folder=out / "logs")
    try:
        # rclpy's own handlers would end the context before the episodes are closed properly.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)

        def check() -> None:
            interruption.check()
            processes.check()

        runner = EpisodeRunner(check)
        with console.status("starting the simulated arm, the policy and the controller"):
            runner.wait_until_ready(READY_WITHIN_S)
        console.print(f"The graph is up on ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}.")
        try:
            yield runner
        finally:
            runner.close()
    finally:
        processes.stop()
        rclpy.try_shutdown()


def title(planned: PlannedEpisode) -> str:
    """The small line under the instruction."""
    kind = planned.task.kind if planned.task else "your sentence"
    return f"{kind}, scene {planned.scene_seed}"


def run_facts(arguments: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """What is the same for all episodes: command, options, seed and versions."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return {
        "command": shlex.join(["openvla", "demo", *argv]),
        "options": options,
        "seed": arguments.seed,
        "versions": {**library_versions("rclpy"), "platform": platform.platform()},
    }
