"""What was written stays written: files and folders onto the disk, so that a power failure takes nothing back."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """The content of a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Everything below onto the disk, so that what is complete stays complete after a power failure."""
    for path in root.rglob("*"):
        if path.is_file() or path.is_dir():
            sync(path)
    sync(root)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file that is there in full or as before, whatever happens; the folder is synced by the caller."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
