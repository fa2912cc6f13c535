"""Files and folders that appear whole or not at all: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from unrolled.errors import RunError, UnrolledError


def write_atomically(path: Path, content: bytes, *, error: type[UnrolledError] = RunError) -> None:
    """Write under a temporary name, fsync, rename: at `path` is the old file or the new one, never a part.

    Raises:
        RunError: the disk is full or refuses; nothing is left behind and the old file stays. `error` names another class.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as failure:
        raise error(
            f"{path}: could not write {len(content):,} bytes, {reason(failure)}. What was there before is kept; "
            "make room or name another place, and try again (training goes on with --resume)."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill under a temporary name, which becomes `path` when the block ends well and vanishes when not.

    Raises:
        RunError: `path` is there already, or cannot be made.
    """
    require_new(path, f"Name another --run, or continue it with --resume {path}.")
    unfinished = path.with_name(f".{path.name}.partial-{os.getpid()}")
    for leftover in path.parent.glob(f".{path.name}.partial-*"):  # of a process that was killed
        if not _is_running(leftover.name.rpartition("-")[2]):
            shutil.rmtree(leftover, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{path}: cannot make this folder ({error.strerror}). Name another --run.") from None
    try:
        yield unfinished
        for file in unfinished.rglob("*"):
            if file.is_file():
                _sync(file)
        os.replace(unfinished, path)
        _sync(path.parent)
    except OSError as error:
        raise RunError(f"{path}: could not be written, {reason(error)}. Nothing was left behind.") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def require_new(path: Path, advice: str) -> None:
    """Refuse a path at which there is a file or a folder with something in it, and one that is not UTF-8.

    Raises:
        RunError: there is; `advice` says what to do.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:  # TensorBoard takes no other
        raise RunError(f"{str(path)!r}: expected the name of a new folder in UTF-8, got other bytes. Name another.") from None
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: already there and not empty. {advice}")


def remove_partial_files(folder: Path) -> None:
    """Clear what a kill during a write left behind."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """Why a file could not be written, in a person's words."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else error.strerror or str(error)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # there, but not ours to ask
        return True
    return True


def _sync(path: Path) -> None:
    """Make a file's content or a folder's renames durable; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
