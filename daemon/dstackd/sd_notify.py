"""systemd's notification protocol, sender's side (sd_notify(3)). Law: without NOTIFY_SOCKET it does nothing, and it never blocks."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> bool:
    """Send `READY=1`, `STATUS=...`, `WATCHDOG=1`; whether there was anybody to send to."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0)
        try:
            sender.sendto("\n".join(assignments).encode(), address)
        except OSError:  # systemd is busy or gone: the next one will do
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises; None when no watchdog looks at this process."""
    pid = os.environ.get("WATCHDOG_PID", "")
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000
