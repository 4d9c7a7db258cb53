"""The job's folder in the hands of the image's user. Law: changes owners and modes below that folder only,
and follows no link.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile

from dstackd.runner import ownership
from dstackd.runner.engine import STAGE, Engine
from dstackd.runner.errors import StageFailed
from dstackd.runner.trees import walk

_PASSWD = "/etc/passwd"  # noqa: S105 - the file that names users
_FOR_ALL = {True: 0o777, False: 0o666}


def owner_of(engine: Engine, container: str, user: str) -> tuple[int, int] | None:
    """(uid, gid) of the image's `USER`; None is root. Raises StageFailed."""
    name, _, group = user.partition(":")
    if name in {"", "0", "root"}:
        return None
    uid, gid = _in_passwd(_passwd(engine, container), name)
    if uid is None:
        raise StageFailed(STAGE, f"the image's user {user!r} is not in its /etc/passwd")
    if group.isdecimal():
        gid = int(group)
    return (uid, gid) if uid != 0 else None


def give(folder: str, owner: tuple[int, int] | None) -> None:
    """Let the owner read and write all below the folder. Raises OSError."""
    if owner is None:
        return
    if os.geteuid() == 0:
        ownership.give(folder, uid=owner[0], gid=owner[1])
        return
    os.chmod(folder, _for_all(os.stat(folder).st_mode))
    for entry in walk(folder):
        mode = entry.status.st_mode
        if not entry.is_left and not stat.S_ISLNK(mode):
            os.chmod(entry.name, _for_all(mode), dir_fd=entry.here)


def _for_all(mode: int) -> int:
    return stat.S_IMODE(mode) | _FOR_ALL[stat.S_ISDIR(mode)]


def _in_passwd(passwd: str, name: str) -> tuple[int | None, int]:
    for line in passwd.splitlines():
        fields = line.split(":")
        is_entry = len(fields) > 3 and fields[2].isdecimal() and fields[3].isdecimal()  # noqa: PLR2004 - passwd(5)
        if is_entry and name in {fields[0], fields[2]}:
            return int(fields[2]), int(fields[3])
    # A number need not be in the file.
    return (int(name), 0) if name.isdecimal() else (None, 0)


def _passwd(engine: Engine, container: str) -> str:
    """The image's file, out of a container that has not begun; nothing where it has none."""
    said = engine.run("cp", f"{container}:{_PASSWD}", "-")
    try:
        with tarfile.open(
            fileobj=io.BytesIO(said.out.encode("utf-8", "surrogateescape"))
        ) as packed:
            for member in packed:
                file = packed.extractfile(member)
                if file is not None:
                    return file.read().decode("utf-8", "replace")
    except (tarfile.TarError, OSError):
        return ""
    return ""
