"""A file of the job's folder, opened for reading. Law: what is opened lies inside the folder and is a
regular file, whatever the job does to its folder at the same moment.

The runner is root and the job's user owns the folder: a name that was looked at may be a link to
somewhere else when it is opened. So the name is opened without reading (O_PATH, which touches no
device and waits for no pipe), the descriptor is looked at, and the same file is opened from there.
What a job can reach by hard links is what its user may read (`fs.protected_hardlinks`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_PATH_ONLY = getattr(os, "O_PATH", 0)


class NotInside(OSError):
    """The name led out of the job's folder, or to no regular file."""


@contextmanager
def opened_inside(root: str, path: str) -> Iterator[int]:
    """A descriptor of `path` below `root` (which has no links in it). Raises OSError."""
    full = os.path.join(root, path)
    if not _PATH_ONLY:  # not Linux: only for trying the runner out
        fd = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _require_regular(fd)
            _require_inside(root, os.path.realpath(full))
            yield fd
        finally:
            os.close(fd)
        return
    pinned = os.open(full, _PATH_ONLY | os.O_CLOEXEC)
    try:
        _require_regular(pinned)
        link = f"/proc/self/fd/{pinned}"
        _require_inside(root, os.readlink(link))
        fd = os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(pinned)
    try:
        yield fd
    finally:
        os.close(fd)


def _require_regular(fd: int) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise NotInside(errno.EINVAL, "not a regular file any more")


def _require_inside(root: str, real: str) -> None:
    if not real.startswith(root.rstrip("/") + "/"):
        raise NotInside(errno.EXDEV, "leads out of the job's folder now")


def is_being_written(fd: int) -> bool:
    """Whether some process has the file open for writing, as far as the kernel can tell: it grants a
    read lease only if none has (fcntl(2), F_SETLEASE). False where it cannot tell.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        # Who opens the file for writing in the instant of the lease waits for its end, and we are
        # sent a signal: one that is ignored by default, as SIGIO would end this process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False
