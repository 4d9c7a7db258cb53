"""The job's processes where no control group can be had. Law: signals go to the job's descendants only.

On Linux the runner adopts what loses its parent (PR_SET_CHILD_SUBREAPER), so whatever the job starts
stays a descendant of the runner, in a session that is not the runner's. Elsewhere there is the
process group alone, and what left it is not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from typing import NamedTuple

from dstackd.runner.pace import Deadline
from dstackd.runner.processes import KILL_S, all_pids, send

PR_SET_CHILD_SUBREAPER = 36
LOOKS_MIN = 3
"""A look at /proc takes a while, in which a process may fork and go: only the third empty one counts."""
_LOOK_S = 0.005
_ZOMBIE = "Z"


class Process(NamedTuple):
    """What proc(5) says about one."""

    pid: int
    parent: int
    group: int
    session: int
    state: str


class Descendants:
    """One job's processes, found by their parents. One job at a time in a process."""

    def __init__(self) -> None:
        self._leader: int | None = None
        self._sees_all = _adopt_orphans(1)
        self._others = {each.pid for each in _processes() if each.parent == os.getpid()}

    @property
    def join(self) -> tuple[str, ...]:
        return ()

    def began(self, pid: int) -> None:
        self._leader = pid

    def pids(self) -> list[int]:
        if self._leader is None:
            return []
        if not self._sees_all:
            return [-self._leader] if _group_lives(self._leader) else []
        return [each.pid for each in self._descendants()]

    def kill(self) -> bool:
        """By group first: the kernel ends a group as a whole, whoever forks meanwhile."""
        deadline = Deadline(KILL_S)
        empty_looks = 0
        while empty_looks < LOOKS_MIN:
            left = self._targets()
            send(left, signal.SIGKILL)
            empty_looks = 0 if left else empty_looks + 1
            if deadline.left_s() == 0:
                return False
            time.sleep(_LOOK_S)
        self._bury()
        return True

    def ran_out_of_memory(self) -> bool:
        """Nobody counts: a SIGKILL stays a SIGKILL."""
        return False

    def remove(self) -> None:
        self._bury()
        _adopt_orphans(0)

    def _targets(self) -> list[int]:
        if self._leader is None or not self._sees_all:
            return self.pids()
        found = self._descendants()
        # A group of another namespace is 0, which for kill(2) is our own.
        groups = {-each.group for each in found if each.group > 1}
        return [*groups, *(each.pid for each in found)]

    def _descendants(self) -> list[Process]:
        """Those that live, of this process's children in other sessions than its own, and theirs."""
        children: dict[int, list[Process]] = {}
        for each in _processes():
            children.setdefault(each.parent, []).append(each)
        todo = [each for each in children.get(os.getpid(), ()) if self._is_inside(each)]
        found = []
        while todo:
            each = todo.pop()
            found.append(each)
            todo += children.get(each.pid, ())
        return [each for each in found if each.state != _ZOMBIE]

    def _is_inside(self, child: Process) -> bool:
        return child.session != os.getsid(0) and child.pid not in self._others

    def _bury(self) -> None:
        """Adopted processes that have ended, but not the leader, whose exit code somebody waits for."""
        for each in _processes():
            ended = each.parent == os.getpid() and each.state == _ZOMBIE
            if ended and self._is_inside(each) and each.pid != self._leader:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(each.pid, os.WNOHANG)


def _adopt_orphans(adopt: int) -> bool:
    """Begin (1) or end (0) it; whether the kernel did as told."""
    if not sys.platform.startswith("linux") or not os.path.exists("/proc/self/stat"):
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, adopt, 0, 0, 0) == 0)


def _group_lives(group: int) -> bool:
    try:
        os.kill(-group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _processes() -> list[Process]:
    found = []
    for pid in all_pids() if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                state, parent, group, session = file.read().rpartition(")")[2].split()[:4]
            found.append(Process(pid, int(parent), int(group), int(session), state))
    return found
