"""Processes, their environment and what they have cost. Law: reads the kernel's own figures; Linux only, as inotify is."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
POLL_S = 0.02


def environment() -> dict[str, str]:
    """This process's, with the sources importable and nothing of AWS, dstackd or Python's tracing."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "DSTACKD_"))
    }
    return kept | {"PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT}"}


def cpu_s(pid: int) -> float:
    """User and system seconds of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int | str = "self") -> float:
    """The most memory that a process has had at a time, in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], bool],
    *,
    what: Callable[[], str],
    within_s: float,
    poll_s: float = POLL_S,
) -> None:
    """Poll until the condition holds. Raises TimeoutError with `what`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            message = f"waited {within_s:.0f} s for {what()}"
            raise TimeoutError(message)
        time.sleep(poll_s)
