"""Folders that a job may have made. Law: no recursion and no path longer than a name, because a job may nest
folders deeper than Python's stack and the kernel's limit of a path; links are never followed.

One folder is open at a time. The way back is `..`, which has to lead to the folder that it was entered from.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Entry(NamedTuple):
    """A name in an open folder. A folder comes twice: before what is in it, and (`is_left`) behind."""

    here: int
    """The open folder, until the next entry."""
    name: str
    status: os.stat_result
    above: Sequence[str]
    """The folders on the way, the walked one first; until the next entry."""
    is_left: bool

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def path(self) -> str:
        """May be longer than the kernel takes."""
        return os.path.join(*self.above, self.name)


class _Level(NamedTuple):
    """A folder on the way down, with what is still to be looked at."""

    name: str
    status: os.stat_result
    names: list[str]

    @classmethod
    def of(cls, name: str, here: int) -> _Level:
        names = []
        with contextlib.suppress(OSError):
            names = os.listdir(here)
        return cls(name, os.fstat(here), names)


def everything(_: os.stat_result) -> bool:
    """For whoever wants to see all."""
    return True


def walk(folder: str, *, enters: Callable[[os.stat_result], bool] = everything) -> Iterator[Entry]:
    """All that is below the folder; what is in a folder only where `enters` says so. What cannot be opened or has gone
    is passed over. Raises OSError when a folder on the way back is not where it was.
    """
    try:
        here = os.open(folder, _FOLDER)
    except OSError:
        return
    try:
        levels, above = [_Level.of(folder, here)], [folder]
        while True:
            if not levels[-1].names:
                left = levels.pop()
                if not levels:
                    return
                back = _open("..", here, levels[-1].status)
                os.close(here)
                here = back
                above.pop()
                yield Entry(here, left.name, left.status, above, is_left=True)
                continue
            name = levels[-1].names.pop()
            try:
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
            except OSError:
                continue
            entry = Entry(here, name, status, above, is_left=False)
            yield entry
            if not entry.is_folder or not enters(status):
                continue
            try:
                inner = _open(name, here, status)
            except OSError:
                yield entry._replace(is_left=True)
                continue
            os.close(here)
            here = inner
            levels.append(_Level.of(name, here))
            above.append(name)
    finally:
        os.close(here)


def _open(name: str, here: int, expected: os.stat_result) -> int:
    """The folder of that name, if it is the expected one. Raises OSError."""
    found = os.open(name, _FOLDER, dir_fd=here)
    if os.path.samestat(os.fstat(found), expected):
        return found
    os.close(found)
    raise OSError(f"another folder is in the place of {name!r}")


def nothing_to_check() -> None:
    """For whoever has no bound."""


def remove(path: str, *, check: Callable[[], None] = nothing_to_check) -> bool:
    """Remove a file, a link, or a folder with all that is in it; whether nothing is there. What cannot be removed
    stays. `check` is called between entries, and may raise.
    """
    with contextlib.suppress(OSError):
        for entry in walk(path):
            check()
            _remove_one(entry)
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
    return is_gone(path)


def _remove_one(entry: Entry) -> None:
    with contextlib.suppress(OSError):
        if not entry.is_folder:
            os.unlink(entry.name, dir_fd=entry.here)
        elif entry.is_left:
            os.rmdir(entry.name, dir_fd=entry.here)


def is_gone(path: str) -> bool:
    """Whether the kernel says that nothing is there; any other error may hide something."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
