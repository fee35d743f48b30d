"""The plan for a borrowed GPU, rehearsed on the CPU: every step runs or says why it cannot."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLAN = [sys.executable, str(ROOT / "benchmarks" / "gpu_plan.py"), "--device", "cpu", "--size", "tiny", "--quick"]


def test_every_step_of_the_plan_works_or_says_why_not(tmp_path):
    done = subprocess.run([*PLAN, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["steps"]
    on_gpus_only = {"tests", "compiled", "qlora"}
    assert {name for name, one in outcomes.items() if one["outcome"] == "not here"} == on_gpus_only
    assert {name for name, one in outcomes.items() if one["outcome"] == "done"} == {
        "facts", "exactness", "modes", "quantized", "drafts", "traces", "lora",
    }  # fmt: skip
    read = {name: json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) for name in outcomes}
    assert read["exactness"]["different"] == []
    assert read["traces"]["engine"]["operations"] < read["traces"]["hf"]["operations"]
    # With the same weights both ways of training have the same loss over the same rows.
    before = read["lora"]["losses_before"]
    assert abs(before["reference"] - before["trainer"]) < 1e-4
