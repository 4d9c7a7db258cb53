"""The processes of a container, seen from the machine. Law: signals nothing of which it is not sure that it is
inside.

An engine sends a signal to the first process only; a job's other processes would be killed with it and
never hear that they have to stop.
"""

from __future__ import annotations

import errno
import os

from dstackd.runner.processes import all_pids, send

KERNEL_LOG = "/dev/kmsg"
_RECORD_BYTES = 8192
"""More than a record of the kernel's log has."""


def signal_inside(first_pid: int, container_id: str, number: int, *, spare_first: bool) -> bool:
    """Send the signal to every process inside, but the first one with `spare_first`; False when
    this machine cannot see them (a Docker in a virtual machine, a user without rights).
    """
    namespace = _namespace(first_pid)
    if namespace is None or namespace == _namespace(os.getpid()):
        return False
    if container_id not in _control_groups(first_pid):
        return False  # the number is that of a process in another machine
    for pid in all_pids():
        if _namespace(pid) == namespace and not (spare_first and pid == first_pid):
            send([pid], number)
    return True


def killed_for_memory(container_id: str, *, kernel_log: str = KERNEL_LOG) -> bool:
    """Whether the kernel's log has such a killing within the container.

    Podman does not see it where control groups are of version 1, nor when it was not the first process.
    """
    try:
        log = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _has_killing(log, container_id.encode())
    finally:
        os.close(log)


def _has_killing(log: int, container_id: bytes) -> bool:
    while True:
        try:
            record = os.read(log, _RECORD_BYTES)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the record was overwritten while we read
                continue
            return False  # EAGAIN: no more
        if not record:
            return False
        if b"oom-kill:" in record and container_id in record:
            return True


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _control_groups(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as groups:
            return groups.read()
    except OSError:
        return ""
