"""Files and folders that appear whole or not at all: written under a temporary name, flushed to disk, renamed.

A temporary name is `.unrolled-`, eight random bytes and eight of their hash, both in hexadecimal: nobody else makes such names,
and no two processes make the same. The process that made one holds a lock on it until it is renamed, so what carries such a
name and is not locked was left by a process that was killed, and may be removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from unrolled.errors import DataError, RunError, UnrolledError

try:
    import fcntl
except ImportError:  # not a POSIX system: what is left behind stays
    fcntl = None  # type: ignore[assignment]

Schema = TypeVar("Schema", bound=BaseModel)
LOCK = "lock"
_PREFIX = ".unrolled-"


def write_atomically(
    path: Path, content: bytes, *, error: type[UnrolledError] = RunError, advice: str = "Make room or name another place."
) -> None:
    """Write under a temporary name, fsync, rename: at `path` is the old file or the new one, never a part.

    Raises:
        RunError: the disk is full or refuses; nothing is left behind and the old file stays. `error` names another class,
            `advice` what to do.
    """
    try:
        with _temporary(path.parent, lambda name: name.touch(exist_ok=False)) as temporary:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(path.parent)
    except (OSError, ValueError) as failure:
        raise error(
            f"{path}: could not write {len(content):,} bytes, {reason(failure)}. What was there before is kept. {advice}"
        ) from None


@contextlib.contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A file to fill under a temporary name, which takes the place of `path` when the block ends well and vanishes when not.

    For what is too large to be held as bytes, or written by a library that wants a name.

    Raises:
        RunError: the disk is full or refuses; the old file stays.
    """
    try:
        with _temporary(path.parent, lambda name: name.touch(exist_ok=False)) as unfinished:
            yield unfinished
            _sync(unfinished)
            os.replace(unfinished, path)
            _sync(path.parent)
    except OSError as failure:
        raise RunError(
            f"{path}: could not be written, {reason(failure)}. What was there before is kept. Make room or name another place."
        ) from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill under a temporary name, which becomes `path` when the block ends well and vanishes when not.

    Raises:
        RunError: `path` is there already, or cannot be made.
        DataError: the block could not read a file elsewhere.
    """
    require_new(path, f"Name another --run, or continue it with --resume {path}.")
    if path.resolve() == Path.cwd():
        raise RunError(f"{path}: expected the name of a new folder, got the one you are in. Name another --run.")
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            unfinished = stack.enter_context(_temporary(path.parent, Path.mkdir))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot make this folder ({reason(error)}). Name another --run.") from None
        try:
            yield unfinished
            for file in unfinished.rglob("*"):
                if file.is_file():
                    _sync(file)
            require_new(path, "Another process made it meanwhile. Name another --run.")
            os.replace(unfinished, path)
            _sync(path.parent)
        except OSError as error:
            if error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(unfinished):
                raise DataError(f"{os.fsdecode(error.filename)}: cannot be read or written ({reason(error)}).") from None
            raise RunError(f"{path}: could not be written, {reason(error)}. Nothing was left behind.") from None
        except UnrolledError as error:  # the temporary name means nothing to a reader
            raise type(error)(str(error).replace(str(unfinished), str(path))) from None


def require_new(path: Path, advice: str) -> None:
    """Refuse a path at which there is a file or a folder with something in it, and one that is not UTF-8.

    Raises:
        RunError: there is; `advice` says what to do.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:  # TensorBoard takes no other
        raise RunError(f"{str(path)!r}: expected the name of a new folder in UTF-8, got other bytes. Name another.") from None
    try:
        if not os.path.lexists(path):
            return
        if not path.is_dir():
            raise RunError(f"{path}: already there, and not a folder. Name another --run.")
        if any(path.iterdir()):
            raise RunError(f"{path}: already there and not empty. {advice}")
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot make this folder ({reason(error)}). Name another --run.") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from training in a run folder, and clear what a killed one left in it.

    Raises:
        RunError: another process trains there, or the folder cannot be written to.
    """
    path = folder / LOCK
    lock = FileLock(path)
    try:
        if path.is_symlink():
            raise RunError(f"{path}: expected a file, got a link. Remove it.")
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{folder}: already being trained by another process. Wait for it to end, or stop it.") from None
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as error:
        raise RunError(f"{folder}: cannot be written to ({reason(error)}).") from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Remove what writes and preparations that were killed left in a folder: by its name ours, and by its lock nobody's."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not _is_ours(entry.name):
                continue
            with contextlib.suppress(OSError), _held(Path(entry.path)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def require_file(path: Path) -> None:
    """Refuse what is no plain file: a pipe or a device would be waited for, or read without end.

    Raises:
        RunError: it is not there, or something else.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: missing or cannot be read ({reason(error)}). Restore the file or train again.") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise RunError(f"{path}: expected a file, got {kind}. Restore the file or train again.")


def read_json(path: Path) -> Any:
    """The content of a JSON file: without numbers that are not finite, which JSON does not have, and of a depth that is read.

    Raises:
        RunError: missing, not a file, or not such JSON.
    """
    require_file(path)
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({reason(error)}). Restore the file or train again.") from None


def read_as(path: Path, schema: type[Schema]) -> Schema:
    """A JSON file's content as `schema` has it.

    Raises:
        RunError: as `read_json`, or the content is another.
    """
    return validated(path, schema, read_json(path))


def validated(path: Path, schema: type[Schema], content: Any) -> Schema:
    """A JSON file's parsed content as `schema` has it.

    Raises:
        RunError: it is another.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise RunError(f"{path}: damaged ({first_problem(error)}). Restore the file or train again.") from None


def first_problem(error: ValidationError) -> str:
    """Where the first problem that pydantic found is, and what is expected there, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    return f"{where}: {message}"[:300] if where else message[:300]


def parse_json(content: bytes) -> Any:
    """As `read_json`, of bytes.

    Raises:
        ValueError: not such JSON.

    >>> parse_json(b'{"loss": NaN}')
    Traceback (most recent call last):
    ...
    ValueError: a number that is not finite: NaN
    """
    try:
        return json.loads(content.decode(), parse_constant=_not_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in a person's words and one line."""
    if not isinstance(error, OSError):
        return " ".join(str(error).split())[:200]
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else error.strerror or str(error)


@contextlib.contextmanager
def _temporary(parent: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder in `parent` under a name of ours, locked; what still has that name at the end is removed."""
    with contextlib.ExitStack() as stack:
        while True:
            token = secrets.token_hex(8)
            path = parent / f"{_PREFIX}{token}{_proof(token)}"
            make(path)
            try:
                stack.enter_context(_held(path))
            except (BlockingIOError, FileNotFoundError):
                continue  # another process took it for a leftover, before it was locked
            except OSError:
                break  # a file system without locks
            if path.exists():
                break
        try:
            yield path
        finally:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Lock a file or a folder.

    Raises:
        BlockingIOError: another process has it locked.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _proof(token: str) -> str:
    return hashlib.sha256(f"unrolled {token}".encode()).hexdigest()[:16]


def _is_ours(name: str) -> bool:
    token, proof = name[len(_PREFIX) : -16], name[-16:]
    return fcntl is not None and name.startswith(_PREFIX) and len(token) == 16 and proof == _proof(token)


def _sync(path: Path) -> None:
    """Make a file's content or a folder's renames durable; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"a number that is not finite: {text[:20]}")
