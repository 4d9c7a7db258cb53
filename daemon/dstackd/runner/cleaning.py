"""Between two jobs on one machine. Law: nothing of the first is left for the second, or there is no second.

On a machine of ours everything that belongs to the jobs' user goes: processes, what would start them
again (crontab, at, lingering), files where every user may write, System V and POSIX queues and memory.
On a computer that only plays machines other machines may have the same user: there only what lies in
the runner's folder and its containers go; the enclosure has ended its processes itself.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from dstackd.runner.account import JOB_USER
from dstackd.runner.errors import RunnerError
from dstackd.runner.ipc import remove_ipc
from dstackd.runner.pace import Deadline
from dstackd.runner.power import is_ours
from dstackd.runner.processes import all_pids, kill_all
from dstackd.runner.trees import is_gone, nothing_to_check, remove, walk

if TYPE_CHECKING:
    from dstackd.runner.engine import Engine

SHARED_FOLDERS = (
    *("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"),  # noqa: S108 - looked through, not written to
    *("/run/lock", "/run/user", "/run/screen", "/var/lock", "/var/crash"),
)
"""Where every user may write on Ubuntu and Amazon Linux."""
OWN_PLACES = (
    *("/var/spool/cron/crontabs/{name}", "/var/spool/cron/{name}"),
    *("/var/mail/{name}", "/var/spool/mail/{name}", "/var/lib/systemd/linger/{name}"),
)
AT_JOBS = ("/var/spool/cron/atjobs/*", "/var/spool/at/*", "/var/spool/at/spool/*")
CONTAINERS_S = 60.0
CLEANING_S = 120.0
"""The machine is paid meanwhile, and a new one is there sooner."""


class NotClean(RunnerError):
    """It was given up."""


def nobody_leaves() -> bool:
    """For whoever has nothing that ends the cleaning."""
    return False


class Cleaner:
    """Made before the first job: what lies in the runner's folder by then is the runner's own."""

    def __init__(
        self, base_dir: str, *, environ: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._base_dir = base_dir
        self._environ = environ
        self._say = say
        self._own = frozenset(os.listdir(base_dir))

    def clean(
        self,
        *,
        had_container: bool,
        leaves: Callable[[], bool] = nobody_leaves,
        patience_s: float = CLEANING_S,
    ) -> bool:
        """Whether nothing is left of the job that ended. Raises NotClean when it takes longer than `patience_s`, or
        `leaves` says that the machine has to go; OSError.
        """
        deadline = Deadline(patience_s)

        def check() -> None:
            if leaves():
                raise NotClean("the machine has to go")
            if deadline.left_s() == 0:
                raise NotClean(f"not done within {patience_s:.0f} s")

        left = list(self._leftovers(had_container=had_container, check=check))
        check()
        for what in left:
            self._say(f"cleaning: left over: {what}")
        return not left

    def _leftovers(self, *, had_container: bool, check: Callable[[], None]) -> Iterator[str]:
        if had_container:
            yield from self._containers()
        if is_ours(self._environ):
            yield from _of_the_user(check)
        yield from self._folder(check)

    def _containers(self) -> Iterator[str]:
        # Few jobs have one.
        from dstackd.runner.container_options import label_of  # noqa: PLC0415
        from dstackd.runner.engine import docker, podman  # noqa: PLC0415

        ours = f"label={label_of(self._base_dir)}"
        for engine in filter(None, (docker(self._environ), podman(self._environ))):
            if found := _listed(engine, ours):
                engine.run("rm", "--force", "--volumes", *found, timeout_s=CONTAINERS_S)
                yield from (f"container {each}" for each in _listed(engine, ours))

    def _folder(self, check: Callable[[], None]) -> Iterator[str]:
        for name in os.listdir(self._base_dir):
            path = os.path.join(self._base_dir, name)
            if name not in self._own and not remove(path, check=check):
                yield path


def _listed(engine: Engine, having: str) -> list[str]:
    said = engine.containers(having)
    # An engine that does not answer may hide a container.
    return said.out.split() if said.code == 0 else [f"of {engine.name}, which does not answer"]


def _of_the_user(check: Callable[[], None]) -> Iterator[str]:
    try:
        user = pwd.getpwnam(JOB_USER)
    except KeyError:
        return
    yield from end_user(user.pw_name, user.pw_uid, check=check)


def end_user(
    name: str,
    uid: int,
    *,
    folders: tuple[str, ...] = SHARED_FOLDERS,
    check: Callable[[], None] = nothing_to_check,
) -> Iterator[str]:
    """Take from the user all that lasts; what could not be taken. `check` is called all the time, and may raise."""
    # First what would start processes again, then the processes, then what they could have made again.
    for path in _starters(name, uid):
        remove(path, check=check)
    if not kill_all(lambda: pids_of(uid)):
        yield f"processes {pids_of(uid)}"
    remove_ipc(uid)
    for path in (*_starters(name, uid), *owned_below(folders, uid, check=check)):
        if not remove(path, check=check):
            yield path


def _starters(name: str, uid: int) -> list[str]:
    named = [path.format(name=name) for path in OWN_PLACES]
    at_jobs = [path for pattern in AT_JOBS for path in glob.glob(pattern) if _owner(path) == uid]
    return [path for path in named if not is_gone(path)] + at_jobs


def owned_below(
    folders: tuple[str, ...], uid: int, *, check: Callable[[], None] = nothing_to_check
) -> list[str]:
    """What the user owns at any depth; nothing below a folder that is the user's as a whole. Raises OSError."""
    found: list[str] = []
    # /var/lock is a link to /run/lock.
    for folder in dict.fromkeys(map(os.path.realpath, folders)):
        for entry in walk(folder, enters=lambda status: status.st_uid != uid):
            check()
            if not entry.is_left and entry.status.st_uid == uid:
                found.append(entry.path)
    return found


def pids_of(uid: int) -> list[int]:
    """Processes that run with the user's rights, or would have them back; none that has only to be
    waited for.
    """
    found = []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            is_zombie = fields["State"].split()[0] == "Z"
            if not is_zombie and str(uid) in fields["Uid"].split():
                found.append(pid)
    return found


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None
