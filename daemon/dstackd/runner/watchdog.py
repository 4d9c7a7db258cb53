"""Proof to systemd that this process still gets on. Law: it is given only while everything that
promised to speak again has done so in time; the proof is never given by a thread that knows nothing.

A process that hangs as a whole feeds nobody, and systemd kills it (`WatchdogSec=` of its unit). A
thread that hangs alone ends the process from here, with the stacks of all threads on standard error,
which also holds where there is no systemd. What is around the runner then reports and powers off.
A job that runs for days in silence is no promise: nothing is expected of the main thread meanwhile.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Callable

OVERDUE_EXIT_CODE = 70
"""EX_SOFTWARE: whoever started the runner learns that it ended itself."""
UNWATCHED_LOOK_S = 5.0
SLACK_S = 300.0
"""On top of a loop's own interval. One look may meet a name server, a connection and an answer that
each use up their time-outs several times (30 s, `aws.TIMEOUT_S`); none of that is a hang."""


def notify(address: str, *assignments: str) -> bool:
    """Say `READY=1` or `WATCHDOG=1` at the socket (sd_notify(3)); whether it was taken."""
    if not address:
        return False
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.0)
        try:
            sender.sendto("\n".join(assignments).encode(), name)
        except OSError:  # systemd is busy: the next one will do
            return False
    return True


def end_process(overdue: str) -> None:
    """Leave the reason as the last line of standard error, and end at once."""
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os.write(2, f"dstackd: no progress: {overdue}\n".encode())
    os._exit(OVERDUE_EXIT_CODE)


class Watchdog:
    """What is expected of the threads, and the thread that looks whether it holds."""

    def __init__(
        self,
        environ: MutableMapping[str, str],
        *,
        end: Callable[[str], None] = end_process,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes systemd's variables out of `environ`: no child process may speak for this one."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        pid, usec = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
        watched = usec.isdecimal() and pid in ("", str(os.getpid()))
        # sd_watchdog_enabled(3) advises half; a quarter forgives a message that was not taken.
        self.look_s = int(usec) / 4_000_000 if watched else UNWATCHED_LOOK_S
        self._end = end
        self._now = now
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._over = threading.Event()

    def start(self) -> None:
        """Tell systemd that the runner runs, and feed it from now on."""
        notify(self._address, "READY=1")
        threading.Thread(target=self._feed, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Neither feed nor judge any more."""
        self._over.set()

    def expect(self, name: str, *, within_s: float) -> None:
        """`name` calls this or `forget` again within `within_s`, or the runner ends."""
        with self._lock:
            self._due[name] = self._now() + within_s

    def forget(self, name: str) -> None:
        """Expect nothing of `name` any more."""
        with self._lock:
            self._due.pop(name, None)

    @contextmanager
    def within(self, name: str, seconds: float) -> Iterator[None]:
        """The block ends within `seconds`, or the runner does."""
        self.expect(name, within_s=seconds)
        try:
            yield
        finally:
            self.forget(name)

    def overdue(self) -> str:
        """Who should have spoken by now, with how late it is; empty when nobody is late."""
        now = self._now()
        with self._lock:
            late = {name: now - due for name, due in self._due.items() if now > due}
        return ", ".join(f"{name} ({seconds:.0f} s late)" for name, seconds in late.items())

    def look(self) -> bool:
        """Feed systemd, or end the process. Whether all was well."""
        late = self.overdue()
        if late:
            self._end(late)
            return False
        notify(self._address, "WATCHDOG=1")
        return True

    def _feed(self) -> None:
        while self.look() and not self._over.wait(self.look_s):
            pass
