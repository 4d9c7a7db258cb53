"""The kinds of enclosure that this computer has, made for one run."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path

from dstackd.runner.account import Account, own_account
from dstackd.runner.cgroup import own_places
from dstackd.runner.descendants import Descendants
from dstackd.runner.direct import Direct
from dstackd.runner.job_group import MemoryGroup, UnifiedGroup
from dstackd.runner.processes import Processes

DESCENDANTS, MEMORY_GROUP, UNIFIED_GROUP = "descendants", "memory group", "unified group"
_numbers = itertools.count(1)
_PLACES = {
    place.version: place.folder for place in own_places() if os.access(place.folder, os.W_OK)
}
KINDS = [
    DESCENDANTS,
    *([MEMORY_GROUP] if 1 in _PLACES else []),
    *([UNIFIED_GROUP] if 2 in _PLACES else []),
]


def processes(kind: str, *, limit_bytes: int | None = None) -> Processes:
    """One of KINDS; a limit is for MEMORY_GROUP only."""
    if kind == DESCENDANTS:
        return Descendants()
    name = f"dstackd-job-{os.getpid()}-test{next(_numbers)}"
    if kind == MEMORY_GROUP:
        return MemoryGroup(f"{_PLACES[1]}/{name}", limit_bytes=limit_bytes)
    return UnifiedGroup(f"{_PLACES[2]}/{name}", limit_bytes=None, pids_max=None)


def direct(
    kind: str,
    *,
    account: Account | None = None,
    limit_bytes: int | None = None,
    no_new_privs: bool = True,
) -> Direct:
    """The machine itself, with what it has to say on standard output."""
    return Direct(
        account=account or own_account(None),
        gather=partial(processes, kind, limit_bytes=limit_bytes),
        no_new_privs=no_new_privs,
        say=print,
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
