"""What a training process does with the loader, without a model: takes batches, writes them down, saves the state.

    python train_like.py FOLDER OUT RANK WORLD WORKERS

FOLDER holds data sets of shards; OUT is a file of lines "number of the batch, samples". The state is saved after every
batch, as a training's checkpoint is, and taken up when it is there. Every line on the standard input asks for a batch.
"""

import json
import os
import sys
from pathlib import Path

from openvla_core.datasets.streaming.loader import StreamingLoader
from openvla_core.datasets.streaming.shards import ShardSource

WEIGHTS = {"one": 1.0, "two": 2.0, "three": 0.1}
BATCH_SIZE = 4


def example(step, rng):
    """Which step, and the random numbers of its augmentation."""
    return [step.dataset, step.episode, step.index, round(rng.random(), 9), len(step.image)]


def loader(folder: Path, rank: int, world: int, workers: int, window: int = 2) -> StreamingLoader:
    sources = [ShardSource(folder / name) for name in WEIGHTS]
    return StreamingLoader(
        sources, example, list, BATCH_SIZE, WEIGHTS, seed=7, rank=rank, world=world, workers=workers, window=window
    )


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    rank, world, workers = map(int, sys.argv[3:])
    stream = loader(folder, rank, world, workers)
    state = out.with_suffix(".state")
    if state.exists():
        saved = json.loads(state.read_text(encoding="utf-8"))
        stream.load_state_dict(saved["loader"])
        lines = out.read_text(encoding="utf-8").splitlines()[: saved["batches"]]
        done = saved["batches"]
    else:
        lines, done = [], 0
    with out.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
        for number, (_, batch) in enumerate(zip(sys.stdin, stream, strict=False), start=done):
            file.write(json.dumps([number, batch]) + "\n")
            file.flush()
            unfinished = state.with_suffix(".part")
            unfinished.write_text(json.dumps({"batches": number + 1, "loader": stream.state_dict()}), encoding="utf-8")
            os.replace(unfinished, state)
            print(number, flush=True)


if __name__ == "__main__":
    main()
