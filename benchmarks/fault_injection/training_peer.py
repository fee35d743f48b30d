#!/usr/bin/env python3
"""Forks a process that saves checkpoints of a training, kills it and looks what is there, 10 times; then damages them.

    training_peer.py FOLDER kill|flip SEED

With "flip" nothing is killed: bits of the newest checkpoint are flipped. Prints the figures as one line of JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from openvla_core.errors import CheckpointError
from openvla_core.training.checkpointing import TrainingCheckpoints
from openvla_core.training.distributed import ranks

KILLS, CUTS, FLIPS = 10, 5, 20
NUMBERS = 500_000  # per tensor, two of them: 4 MB


CUT = ("a file cut", "a file missing", "facts damaged")
FLIP = "a flipped bit"


def tensors(step: int) -> dict[str, torch.Tensor]:
    """What the checkpoint of a step holds: every number tells the step."""
    return {"weight": torch.full((NUMBERS,), float(step)), "moment": torch.full((NUMBERS,), -float(step))}


def save_for_ever(folder: Path, first: int, said: int) -> None:
    """A training that does nothing but save, and says so after each."""
    with ranks("cpu") as here:
        checkpoints = TrainingCheckpoints(folder, 2, here)
        step = first
        while True:
            checkpoints.save(step, tensors(step), {"step": step})
            os.write(said, f"{step}\n".encode())
            step += 1


def newest(folder: Path) -> tuple[int, bool]:
    """Step of the newest complete checkpoint and whether it holds what it should; (-1, True) when there is none."""
    with ranks("cpu") as here:
        saved = TrainingCheckpoints(folder, 2, here).newest()
        if saved is None:
            return -1, True
        read = {name: torch.empty(NUMBERS) for name in ("weight", "moment")}
        saved.read(read)
    wanted = tensors(saved.step)
    return saved.step, saved.facts == {"step": saved.step} and all(torch.equal(read[n], wanted[n]) for n in wanted)


def kill_once(folder: Path, first: int, chance: random.Random) -> tuple[int, bool]:
    """The last step that was confirmed, and whether the kill came amid a save."""
    listen, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(listen)
        save_for_ever(folder, first, said)
        os._exit(1)
    os.close(said)
    time.sleep(chance.uniform(0.02, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(listen) as words:
        steps = words.read().split()
    return int(steps[-1]) if steps else -1, any(folder.glob(".step-*"))


def damage(folder: Path, kinds: tuple[str, ...], chance: random.Random) -> dict[str, int]:
    """Damages a copy of the newest checkpoint in several ways: how often it was taken for a good one."""
    wrong = dict.fromkeys(kinds, 0)
    for kind in wrong:
        for _ in range(FLIPS if kind == FLIP else CUTS):
            copy = folder.with_name("damaged")
            shutil.copytree(folder, copy)
            before, _ = newest(copy)
            target = copy / f"step-{before:08d}"
            part = next(target.glob("part-*"))
            if kind == "a file cut":
                part.write_bytes(part.read_bytes()[: -chance.randrange(1, 1000)])
            elif kind == "a file missing":
                part.unlink()
            elif kind == "facts damaged":
                facts = target / "training.json"
                facts.write_bytes(facts.read_bytes()[: -chance.randrange(1, 100)])
            else:
                data = bytearray(part.read_bytes())
                data[chance.randrange(len(data) // 2, len(data))] ^= 1 << chance.randrange(8)
                part.write_bytes(data)
            try:
                step, right = newest(copy)
                wrong[kind] += step == before or not right
            except CheckpointError:
                pass  # refused with a word is as good
            shutil.rmtree(copy)
    return wrong


def main() -> int:
    folder, what, chance = Path(sys.argv[1]) / "checkpoints", sys.argv[2], random.Random(sys.argv[3])
    torch.set_num_threads(1)
    kills = KILLS if what == "kill" else 0
    wrong = {"confirmed and gone": 0, "not what was saved": 0}
    cut_off = first = 0
    for _ in range(kills):
        confirmed, amid = kill_once(folder, first, chance)
        cut_off += amid
        step, right = newest(folder)
        wrong["confirmed and gone"] += step < confirmed
        wrong["not what was saved"] += not right
        first = step + 1
    with ranks("cpu") as here:
        for step in (first, first + 1):
            TrainingCheckpoints(folder, 2, here).save(step, tensors(step), {"step": step})
    kinds = CUT if what == "kill" else (FLIP,)
    wrong |= damage(folder, kinds, chance)
    tried = kills + sum(FLIPS if kind == FLIP else CUTS for kind in kinds)
    print(json.dumps({"kills": kills, "tried": tried, "saved": first + 2, "cut_off": cut_off, "wrong": wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
