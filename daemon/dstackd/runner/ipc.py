"""System V shared memory, queues and semaphores, which outlive the processes that made them. Law: removes
only what the user owns or has made.

POSIX ones are files (/dev/shm, /dev/mqueue). The calls are shmctl(2), msgctl(2), semctl(2).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

IPC_RMID = 0
_TABLES = "/proc/sysvipc"
_IDS = {"shm": "shmid", "msg": "msqid", "sem": "semid"}


def remove_ipc(uid: int) -> None:
    """Remove the user's; a segment that is in use goes with its last process."""
    libc = ctypes.CDLL(None)
    for number in ids_of("shm", uid):
        libc.shmctl(number, IPC_RMID, None)
    for number in ids_of("msg", uid):
        libc.msgctl(number, IPC_RMID, None)
    for number in ids_of("sem", uid):
        libc.semctl(number, 0, IPC_RMID)


def ids_of(kind: str, uid: int) -> list[int]:
    """Of `shm`, `msg` or `sem`: those whose owner or maker the user is, as proc(5) lists them."""
    return [
        int(row[_IDS[kind]])
        for row in _rows(f"{_TABLES}/{kind}")
        if str(uid) in {row["uid"], row["cuid"]}
    ]


def _rows(path: str) -> Iterator[dict[str, str]]:
    try:
        with open(path, encoding="ascii") as file:
            names = next(file, "").split()
            for line in file:
                yield dict(zip(names, line.split()))
    except OSError:
        return
