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
import shutil
from collections.abc import Callable, Iterator, Mapping

from dstackd.runner.account import JOB_USER
from dstackd.runner.container_options import LABEL
from dstackd.runner.engine import Engine, docker, podman
from dstackd.runner.engine_setup import is_ours
from dstackd.runner.ipc import remove_ipc
from dstackd.runner.processes import kill_all

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


class Cleaner:
    """Made before the first job: what lies in the runner's folder by then is the runner's own."""

    def __init__(
        self, base_dir: str, *, environ: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._base_dir = base_dir
        self._environ = environ
        self._say = say
        self._own = frozenset(os.listdir(base_dir))

    def clean(self, *, had_container: bool) -> bool:
        """Whether nothing is left of the job that ended. As long as it takes to remove its files."""
        left = list(self._leftovers(had_container=had_container))
        for what in left:
            self._say(f"cleaning: left over: {what}")
        return not left

    def _leftovers(self, *, had_container: bool) -> Iterator[str]:
        if had_container:
            yield from self._containers()
        if is_ours(self._environ):
            yield from _of_the_user()
        yield from self._folder()

    def _containers(self) -> Iterator[str]:
        for engine in filter(None, (docker(self._environ), podman(self._environ))):
            if found := self._listed(engine):
                engine.run("rm", "--force", "--volumes", *found, timeout_s=CONTAINERS_S)
                yield from (f"container {each}" for each in self._listed(engine))

    def _listed(self, engine: Engine) -> list[str]:
        label = f"label={LABEL}={self._base_dir}"
        said = engine.run("ps", "--all", "--quiet", "--no-trunc", "--filter", label)
        # An engine that does not answer may hide a container.
        return said.out.split() if said.code == 0 else [f"of {engine.name}, which does not answer"]

    def _folder(self) -> Iterator[str]:
        for name in os.listdir(self._base_dir):
            if name not in self._own:
                path = os.path.join(self._base_dir, name)
                remove(path)
                if os.path.lexists(path):
                    yield path


def _of_the_user() -> Iterator[str]:
    try:
        user = pwd.getpwnam(JOB_USER)
    except KeyError:
        return
    yield from end_user(user.pw_name, user.pw_uid)


def end_user(name: str, uid: int, *, folders: tuple[str, ...] = SHARED_FOLDERS) -> Iterator[str]:
    """Take from the user all that lasts; what could not be taken."""
    # First what would start processes again, then the processes, then what they could have made again.
    for path in _starters(name, uid):
        remove(path)
    if not kill_all(lambda: pids_of(uid)):
        yield f"processes {pids_of(uid)}"
    remove_ipc(uid)
    for path in (*_starters(name, uid), *owned_below(folders, uid)):
        remove(path)
        if os.path.lexists(path):
            yield path


def _starters(name: str, uid: int) -> list[str]:
    named = [path.format(name=name) for path in OWN_PLACES]
    at_jobs = [path for pattern in AT_JOBS for path in glob.glob(pattern) if _owner(path) == uid]
    return [path for path in named if os.path.lexists(path)] + at_jobs


def owned_below(folders: tuple[str, ...], uid: int) -> list[str]:
    """What the user owns at any depth; nothing below a folder that is the user's as a whole."""
    found: list[str] = []
    for folder in folders:
        for here, names, files in os.walk(folder):
            found += [path for name in files if _owner(path := os.path.join(here, name)) == uid]
            whole = [name for name in names if _owner(os.path.join(here, name)) == uid]
            found += [os.path.join(here, name) for name in whole]
            names[:] = [name for name in names if name not in whole]
    return found


def pids_of(uid: int) -> list[int]:
    """Processes that run with the user's rights, or would have them back; none that has only to be
    waited for.
    """
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/status", encoding="ascii", errors="replace") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            is_zombie = fields["State"].split()[0] == "Z"
            if not is_zombie and str(uid) in fields["Uid"].split():
                found.append(int(name))
    return found


def remove(path: str) -> None:
    """A file, a link, or a folder with all that is in it; what cannot be removed stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None
