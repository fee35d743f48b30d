"""What `openvla doctor` has to say about the checksums of a checkpoint."""

from collections.abc import Iterable
from pathlib import Path

from openvla_core.checksums import FILE_NAME, read_checksums, write_checksums
from openvla_core.doctor_report import Finding
from openvla_core.errors import CheckpointError

NAMED = 10  # so many files are named


def compared(directory: Path, weights: Iterable[str], loaded: bool) -> Finding:
    """Compares every listed file with SHA256SUMS but the weights: loading, if that was done, has compared them."""
    checksums = read_checksums(directory)
    if checksums is None:
        return Finding("checksums", True, f"none; write them with `openvla doctor {directory} --write-checksums`")
    listed = set(checksums.digests)
    others = sorted(listed - set(weights))
    try:
        compared_now = checksums.check(others)
    except CheckpointError as error:  # in a file that loading does not read
        return Finding("checksums", False, str(error))
    count = len(compared_now) + (len(listed) - len(others) if loaded else 0)
    text = f"{count} file{'' if count == 1 else 's'} compared, all as {FILE_NAME} lists them"
    if not loaded:
        text += "; the weights were not read"
    large = sorted(set(others) - set(compared_now))
    if large:
        text += f"; too large for a look by the way: {_some(large)} (try `sha256sum -c {FILE_NAME}`)"
    unlisted = checksums.unlisted()
    if unlisted:
        text += f"; not listed: {_some(unlisted)}"
    return Finding("checksums", True, text)


def rewritten(directory: Path) -> Finding:
    """Writes SHA256SUMS and says which files are not those of the one before."""
    try:
        old = read_checksums(directory)
    except CheckpointError:
        old = None  # damaged, and replaced now
    write_checksums(directory)
    new = read_checksums(directory, verify=True)
    assert new is not None
    text = f"{FILE_NAME} written for {len(new.digests)} files"
    if old is not None:
        changed = [name for name, digest in new.digests.items() if old.digests.get(name) != digest]
        text += f"; new or changed since the last one: {_some(changed) if changed else 'none'}"
    return Finding("checksums", True, text)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:NAMED])}{' and others' if len(names) > NAMED else ''}"
