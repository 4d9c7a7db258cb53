"""Find and end every process of one machine.

Law: standard library only, light to import (machine players load it), Linux and macOS. Ends only
descendants of a process of ours and groups that we made; never a process found by its name.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


def adopt_orphans() -> bool:
    """Make this process the parent of its orphaned descendants; False where there is no such call.

    prctl(2), PR_SET_CHILD_SUBREAPER: a daemon that forked twice and made its own session stays in
    our tree, so a walk over parents finds it. macOS has nothing like it.
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux only; call after fork)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # noqa: PLC0415  3 ms that macOS need not pay

    return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0  # type: ignore[no-any-return]


def descendants(root_pid: int, *, spare: Collection[int] = ()) -> list[int]:
    """Process ids below `root_pid` at this moment, parents before their children.

    Without zombies and `root_pid` itself; a process in `spare` is left out with everything below.
    """
    children: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        children.setdefault(parent, []).append(pid)
    found = [root_pid]
    for pid in found:  # grows while it is walked
        found += [child for child in children.get(pid, ()) if child not in spare]
    return found[1:]


def _parents() -> dict[int, int]:
    if os.path.isdir("/proc/self"):  # noqa: PTH112  pathlib costs 10 ms of a player's start
        return _parents_from_proc()
    return _parents_from_ps()


def _parents_from_proc() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  pathlib costs 10 ms of a player's start
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # The command's name stands in parentheses and may hold any character.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] != b"Z":
            parents[int(name)] = int(fields[1])
    return parents


def _parents_from_ps() -> dict[int, int]:
    import subprocess  # noqa: PLC0415  only where there is no /proc

    ps = subprocess.Popen(
        ["ps", "-A", "-o", "pid=,ppid=,stat="],
        stdout=subprocess.PIPE,
        text=True,
    )
    parents = {}
    for line in ps.communicate()[0].splitlines():
        pid, parent, state = line.split(None, 2)
        if not state.startswith("Z") and int(pid) != ps.pid:
            parents[int(pid)] = int(parent)
    return parents


def end_processes(
    find: Callable[[], list[int]], *, groups: Iterable[int] = (), grace_s: float
) -> bool:
    """SIGTERM, up to `grace_s` seconds, then SIGKILL until `find` returns nothing.

    `find` is asked again before each round, so children born meanwhile are found; it names parents
    first, so that a script's trap begins before its children are gone. True when
    nothing is left; False if something outlived five seconds of SIGKILL (state D, say).
    """
    if grace_s > 0:
        _send(signal.SIGTERM, find(), groups)
        _wait_until_gone(find, grace_s)
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        alive = find()
        _send(signal.SIGKILL, alive, groups)
        if not alive:
            return True
        time.sleep(_POLL_S)
    return False


def _wait_until_gone(find: Callable[[], list[int]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while find() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _send(signum: signal.Signals, pids: Iterable[int], groups: Iterable[int]) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signum)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)
