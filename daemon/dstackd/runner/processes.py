"""A set of processes that only grows by fork. Law: nothing that was born inside gets out of sight.

In `job_group.py` the kernel counts; `descendants.py` is for where it does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

from dstackd.runner.pace import Deadline

KILL_S = 10.0
"""SIGKILL works at once, except on a process that waits for a device."""
_LOOK_S = 0.01


class Processes(Protocol):
    """The processes of one job."""

    @property
    def join(self) -> tuple[str, ...]:
        """The files into which a process writes its number to get in, before it starts the job."""

    def began(self, pid: int) -> None:
        """The first process is inside."""

    def pids(self) -> list[int]:
        """Who is inside now; a negative number stands for a process group, as for kill(2)."""

    def kill(self) -> bool:
        """SIGKILL until nothing is left; False when something was still there after KILL_S."""

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed one of them for memory."""

    def remove(self) -> None:
        """Give back what the set itself needed. Nothing is inside any more."""


def all_pids() -> list[int]:
    """Of this machine. Raises OSError where there is no /proc."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def send(pids: list[int], number: int) -> None:
    """The signal to each of them that is still there."""
    for pid in pids:
        # Gone; macOS says PermissionError when only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_all(pids: Callable[[], list[int]]) -> bool:
    """SIGKILL again and again, because what is being killed may fork meanwhile."""
    deadline = Deadline(KILL_S)
    while left := pids():
        send(left, signal.SIGKILL)
        if deadline.left_s() == 0:
            return False
        time.sleep(_LOOK_S)
    return True
