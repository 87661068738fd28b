"""Files that are either whole or not there, folders and what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from deepgsr_cli.errors import InputError, OutputError
from deepgsr_cli.words import counted

_NO_RIGHT = "there is no permission to write there; give another folder"
_FULL = "there is no space left; free some or give another folder"
_REASONS = {
    errno.ENOENT: "another run has written it at the same time, or its folder was removed; run again",
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "the folder is read-only; give another folder",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file is larger than this disk allows; give another folder",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.EEXIST: "there is a file of that name; give another name",
    errno.ENOTDIR: "a part of the path is a file, not a folder; give another folder",
    errno.ELOOP: "the path is a circle of links; give another one",
}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: a temporary file beside `path` takes its place when the block ends.

    The context is the temporary file's path.

    After any exception, an interrupt included, the temporary file is gone and `path` is as it was. A new
    file gets the permissions the umask gives, a replaced one keeps its own; a link stays and what it
    points at is replaced. The temporary name ends in `.tmp` whatever `path` ends in, so that no glob for
    pictures finds it: name the format to the writer. It is another one in each call: processes that write
    one path at the same time do not meet. What a process leaves that is killed meanwhile, `clean_up` removes.

    Args:
        path: The target; its folder must exist.

    Raises:
        OutputError: The target is not a regular file, its folder is missing or read-only, the disk is
            full, or the block raised an OSError about the temporary file or about no named file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{_mark(target)}{secrets.token_hex(8)}.tmp")
    try:
        if target.is_dir():
            raise OutputError(f"{path}: cannot be written, it is a folder; give a file name")
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: cannot be written, it is not a regular file; give a file name")
        if not target.parent.exists():
            raise OutputError(
                f"{path}: cannot be written, the folder {target.parent} does not exist; make it first"
            )
        temporary.open("xb").close()
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(target)):
            raise
        raise OutputError(f"{path}: cannot be written, {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _reason(error: OSError) -> str:
    """Return why a file cannot be written, in words, and the way out."""
    first = error
    while first.errno is None and isinstance(first.__cause__, OSError):  # pydicom wraps what it meets
        first = first.__cause__
    # What numpy says of a write that ended early, without a number.
    if first.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(first)):
        return _FULL
    return _REASONS.get(first.errno or 0, f"{first.strerror or first}; give another folder")


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Word what opening the file of a name, or reading from it, raises.

    Raises:
        InputError: It is not there, or may not or cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{name}: there is no permission to read it; change its mode") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read, {error.strerror or error}; check the path") from error


def check_readable(path: Path) -> None:
    """Raise an InputError unless a file is there and may be read, whatever it holds."""
    with reading(path), path.open("rb"):
        pass


def copy_file(source: Path | BytesIO, target: Path | BinaryIO) -> None:
    """Copy a file's bytes, or those of a buffer; to a path whole or not at all.

    Raises:
        OutputError: The target cannot be written.
        OSError: The source cannot be read.
    """
    with source.open("rb") if isinstance(source, Path) else BytesIO(source.getbuffer()) as stream:
        if isinstance(target, Path):
            with atomic_write(target) as temporary, temporary.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
            return
        try:
            shutil.copyfileobj(stream, target)
            target.flush()
        except OSError as error:
            name = getattr(target, "name", "standard output")
            raise OutputError(
                f"{name}: cannot be written, {error.strerror or error}; give a file instead"
            ) from error


# A file that was not written to for so long is none that is being written.
_LEFT_S = 3600.0


def clean_up(targets: Iterable[Path], *, sparing: bool = False) -> None:
    """Remove the temporary files of processes that were killed while they wrote these files.

    Args:
        targets: What was written.
        sparing: Leave those that were written to within an hour, which another process may go on with. It
            fails otherwise, and leaves nothing.
    """
    marks: dict[Path, set[str]] = {}
    for path in targets:
        # Of many targets, to resolve each would take longer than to list its folder.
        target = Path(os.path.realpath(path)) if os.path.islink(path) else path
        marks.setdefault(target.parent, set()).add(_mark(target))
    since = time.time() - _LEFT_S
    for folder, known in marks.items():
        with suppress(OSError):
            for entry in os.scandir(folder):
                if entry.name.endswith(".tmp") and entry.name[: len(_mark(folder))] in known:
                    with suppress(OSError):
                        if not sparing or entry.stat().st_mtime < since:
                            os.unlink(entry.path)


def _mark(target: Path) -> str:
    """What the names of a file's temporary ones start with: 18 characters, however long its own is."""
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}."


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason, _, _ = _REASONS.get(error.errno or 0, error.strerror or str(error)).partition(";")
        raise OutputError(f"{path}: the folder cannot be made, {reason}; give another -o") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; a part of it at a time is in memory.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(paths: list[Path]) -> str:
    """First 12 hexadecimal digits of the SHA-256 over those of the files, in order."""
    digests = b"".join(bytes.fromhex(sha256(path)) for path in paths)
    return hashlib.sha256(digests).hexdigest()[:12]


def named(paths: list[Path], noun: str) -> str:
    """Return the number of files and their fingerprint, "3 pictures, fingerprint 11de0619d30a"."""
    return f"{counted(len(paths), noun)}, fingerprint {fingerprint(paths)}"


def files_below(
    path: Path, failures: list[InputError] | None = None, without: Path | None = None
) -> list[Path]:
    """List the files in a folder, at any depth: first its own, then those of each folder in it, by name.

    Hidden files and folders are left out. A folder that links lead to is listed, unless it is in the folder
    anyway or has been listed.

    Args:
        path: The folder; a file is a list of itself.
        failures: Folders that cannot be listed are added to these; None has the first one raised.
        without: A folder that is left out.

    Raises:
        InputError: A folder cannot be listed, and `failures` is None.
    """
    if not path.is_dir():
        return [path]
    pruned = None if without is None else without.resolve()
    seen = {path.resolve()}

    def refuse(error: OSError) -> None:
        failure = InputError(f"{error.filename}: cannot be listed, {error.strerror}; change its mode")
        if failures is None:
            raise failure from error
        failures.append(failure)

    files = []
    for root, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and (real := Path(root, name).resolve()) != pruned
            and not (Path(root, name).is_symlink() and (real in seen or real.is_relative_to(path.resolve())))
        )
        seen.update(Path(root, name).resolve() for name in folders)
        files += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
    return [file for file in files if file.is_file()]
