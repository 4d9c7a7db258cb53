"""The job in a control group of its own. Law: the limits are set before anything is inside.

Version 2 is what stock images have. Version 1 neither kills a group at once nor takes the whole job
when a part of it ran out of memory; it serves where version 2 cannot bound memory.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from typing import Union

from dstackd.runner import cgroup
from dstackd.runner.cgroup import Place
from dstackd.runner.pace import Deadline
from dstackd.runner.processes import kill_all

RUNNER_PART = "runner"
NAME_PREFIX = "dstackd-job-"
CONTROLLERS = ("memory", "pids")
REMOVE_S = 2.0
"""The last process may be dying still: the kernel then says that the group is busy."""
_LOOK_S = 0.005


class _Group:
    """What both versions have in common."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        os.mkdir(folder)

    @property
    def join(self) -> tuple[str, ...]:
        return (self._file("cgroup.procs"),)

    def began(self, pid: int) -> None:
        """Nothing to remember: the kernel does."""

    def pids(self) -> list[int]:
        return cgroup.pids_below(self.folder)

    def remove(self) -> None:
        deadline = Deadline(REMOVE_S)
        while True:
            cgroup.remove_below(self.folder)
            if not os.path.isdir(self.folder) or deadline.left_s() == 0:
                return
            time.sleep(_LOOK_S)

    def _set(self, **figures: str) -> None:
        """Write files, whose names have `__` for `.` here. Raises OSError, and nothing is left then."""
        try:
            for name, figure in figures.items():
                cgroup.write(self._file(name.replace("__", ".")), figure)
        except OSError:
            cgroup.remove_below(self.folder)
            raise

    def _file(self, name: str) -> str:
        return os.path.join(self.folder, name)


class UnifiedGroup(_Group):
    """A group of version 2."""

    def __init__(self, folder: str, *, limit_bytes: int | None, pids_max: int | None) -> None:
        """None is no limit. Raises OSError."""
        super().__init__(folder)
        if limit_bytes is not None:
            # All of the job or nothing: what is left of a job after the kernel took a part of it
            # waits, more often than not, for that part until max_duration.
            self._set(memory__max=str(limit_bytes), memory__oom__group="1")
        if pids_max is not None:
            self._set(pids__max=str(pids_max))

    def kill(self) -> bool:
        """In one go where the kernel can (5.14 and later), else frozen, so that nobody forks."""
        for name in ("cgroup.kill", "cgroup.freeze"):
            if os.path.exists(self._file(name)):
                cgroup.write(self._file(name), "1")
                break
        return kill_all(self.pids)

    def ran_out_of_memory(self) -> bool:
        return cgroup.read_count(self._file("memory.events"), "oom_kill") > 0


class MemoryGroup(_Group):
    """A group of version 1's memory controller."""

    def __init__(self, folder: str, *, limit_bytes: int | None) -> None:
        """None is no limit. Raises OSError."""
        super().__init__(folder)
        if limit_bytes is not None:
            self._set(memory__limit_in_bytes=str(limit_bytes))

    def kill(self) -> bool:
        return kill_all(self.pids)

    def ran_out_of_memory(self) -> bool:
        return cgroup.read_count(self._file("memory.oom_control"), "oom_kill") > 0


Group = Union[UnifiedGroup, MemoryGroup]


def make_group(
    places: list[Place],
    *,
    limit_bytes: int | None,
    divides: bool,
    say: Callable[[str], None],
) -> Group | None:
    """A group for one job in the first of the places that takes it, with the limit if it can be had.
    `divides`: the runner's own group is the runner's to divide. What could not be had is said.
    """
    name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    ways = [(place, limit_bytes, divides) for place in places]
    ways += [(place, None, False) for place in places]
    for place, limit, may_divide in ways:
        try:
            group = _make(place, name, limit_bytes=limit, divides=may_divide)
            _check_entrance(group)
            return group  # noqa: TRY300 - what follows is for the next place
        except OSError as error:  # noqa: PERF203 - twice or four times in a machine's life
            what = "group" if limit is None else "group with a limit"
            say(f"confine: no control {what} in {place.folder}: {error}")
    return None


def _make(place: Place, name: str, *, limit_bytes: int | None, divides: bool) -> Group:
    if place.version == 1:
        _sweep(place.folder)
        return MemoryGroup(os.path.join(place.folder, name), limit_bytes=limit_bytes)
    parent = divide(place.folder) if divides else place.folder
    _sweep(parent)
    folder = os.path.join(parent, name)
    pids_max = cgroup.job_pids() if divides else None
    return UnifiedGroup(folder, limit_bytes=limit_bytes, pids_max=pids_max)


def _check_entrance(group: Group) -> None:
    """Have a process go in and end. Whether the kernel lets it depends on more than who owns the files;
    raises OSError, and the group is gone, where it does not.
    """
    go_in = ["/bin/sh", "-c", 'echo $$ > "$0"', *group.join]
    if subprocess.run(go_in, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        group.remove()
        raise OSError(errno.EACCES, "no process may enter it")


def divide(folder: str) -> str:
    """Move the runner into a part of its group and have the group bound its parts; the folder in
    which the job's group can be made. Doing it again changes nothing. Raises OSError.

    As a delegated unit of systemd (`Delegate=yes`) the runner may; but the kernel lets a group that
    has processes of its own bound none of its parts (cgroups(7), "no internal processes").
    """
    if os.path.basename(folder) == RUNNER_PART:
        folder = os.path.dirname(folder)
    part = os.path.join(folder, RUNNER_PART)
    os.makedirs(part, exist_ok=True)
    cgroup.write(os.path.join(part, "cgroup.procs"), str(os.getpid()))
    for controller in CONTROLLERS:
        cgroup.write(os.path.join(folder, "cgroup.subtree_control"), f"+{controller}")
    return folder


def _sweep(parent: str) -> None:
    """Remove what runners left that were killed; a group with a process in it stays."""
    for name in os.listdir(parent):
        pid = name[len(NAME_PREFIX) :].partition("-")[0]
        if name.startswith(NAME_PREFIX) and not os.path.exists(f"/proc/{pid}"):
            cgroup.remove_below(os.path.join(parent, name))
