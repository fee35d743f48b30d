"""What each small mistake in the model would do to its answers; prints the table of docs/exactness.md.

python benchmarks/sensitivity.py            # prints the table
python benchmarks/sensitivity.py --save     # also writes benchmarks/results/<date>-sensitivity.json
"""

import argparse
import dataclasses
import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "golden")]

from breakers import BREAKERS, CHECKPOINT, HARMLESS, Effect, Published, broken_policy  # noqa: E402

from openvla_core import load_policy  # noqa: E402

PRECISIONS = ("bfloat16", "float16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the figures under benchmarks/results")
    save = parser.parse_args().save
    effects = measure()
    print(table(effects))
    print("\n" + ", ".join(f"{key} {value}" for key, value in circumstances().items()))
    if save:
        path = ROOT / "benchmarks" / "results" / f"{datetime.date.today()}-sensitivity.json"
        values = {"circumstances": circumstances()}
        values["effects"] = {name: dataclasses.asdict(effect) for name, effect in effects.items()}
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def measure() -> dict[str, Effect]:
    """The unbroken model, every mistake, the harmless change, and lower precision."""
    published = Published()
    effects = {"nothing": published.compare(broken_policy())}
    effects |= {name: published.compare(broken_policy(breaker)) for name, breaker in (BREAKERS | HARMLESS).items()}
    for dtype in PRECISIONS:
        policy = load_policy(CHECKPOINT, dtype=dtype, decoding="reference")
        effects[f"no mistake, computed in {dtype}"] = published.compare(policy)
    return effects


def table(effects: dict[str, Effect]) -> str:
    rows = ["| what is wrong | largest change of a first-step logit | equal tokens of 35 | golden test |"]
    rows.append("|---|---|---|---|")
    for name, effect in effects.items():
        verdict = "passes" if effect.agrees else "fails"
        rows.append(f"| {name} | {effect.first_step:.1e} | {effect.tokens} | {verdict} |")
    return "\n".join(rows)


def circumstances() -> dict[str, str]:
    """When and with what the figures were taken."""
    libraries = {name: version(name) for name in ("torch", "transformers", "numpy", "pillow")}
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {"date": str(datetime.date.today()), "python": platform.python_version(), "CPU": processor, **libraries}


if __name__ == "__main__":
    main()
