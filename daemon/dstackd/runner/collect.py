"""Which files the declared artifact paths mean. Law: reads names only; never leaves the job's folder.

Regular files only. A link is followed where it ends inside the job's folder, to a file or a folder.
The job may change its folder meanwhile, so what is found here is checked again when it is opened.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dstackd.runner.paths import is_inside

LOOKED_MAX = 2_000_000
"""Names that are looked at: links can make a small folder endless."""


class Seen(NamedTuple):
    """A file as it was when it was looked at. Equal twice: the same content. ctime cannot be set by
    a program, so it also tells of one that sets mtime back.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Found(NamedTuple):
    """`path` is relative to the job's folder, with `/`."""

    path: str
    seen: Seen


@dataclass
class Collected:
    """`files` is sorted by path, each once."""

    files: list[Found] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    """Declared paths that named nothing."""
    skipped: list[str] = field(default_factory=list)
    """What was there and is not a file to be stored, with the reason: links that lead out or
    nowhere, pipes, sockets, devices.
    """
    lost: list[str] = field(default_factory=list)
    """Files that would be stored if they could, and folders that could not be read."""


def seen_of(status: os.stat_result) -> Seen:
    return Seen(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def collect(job_dir: str, patterns: Iterable[str]) -> Collected:
    """Every file below the declared paths."""
    found = Collected()
    walk = _Walk(job_dir, found)
    for pattern in patterns:
        tops = _tops(job_dir, pattern)
        if not tops:
            found.unmatched.append(pattern)
        for top in tops:
            walk.add(top)
    found.files = [Found(path, walk.files[path]) for path in sorted(walk.files)]
    return found


def printable(name: str) -> str:
    """A name for a message; bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _tops(job_dir: str, pattern: str) -> Sequence[str]:
    if os.path.isabs(pattern):
        return []
    literal = os.path.normpath(os.path.join(job_dir, pattern))
    if os.path.lexists(literal):
        return [literal]
    matches = glob.iglob(os.path.join(glob.escape(job_dir), pattern), recursive=True)
    return sorted({os.path.normpath(match) for match in matches})


class _Folder(NamedTuple):
    """A folder on the way down; `real` is its path without links."""

    path: str
    real: str
    parent: _Folder | None
    linked: bool = False
    """Whether a link is on the way: only then can a folder be around itself."""

    def is_within(self, real: str) -> bool:
        """Whether this is the folder `real`, or was reached through it."""
        folder: _Folder | None = self
        while folder is not None:
            if folder.real == real:
                return True
            folder = folder.parent
        return False


class _Walk:
    """Walks without recursion: a job may make folders deeper than Python's stack."""

    def __init__(self, job_dir: str, found: Collected) -> None:
        self._job_dir = job_dir
        self._found = found
        self._looked = 0
        self.files: dict[str, Seen] = {}

    def add(self, top: str) -> None:
        """All files at or below `top`."""
        todo = [_Folder(top, os.path.realpath(top), None)]
        if not self._is_folder(top, is_link=True):
            return
        while todo:
            folder = todo.pop()
            for name, is_link in self._entries(folder):
                path = os.path.join(folder.path, name)
                if not self._is_folder(path, is_link=is_link):
                    continue
                real = os.path.realpath(path) if is_link else os.path.join(folder.real, name)
                linked = is_link or folder.linked
                if linked and folder.is_within(real):
                    self._found.skipped.append(f"{self._shown(path)}: a link to a folder around it")
                else:
                    todo.append(_Folder(path, real, folder, linked))

    def _entries(self, folder: _Folder) -> Iterator[tuple[str, bool]]:
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    self._looked += 1
                    if self._looked <= LOOKED_MAX:
                        yield entry.name, entry.is_symlink()
                    elif self._looked == LOOKED_MAX + 1:
                        self._lose(folder.path, f"more than {LOOKED_MAX} names, the rest is left")
        except OSError as error:
            self._lose(folder.path, str(error.strerror))

    def _is_folder(self, path: str, *, is_link: bool) -> bool:
        """Whether to go into it; a file is noted. A name below a folder that is inside is inside as
        well unless it is a link.
        """
        if is_link and not is_inside(self._job_dir, path):
            self._found.skipped.append(f"{self._shown(path)}: outside the job's folder")
            return False
        try:
            status = os.stat(path)
        except OSError as error:
            reason = f"{self._shown(path)}: {error.strerror}"
            (self._found.skipped if is_link else self._found.lost).append(reason)
            return False
        if stat.S_ISDIR(status.st_mode):
            return True
        if stat.S_ISREG(status.st_mode):
            self._note(path, seen_of(status))
        else:
            self._found.skipped.append(f"{self._shown(path)}: not a regular file")
        return False

    def _note(self, path: str, seen: Seen) -> None:
        name = self._name(path)
        try:
            name.encode()
        except UnicodeEncodeError:
            self._lose(path, "the name is not UTF-8, and S3 has no key for it")
        else:
            self.files[name] = seen

    def _lose(self, path: str, reason: str) -> None:
        self._found.lost.append(f"{self._shown(path)}: {reason}")

    def _shown(self, path: str) -> str:
        return printable(self._name(path))

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self._job_dir).replace(os.sep, "/")
