"""Reads and writes files of a directory that others may write too, and whose files may be damaged or planted.

Reading takes regular files only: a FIFO in place of one would block for ever. Appending follows no link, and a folder
that is a link is not entered, since it may lead out of the work directory. A file is written whole, beside its place,
and then moved there: ``write_atomic`` replaces what is there, ``publish`` never does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scaling.errors import STORAGE, Code, UserError

RESTORE = "delete it or restore it"
MOST = 2**28  # bytes of a file of JSON, unless the caller knows better; a result has some thousands


def damaged(path: str | os.PathLike[str], problem: str, remedy: str = RESTORE, field: str = "file") -> UserError:
    """The error to raise for a file whose content is not what it should be (DAMAGED)."""
    return UserError(field, path, f"{problem}; {remedy}", Code.DAMAGED, problem=problem)


def _unwritable(path: str | os.PathLike[str], problem: str | None) -> UserError:
    return UserError("path", path, f"cannot be written ({problem}); free space or choose another", Code.ENVIRONMENT)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something of this name, also a link that leads nowhere.

    Raises:
      UserError: the machine does not tell, for example since a folder above is closed to this user (ENVIRONMENT).
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in STORAGE:
            raise _unreadable(path, error) from error
        return False
    return True


def listed(folder: Path) -> list[Path]:
    """What a folder holds, sorted; nothing if there is none, or what is there is no folder.

    Raises:
      UserError: the machine does not tell, for example since it is closed to this user (ENVIRONMENT).
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        if error.errno in STORAGE:
            raise _unreadable(folder, error) from error
        return []


def _unreadable(path: str | os.PathLike[str], error: OSError) -> UserError:
    why = "no permission" if isinstance(error, PermissionError) else f"{error.strerror}; try again"
    return UserError("file", path, f"cannot be read: {why}", Code.ENVIRONMENT)


def read_bytes(path: str | os.PathLike[str], most: int = MOST) -> bytes:
    """The content of a regular file.

    Args:
      path: the file.
      most: bytes that it may have; more would not be what it should be, and might not fit in memory.

    Raises:
      FileNotFoundError: it does not exist.
      UserError: it is a directory, a FIFO, a link that leads nowhere or too large (DAMAGED), or the machine refuses
        (ENVIRONMENT).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO must not block
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise damaged(path, "is not a file")
            if about.st_size > most:
                raise damaged(path, f"has {about.st_size:,} bytes, more than any such file")
            content = os.read(descriptor, about.st_size + 1)
            while more := os.read(descriptor, 2**20):  # it grows, or it is larger than one call reads
                content += more
            return content
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        if os.path.islink(path):  # to readers missing, but in the way of writers
            raise damaged(path, "is a link to nothing") from error
        raise
    except OSError as error:
        if error.errno in STORAGE:
            raise _unreadable(path, error) from error
        raise damaged(path, f"cannot be read ({error.strerror})") from error


def make_folder(path: Path, inside: Path) -> None:
    """Makes a folder at ``path``, somewhere below the folder ``inside``, which may be a link itself.

    Raises:
      UserError: a folder on the way from ``inside`` is a link, is no folder, or cannot be made (ENVIRONMENT).
    """
    refuse_links(path, inside)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def refuse_links(path: Path, inside: Path) -> None:
    """Raises UserError (ENVIRONMENT) if ``path``, or a folder between it and ``inside``, is a symbolic link."""
    steps = path.relative_to(inside).parts
    for count in range(1, len(steps) + 1):
        place = inside.joinpath(*steps[:count])
        if place.is_symlink():
            raise UserError("path", place, "is a link, and links are not followed here; remove it", Code.ENVIRONMENT)


def append(path: Path, content: bytes) -> None:
    """Appends to a file in one write, and makes it if missing. If it ends in an incomplete line, that is ended first.

    Raises:
      UserError: it is a link or not a file, or the disk is full or read-only (ENVIRONMENT).
    """
    try:
        descriptor = open_to_append(path)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end > 0 and os.pread(descriptor, 1, end - 1) != b"\n":
                content = b"\n" + content
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def open_to_append(path: Path) -> int:
    """A descriptor of a regular file, to read and to append to.

    Raises:
      OSError: it cannot be opened, also since it is a link.
      UserError: it is a directory or a FIFO (ENVIRONMENT).
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)  # the umask decides who else may continue it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unwritable(path, "is not a file")
    return descriptor


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a file atomically: a reader, also after a crash, sees the old content or the new, never a part.

    Raises:
      UserError: the directory cannot be written, or the disk is full (ENVIRONMENT).
    """
    with _staged(Path(path), data) as name:
        os.replace(name, path)


def publish(path: Path, data: str | bytes) -> bool:
    """Writes a file as ``write_atomic`` does, unless there is one: what is published stays. It survives a power cut.

    Returns:
      Whether it was written; False if there is a file, a folder or a link of that name.

    Raises:
      UserError: the directory cannot be written, or the disk is full (ENVIRONMENT).
    """
    with _staged(path, data) as name:
        try:
            os.link(name, path)
        except FileExistsError:
            # A file server may have linked, lost its answer, and refused the repeated request.
            if os.stat(name).st_nlink != 2:
                os.unlink(name)
                return False
        os.unlink(name)
        _sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _staged(path: Path, data: str | bytes) -> Iterator[str]:
    """A complete file beside ``path``, which the block moves there. If anything fails, it is removed."""
    content = data.encode() if isinstance(data, str) else data
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(name, 0o644)
        yield name
    except BaseException as error:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name)
        if isinstance(error, OSError):
            raise _unwritable(path, error.strerror) from error
        raise


def _write_all(descriptor: int, content: bytes) -> None:
    while content:  # a disk may take a part, and refuse the rest
        content = content[os.write(descriptor, content) :]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Within the block, no other process or thread is in a block of the same path. A process that dies leaves it.

    Args:
      path: of a file that is there only meanwhile.

    Raises:
      UserError: it cannot be made or locked (ENVIRONMENT).
    """
    try:
        descriptor = _locked(path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = open_to_append(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor  # otherwise its last owner has removed it, and others lock the next
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, if it is there. Raises UserError (ENVIRONMENT) if the directory cannot be written."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def set_aside(path: Path) -> Path:
    """Renames a file to NAME.<time>.SUFFIX beside it, so that another can take its place; returns the new path.

    Raises:
      FileNotFoundError: there is none.
      UserError: the directory cannot be written (ENVIRONMENT).
    """
    aside = path.with_name(f"{path.stem}.{time.time_ns()}{path.suffix}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    return aside
