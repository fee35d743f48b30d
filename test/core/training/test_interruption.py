"""SIGTERM and Ctrl-C: a checkpoint of the step that is being made, a sentence, and a training that goes on the same."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from training_bench import shards

from openvla_core.training.finetune import main
from openvla_core.training.interruption import Interruption, Stopped

ROOT = Path(__file__).resolve().parents[3]
# The command, which waits after its third step until it may go on.
PAUSED = """
import sys
from openvla_core.training import watchers
from openvla_core.training.finetune import main

class Pause:
    on_start = on_validation = on_end = lambda self, *told: None

    def on_step(self, step, figures):
        if step == 3:
            print("three", flush=True)
            sys.stdin.readline()

made = watchers.watchers_of
watchers.watchers_of = lambda recipe, folder: [*made(recipe, folder), Pause()]
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def arguments(word_checkpoint, tmp_path_factory):
    data = shards(tmp_path_factory.mktemp("data"))
    return [
        "--data", str(data), "--base", str(word_checkpoint), "--convention=base", "--strategy=full", "--device=cpu",
        "--learning-rate=1e-3", "--max-steps=6", "--batch-size=4", "--accumulation=2", "--log-every=1",
        "--save-every=100", "--workers=1", "--tensorboard=false", "--stop-accuracy=none",
    ]  # fmt: skip


def paused(arguments) -> subprocess.Popen:
    """The command after three steps, in a group of processes of its own; its sums are added up as in this process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == "three\n", process.communicate()[1]
    return process


def weights(out: Path, step: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "checkpoints" / f"step-{step:08d}").glob("part-*")}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_after_the_step_with_a_checkpoint_and_goes_on_to_the_bit(arguments, tmp_path, capfd, number, code):
    """The signal reaches the processes that prepare batches as well, and comes twice, as from torchrun."""
    process = paused([*arguments, "--out", str(tmp_path / "stopped")])
    for _ in range(2):
        os.killpg(process.pid, number)
    _, told = process.communicate("on\n")
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert f"{number.name}: ends after this step" in told
    assert f"Stopped by {number.name} after step 3" in told.splitlines()[-1] and told.rstrip().endswith("--resume")
    checkpoints = tmp_path / "stopped" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000003"]
    if number == signal.SIGINT:
        return  # what was written is the same
    assert main([*arguments, "--out", str(tmp_path / "stopped"), "--resume"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert weights(tmp_path / "stopped", 6) == weights(tmp_path / "whole", 6) != {}


def test_before_and_after_the_steps_a_signal_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM") as stopped, Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM and stopped.value.step is None
    assert isinstance(stopped.value, KeyboardInterrupt), "nothing that expects errors may swallow it"
    assert signal.getsignal(signal.SIGTERM) is before


def test_while_held_it_is_remembered():
    with Interruption() as interruption:
        with interruption.held():
            assert not interruption.came()
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.came() and interruption.number == signal.SIGINT
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_nothing_is_changed():
    handlers = []

    def look() -> None:
        with Interruption():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [before]
