"""The command under torchrun, from bags to a policy, on two processes without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recorded import bags

from openvla_core import load_policy

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_two_processes_make_a_policy_of_bags(strategy, word_checkpoint, tmp_path):
    """full: the weights spread over both by FSDP2; lora: a copy in each, merged at the end."""
    out = tmp_path / "policy"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(ROOT / "training" / "finetune.py"), "--data", str(bags(tmp_path / "bags")), "--base", str(word_checkpoint),
        "--out", str(out), f"--strategy={strategy}", "--max-steps=2", "--batch-size=2", "--log-every=1", "--workers=0",
        "--device=cpu", "--validation-share=0.3", "--seed=2", "--tensorboard=false", "--lora-rank=4",
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained policy") == 1
    card = json.loads((out / "training_card.json").read_text())
    assert (card["world"], card["steps"], card["strategy"]) == (2, 2, strategy)
    parts = sorted(path.name for path in (out / "checkpoints" / "step-00000002").glob("part-*"))
    assert len(parts) == (2 if strategy == "full" else 1)
    policy = load_policy(out, verify=True)
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert np.isfinite(policy.predict_action(picture, "pick up the red cube")).all()
