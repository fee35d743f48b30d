"""SHA256SUMS: which bytes the files of a checkpoint have, in the words of `sha256sum` and checked as it would.

It finds damage: a flipped bit, half a copy, the files of two checkpoints in one folder. It is no signature, because who
can change a file can change the list as well.
"""

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from openvla_core.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

FILE_NAME = "SHA256SUMS"
MAX_BYTES, MAX_FILES, MAX_SMALL_BYTES = 1_000_000, 1000, 100_000_000
PIECE_BYTES = 1 << 20
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
AGAIN = "Copy it again, or write it anew with `openvla doctor DIRECTORY --write-checksums`."
NAMED = 5  # so many files are named in one message

Verify = bool | Literal["auto"]


@dataclass(frozen=True)
class Checksums:
    """What SHA256SUMS says: digests is {name: 64 lower-case hexadecimal digits}, names relative to the directory.

    With `required`, a file that is read and not listed is an error; without, a warning.
    """

    directory: Path
    digests: Mapping[str, str]
    required: bool = False

    def check(self, names: Iterable[str]) -> list[str]:
        """Reads those of the files that are listed; raises CheckpointError naming the ones that have other bytes.

        Files above 100 MB, which no small file of a checkpoint has, are left out. Returns the names of the others.
        """
        listed = [name for name in names if name in self.digests]
        small = [name for name in listed if (self.directory / name).stat().st_size <= MAX_SMALL_BYTES]
        self.compare({name: sha256_of(self.directory / name) for name in small})
        return small

    def compare(self, found: Mapping[str, str]) -> None:
        """Raises CheckpointError where a digest {name: digest} is not the one that is listed."""
        wrong = [name for name, digest in found.items() if self.digests.get(name, digest) != digest]
        if wrong:
            each = [
                f"{name[:100]} has the sha256 {found[name]}, expected {self.digests[name]}" for name in wrong[:NAMED]
            ]
            more = f" and {len(wrong) - NAMED} more files" if len(wrong) > NAMED else ""
            raise CheckpointError(
                f"{self.directory} is not what its {FILE_NAME} describes: {'; '.join(each)}{more}. Damaged? Copy it "
                f"again. Changed on purpose? Run `openvla doctor {self.directory} --write-checksums`."
            )

    def check_listed(self, names: Iterable[str]) -> None:
        """Warns about files that will be read and are not listed, or raises CheckpointError where that is required."""
        unlisted = [name for name in names if name not in self.digests]
        if not unlisted:
            return
        which = f"{FILE_NAME} of {self.directory} does not list {_some(unlisted)}"
        if self.required:
            raise CheckpointError(f"{which}. Write it again with `openvla doctor {self.directory} --write-checksums`.")
        logger.warning("%s; not verified.", which)

    def unlisted(self) -> list[str]:
        """Names of the files of the directory that are not listed."""
        return [name for name in checkpoint_files(self.directory) if name not in self.digests]


def read_checksums(directory: str | Path, verify: Verify = "auto") -> Checksums | None:
    """Reads SHA256SUMS; no file but this one is opened.

    Args:
        directory: of the checkpoint.
        verify: "auto" returns None without such a file, True insists on it, False returns None.

    Raises:
        CheckpointError: it is damaged, points outside the directory, or lists a file that is missing.
    """
    if verify not in (True, False, "auto"):
        raise ConfigError(f"verify is {verify!r}; choose True, False or 'auto'.")
    directory = Path(directory)
    path = directory / FILE_NAME
    if verify is False or (verify == "auto" and not os.path.lexists(path)):
        return None
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing or no file. Write it with `openvla doctor {directory} --write-checksums`."
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error
    digests = parse_checksums(data, str(path))
    missing = [name for name in digests if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} lists {_some(missing)}, which the directory lacks. Copy the checkpoint again.")
    return Checksums(directory, digests, required=verify is True)


def parse_checksums(data: bytes, source: str) -> dict[str, str]:
    """{name: digest} of the text that `sha256sum` prints; `source` names it in errors.

    Empty lines, comments and the list's own line, which `sha256sum * > SHA256SUMS` makes, are passed over.

    Raises:
        CheckpointError: for anything else, and for names outside the directory.
    """
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{source} has more than {MAX_BYTES:,} bytes; expected one line per file. {AGAIN}")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{source} is no UTF-8 text ({error.reason}). {AGAIN}") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None or not _is_plain(match[2]):
            raise CheckpointError(
                f"{source}, line {number}, is no entry; expected 64 hexadecimal digits, two blanks and the name of "
                f"a file in this directory. {AGAIN}"
            )
        name = str(PurePosixPath(match[2]))
        if name in digests:
            raise CheckpointError(f"{source} lists {name[:100]!r} twice. {AGAIN}")
        if name != FILE_NAME:
            digests[name] = match[1].lower()
    if not digests or len(digests) > MAX_FILES:
        raise CheckpointError(f"{source} lists {len(digests)} files; expected 1 to {MAX_FILES}. {AGAIN}")
    return digests


def write_checksums(directory: str | Path, known: Mapping[str, str] | None = None) -> Path:
    """Writes SHA256SUMS for every file of the directory, in one step; returns its path.

    Args:
        known: digests of files whose bytes need not be read again.

    Raises:
        CheckpointError: there is nothing to list, or the directory cannot be written.
    """
    directory = Path(directory)
    try:
        digests = {name: (known or {}).get(name) or sha256_of(directory / name) for name in checkpoint_files(directory)}
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        parse_checksums(text.encode("utf-8", "surrogateescape"), f"{directory / FILE_NAME} as it would be written")
        draft = directory / f".{FILE_NAME}.{uuid.uuid4().hex[:8]}"
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, directory / FILE_NAME)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory / FILE_NAME} cannot be written: {error}. May you write there?") from error
    return directory / FILE_NAME


def checkpoint_files(directory: Path) -> list[str]:
    """Names of the files in the directory itself, hidden ones and SHA256SUMS left out."""
    names = (path.name for path in directory.iterdir() if path.is_file())
    return sorted(name for name in names if name != FILE_NAME and not name.startswith("."))


def sha256_of(path: Path) -> str:
    """64 lower-case hexadecimal digits. Raises CheckpointError when the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(PIECE_BYTES):
                digest.update(data)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error
    return digest.hexdigest()


class RunningDigest:
    """SHA-256 of a file while it is read, in a thread beside the reading. Use it in a `with` statement."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._position = 0  # up to which byte of the file the digest goes

    def __enter__(self) -> "RunningDigest":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def update(self, data: memoryview) -> Future:
        """Takes the next bytes; they must stay as they are until the result is there."""
        self._position += data.nbytes
        return self._thread.submit(self._digest.update, data)

    def catch_up(self, file: BinaryIO, position: int | None = None) -> None:
        """Reads what lies between the last byte taken and `position`, or the end of the file."""
        file.seek(self._position)
        while position is None or self._position < position:
            left = PIECE_BYTES if position is None else min(PIECE_BYTES, position - self._position)
            data = file.read(left)
            if not data:
                return
            self.update(memoryview(data)).result()

    def hexdigest(self) -> str:
        """Waits until all bytes are taken in; 64 lower-case hexadecimal digits."""
        self._thread.shutdown()
        return self._digest.hexdigest()


def _is_plain(name: str) -> bool:
    """Whether a name stays inside the directory and means the same to every program."""
    path = PurePosixPath(name)
    parts = path.parts
    return (
        not path.is_absolute()
        and 0 < len(parts) <= 8
        and ".." not in parts
        and "\\" not in name
        and name.isprintable()
        and all(len(part.encode()) <= 255 for part in parts)
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(name[:100] for name in names[:NAMED])}{more}"
