"""Where this process is in the kernel's control groups, and a place for the job beside it. Law: writes
below the runner's own group only; where there is none that it may use, the answer is None.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

SELF_CGROUP = "/proc/self/cgroup"
SELF_MOUNTS = "/proc/self/mountinfo"
MEMINFO = "/proc/meminfo"
KERNEL = "/proc/sys/kernel"
MIB = 1024 * 1024
PIDS_RESERVE_DIVISOR = 10
"""A tenth of the machine's processes is for its system and the runner."""
RESERVE_MIN_BYTES = 256 * MIB
RESERVE_MAX_BYTES = 1024 * MIB
RESERVE_DIVISOR = 32
"""A thirty-second part of the machine is for its system and the runner, within the two bounds."""
RESERVE_SHARE_DIVISOR = 4
"""But never more than a quarter: the smallest machines have half a GiB."""


@dataclass(frozen=True)
class Place:
    """A control group: `version` 1 (of the memory controller) or 2, and its folder."""

    version: int
    folder: str


def job_memory_bytes(machine_bytes: int) -> int:
    """How much of a machine's memory its job may have."""
    reserve = min(max(RESERVE_MIN_BYTES, machine_bytes // RESERVE_DIVISOR), RESERVE_MAX_BYTES)
    return machine_bytes - min(reserve, machine_bytes // RESERVE_SHARE_DIVISOR)


def job_memory_max_bytes() -> int | None:
    """How much of this machine's memory its job may have; None where the kernel does not say what there is."""
    machine_bytes = machine_memory_bytes()
    return None if machine_bytes is None else job_memory_bytes(machine_bytes)


def job_pids(kernel: str = KERNEL) -> int | None:
    """How many processes and threads a job may have; None where the kernel does not say."""
    try:
        bounds = [int(_lines(os.path.join(kernel, name))[0]) for name in ("pid_max", "threads-max")]
    except (IndexError, ValueError):
        return None
    return min(bounds) - min(bounds) // PIDS_RESERVE_DIVISOR


def machine_memory_bytes(meminfo: str = MEMINFO) -> int | None:
    """What the kernel can give out in all; None where it does not say."""
    for line in _lines(meminfo):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def own_places(*, cgroup: str = SELF_CGROUP, mounts: str = SELF_MOUNTS) -> Iterator[Place]:
    """The groups of this process that can bound memory, the better one first; then a group of
    version 2 that can only hold processes together.
    """
    paths = dict(_own_paths(cgroup))
    unified, memory = None, None
    for root, mounted_at, kind, options in _mounts(mounts):
        if kind == "cgroup2" and "" in paths:
            unified = Place(2, _folder(mounted_at, root, paths[""]))
        elif kind == "cgroup" and "memory" in options and "memory" in paths:
            memory = Place(1, _folder(mounted_at, root, paths["memory"]))
    if memory is not None:
        yield memory
    if unified is not None:
        yield unified


def pids_below(folder: str) -> list[int]:
    """Every process in the group and in the groups below it."""
    found: list[int] = []
    for here, _, _ in os.walk(folder):
        found += [int(line) for line in _lines(os.path.join(here, "cgroup.procs"))]
    return [pid for pid in found if pid]  # 0: a process of a namespace that is not ours


def read_count(path: str, name: str) -> int:
    """The figure after `name` in a file of `name figure` lines; 0 where there is none."""
    for line in _lines(path):
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return 0


def remove_below(folder: str) -> None:
    """The group and those below it; one that is not empty stays."""
    for here, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(here)


def write(path: str, text: str) -> None:
    """Raises OSError."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _own_paths(cgroup: str) -> Iterator[tuple[str, str]]:
    """(controller, path) of each hierarchy; the controller of version 2 is empty."""
    for line in _lines(cgroup):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(mounts: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """(root, mount point, file system, its options), see proc(5)."""
    for line in _lines(mounts):
        left, _, right = line.partition(" - ")
        root, mounted_at = left.split()[3:5]
        kind, _, options = right.split(None, 2)
        yield root, mounted_at, kind, options.split(",")


def _folder(mounted_at: str, root: str, path: str) -> str:
    below = path[len(root) :] if root != "/" and path.startswith(root) else path
    return os.path.join(mounted_at, below.lstrip("/")).rstrip("/")


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
