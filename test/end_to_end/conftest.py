"""The real graph in processes of its own: no network, a domain of its own, the checkpoint that ships."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "OPENVLA_TEST_RUN"


@pytest.fixture(scope="session")
def shipped_checkpoint() -> Path:
    """The tiny OpenVLA of this repository, or the one named by OPENVLA_TEST_CHECKPOINT."""
    return Path(os.environ.get("OPENVLA_TEST_CHECKPOINT", ROOT / "checkpoints" / "openvla-tiny-sim"))


@pytest.fixture(scope="session")
def demo_environment(shipped_checkpoint) -> dict[str, str]:
    """Environment of a demo in a process of its own; processes that descend from it can be found by MARK."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        MARK: uuid.uuid4().hex,
    }


@pytest.fixture(scope="session")
def start_demo(demo_environment, shipped_checkpoint):
    """Starts `openvla demo` with these options; its standard output and error come through one pipe."""

    def start(*options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "openvla_ros.cli", "demo", "--checkpoint", str(shipped_checkpoint), *options]
        return subprocess.Popen(
            command,
            env=demo_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell that runs the tests in the background hands on an ignored SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return start


@pytest.fixture
def descendants(demo_environment):
    """Finds the command lines of processes that a demo of this session started and that are still there."""
    mark = f"{MARK}={demo_environment[MARK]}".encode()

    def find() -> Iterator[str]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended, or it belongs to somebody else

    return find
