"""Who the commands run as. Law: creates at most one user, and only on a machine of ours.

A job that may not have its machine gets a system user without a password and without groups that
give more than the graphics cards. On a computer that only plays machines no user is made.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import time
from dataclasses import dataclass

from dstackd.runner.errors import StageFailed

STAGE = "confine"
JOB_USER = "dstackd-job"
SHELL = "/bin/bash"
DEVICE_GROUPS = ("video", "render")
"""Who may open the graphics cards, where the image has such groups."""
USERADD_S = 30.0
_USERADD_TRIES = 5
_TRY_AGAIN_S = 0.5
"""useradd fails while somebody else has the password file locked, as cloud-init may have."""


@dataclass(frozen=True)
class Account:
    """A user of this machine; `is_other`: not the one who runs the runner."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str
    is_other: bool


def own_account(home: str | None) -> Account:
    """Whoever runs the runner; `home` is what their environment says."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a container may run as a number that has no name
        return Account(str(uid), uid, os.getegid(), (), home or "/", "/bin/sh", is_other=False)
    return Account(
        name=entry.pw_name,
        uid=uid,
        gid=os.getegid(),
        groups=(),
        home=home or entry.pw_dir,
        shell=entry.pw_shell or "/bin/sh",
        is_other=False,
    )


def existing_account(name: str, *, home: str) -> Account:
    """The user of that name. Raises StageFailed."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise StageFailed(STAGE, f"there is no user {name}") from error
    if entry.pw_uid == 0:
        raise StageFailed(STAGE, f"the user {name} is root")
    shell = SHELL if os.path.exists(SHELL) else "/bin/sh"
    return Account(name, entry.pw_uid, entry.pw_gid, _device_groups(), home, shell, is_other=True)


def job_account(*, home: str) -> Account:
    """The jobs' user, made if it is not there. Raises StageFailed."""
    if not _exists(JOB_USER):
        _create(home)
    return existing_account(JOB_USER, home=home)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _create(home: str) -> None:
    useradd = shutil.which("useradd") or "/usr/sbin/useradd"
    command = [useradd, "--system", "--user-group", "--no-create-home"]
    command += ["--home-dir", home, "--shell", SHELL, JOB_USER]
    said = ""
    for _ in range(_USERADD_TRIES):
        try:
            done = subprocess.run(command, capture_output=True, timeout=USERADD_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StageFailed(STAGE, f"cannot create the user {JOB_USER}: {error}") from error
        if done.returncode == 0:
            return
        said = done.stderr.decode("utf-8", "replace").strip()
        time.sleep(_TRY_AGAIN_S)
    raise StageFailed(STAGE, f"cannot create the user {JOB_USER}: {said}")


def _device_groups() -> tuple[int, ...]:
    return tuple(entry.gr_gid for entry in grp.getgrall() if entry.gr_name in DEVICE_GROUPS)
