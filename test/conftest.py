"""Fixtures several test folders share: the golden files and a policy loaded from the golden checkpoint."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of files that the published code produced."""
    return Path(__file__).parent / "golden" / "data"


@pytest.fixture(scope="session")
def golden_checkpoint(golden: Path) -> Path:
    """A complete tiny checkpoint: both towers, the Llama vocabulary, two data sets."""
    return golden / "fused_mini" / "checkpoint"


@pytest.fixture(scope="session")
def golden_answers(golden: Path) -> dict:
    """What the published code computed with the golden checkpoint."""
    return json.loads((golden / "fused_mini" / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_policy(golden_checkpoint: Path):
    """The golden checkpoint as a policy with reference decoding."""
    from openvla_core import load_policy

    return load_policy(golden_checkpoint, decoding="reference")
