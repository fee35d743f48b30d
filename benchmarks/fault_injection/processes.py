"""Real processes of one cell: started, stopped, signalled, and their memory read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from openvla_ros.node_support import PARENT_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "test" / "fakes"
HERE = Path(__file__).resolve().parent
OWN = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


class Processes:
    """Processes by name; whatever happens, `stop` ends them all."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.namespace = namespace
        self.running: dict[str, subprocess.Popen] = {}
        self._count = 0

    def start(self, name: str, program: list[str], *ros_arguments: str) -> subprocess.Popen:
        """Starts `program` (a script or -m module) with ROS arguments in the namespace of the cell."""
        self._count += 1
        log = (self.folder / f"{self.namespace.strip('/')}-{name}-{self._count}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *program, "--ros-args", "-r", f"__ns:={self.namespace}", *ros_arguments],
            env={**os.environ, **OWN, PARENT_VARIABLE: str(os.getpid())},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_as_a_terminal_would,
        )
        log.close()
        self.running[name] = process
        return process

    def log(self, name: str) -> str:
        """What the newest process of that name has written."""
        files = sorted(self.folder.glob(f"{self.namespace.strip('/')}-{name}-*.log"), key=lambda p: p.stat().st_mtime)
        return files[-1].read_text(errors="replace") if files else ""

    def tracebacks(self) -> int:
        """Uncaught exceptions in all logs of this cell."""
        files = self.folder.glob(f"{self.namespace.strip('/')}-*.log")
        return sum(path.read_text(errors="replace").count("Traceback (most recent call last)") for path in files)

    def signal(self, name: str, number: int) -> float:
        """Sends a signal; returns the monotonic time just before."""
        sent_s = time.monotonic()
        os.kill(self.running[name].pid, number)
        return sent_s

    def kill(self, name: str) -> float:
        """SIGKILL; returns the monotonic time just before."""
        sent_s = self.signal(name, signal.SIGKILL)
        self.running.pop(name).wait(10)
        return sent_s

    def wait(self, name: str, timeout_s: float) -> int | None:
        """The exit code, or None when it still runs after so long."""
        try:
            return self.running[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ends everything: SIGTERM, then SIGKILL."""
        for process in self.running.values():
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(3.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.running.clear()


def memory(pid: int) -> tuple[float, int]:
    """Resident memory in MB and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return kilobytes / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def _as_a_terminal_would() -> None:
    # A background job ignores SIGINT and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
