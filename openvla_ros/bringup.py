"""Starts the described processes without `ros2 launch`, and ends every one of them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

import openvla_ros
from openvla_core.errors import OpenVLAError
from openvla_ros.node_support import EXIT_CONFIG, PARENT_VARIABLE
from openvla_ros.system import ProcessSpec, SystemArguments, arguments_from, describe_system

TERM_WITHIN_S = 10.0
RESTART_WINDOW_S = 60.0
ORDERLY_S = 2.0  # how long the next process in STOP_ORDER waits for the one before it
# First what gives orders, then what carries them out.
STOP_ORDER = ("say", "policy_node", "controller_node", "sim_node")


class ProcessError(OpenVLAError):
    """A process of the system ended by itself."""


class ProcessGroup:
    """Running processes, each the leader of its own session so that Ctrl-C reaches only this supervisor.

    Args:
        specs: what to start, in this order.
        log_folder: keeps one log file per process; None keeps none.
        show: also prints every line, behind the name of its process.
    """

    def __init__(self, specs: Sequence[ProcessSpec], log_folder: Path | None = None, show: bool = False) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.log_folder = log_folder
        self.processes: dict[str, subprocess.Popen] = {}
        self._logs: dict[str, IO[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._restarts: dict[str, list[float]] = {}
        self._show = show
        try:
            for spec in specs:
                self._start(spec, show)
        except BaseException:
            self.stop()
            raise

    def _start(self, spec: ProcessSpec, show: bool) -> None:
        log: IO[bytes] | None = None
        if self.log_folder is not None:
            self.log_folder.mkdir(parents=True, exist_ok=True)
            if spec.name in self._logs:  # a restart goes on in the same file
                self._logs[spec.name].close()
            mode = "ab" if spec.name in self._logs else "wb"
            log = self._logs[spec.name] = (self.log_folder / f"{spec.name}.log").open(mode)
        output: Any = subprocess.PIPE if show else (log or subprocess.DEVNULL)
        process = subprocess.Popen(
            command(spec),
            env=environment(spec),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes[spec.name] = process
        if show:
            thread = threading.Thread(target=relay, args=(spec.name, process.stdout, log), daemon=True)
            thread.start()
            self._threads.append(thread)

    def restart(self, name: str) -> bool:
        """Starts a process anew that ended by a failure; False when it has failed too often within a minute."""
        now_s = time.monotonic()
        recent = [when_s for when_s in self._restarts.get(name, []) if now_s - when_s < RESTART_WINDOW_S]
        if len(recent) >= self.specs[name].restarts:
            return False
        self._restarts[name] = [*recent, now_s]
        self._start(self.specs[name], self._show)
        return True

    def ended(self) -> dict[str, int]:
        """Exit code of each process that has ended."""
        codes = {name: process.poll() for name, process in self.processes.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def check(self) -> None:
        """Raises ProcessError, with the end of its log, when a process has ended."""
        for name, code in self.ended().items():
            if name == "say" and code == 0:
                continue  # it had one sentence to say
            raise ProcessError(f"{name} ended with exit code {code}.{self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        if self.log_folder is None:
            return ""
        path = self.log_folder / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        return f" The end of {path}:\n" + "\n".join(lines)

    def stop(self) -> None:
        """Ends all processes with SIGTERM, first what gives orders; SIGKILL for what is still there 10 s later."""
        names = sorted(self.processes, key=lambda name: STOP_ORDER.index(name) if name in STOP_ORDER else -1)
        deadline = time.monotonic() + TERM_WITHIN_S
        for name in names:
            self.processes[name].terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(ORDERLY_S)
        for name in names:
            try:
                self.processes[name].wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                # The whole session, in case the process has children of its own.
                os.killpg(self.processes[name].pid, signal.SIGKILL)
                self.processes[name].wait()
        for thread in self._threads:
            thread.join(1.0)
        for log in self._logs.values():
            log.close()


def command(spec: ProcessSpec) -> list[str]:
    """The command line of a process: the module and its ROS arguments."""
    arguments = ["--enclave", spec.enclave, "-r", f"__node:={spec.name}"]
    if spec.namespace:
        arguments += ["-r", f"__ns:=/{spec.namespace}"]
    for name, wanted in spec.remappings:
        arguments += ["-r", f"{name}:={wanted}"]
    for path in spec.parameter_files:
        arguments += ["--params-file", str(path)]
    # After the files: of two values for one parameter, ROS takes the later one.
    for name, value in spec.parameters.items():
        arguments += ["-p", f"{name}:={parameter_text(value)}"]
    return [sys.executable, "-m", spec.module, "--ros-args", *arguments]


def parameter_text(value: Any) -> str:
    """A value as one line of YAML, text in quotes so that it stays text ('yes', '7', a sentence with a colon)."""
    style = '"' if isinstance(value, str) else None
    return yaml.safe_dump(value, default_flow_style=True, default_style=style, width=10**6).replace("\n...", "").strip()


def environment(spec: ProcessSpec) -> dict[str, str]:
    """The environment of a process: ours, what it asks for, and a path on which Python finds this very package."""
    here = str(Path(openvla_ros.__file__).resolve().parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        **spec.environment,
    }


def relay(name: str, stream: IO[bytes], log: IO[bytes] | None) -> None:
    """Copies the lines of a process to the terminal, behind its name, and to its log file."""
    for line in stream:
        sys.stdout.write(f"[{name}] {line.decode(errors='replace')}")
        sys.stdout.flush()
        if log is not None:
            log.write(line)
            log.flush()


def start_demo(overrides: Mapping[str, Any], log_folder: Path) -> ProcessGroup:
    """Starts the simulated robot, the controller and the policy, logging to files; the caller stops them."""
    arguments = arguments_from({"robot": "sim", "dry_run": False, **overrides})
    return ProcessGroup(describe_system(arguments), Path(log_folder))


def run_until_stopped(arguments: SystemArguments, log_folder: Path | None = None) -> int:
    """Starts the system and shows its output until Ctrl-C, SIGTERM or an essential process ends.

    Returns:
        0 after Ctrl-C or SIGTERM, else the exit code of the process that ended.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    group = ProcessGroup(describe_system(arguments), log_folder, show=True)
    try:
        return _watch(group)
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        group.stop()


def _watch(group: ProcessGroup) -> int:
    told: set[str] = set()
    while True:
        for name, code in group.ended().items():
            # A wrong setting of the policy does not heal; a crash leaves the controller holding the arm.
            if group.specs[name].essential or (name == "policy_node" and code == EXIT_CONFIG):
                print(f"{name} ended with exit code {code}; stopping the others.", flush=True)
                return code or 1
            if code and code != EXIT_CONFIG and group.restart(name):
                print(
                    f"{name} ended with exit code {code}; it is started anew and waits for an instruction.", flush=True
                )
                continue
            if name not in told and code:
                print(f"{name} ended with exit code {code}; the others go on. Ctrl-C stops them.", flush=True)
            told.add(name)
        time.sleep(0.1)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
