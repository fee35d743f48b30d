"""Folders that are complete or not there: written beside their place, onto the disk, then renamed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Plain, finite values as JSON, with two blanks of indentation."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sync_tree(root: Path) -> None:
    """Everything below onto the disk, so that what is complete stays complete after a power failure."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(root)


def sync_folder(path: Path) -> None:
    """The names in a folder onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
