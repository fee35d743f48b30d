"""Which machine and library versions a result was made with."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "mujoco")


def library_versions(*more: str) -> dict[str, str]:
    """Version of Python and of each installed library that can change a result; more: names of further ones."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """The model of the CPU as Linux names it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run_facts(*more: str) -> dict[str, Any]:
    """Date, machine and versions at the head of a measurement; more: names of further libraries."""
    machine = {"cpu": processor_name(), "cores": os.cpu_count(), "load_before": os.getloadavg()}
    return {"date": datetime.date.today().isoformat(), "machine": machine, "versions": library_versions(*more)}
