"""The real daemon as a process. Law: started as an operator starts it, `python -m dstackd run --config FILE`."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from typing import Final

from dstackd.demo import api
from dstackd.demo.environment import dstackd_environment
from dstackd.demo.errors import DemoError
from dstackd.demo.places import Places

READY_WITHIN_S: Final = 60.0
_STOP_WITHIN_S: Final = 10.0
_POLL_S: Final = 0.05
_TAIL_BYTES: Final = 2000


class DaemonProcess:
    """One daemon at a time; what it says goes to one file."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return at once."""
        command = [sys.executable, "-m", "dstackd", "run", "--config", str(self._places.config)]
        with self._places.daemon_log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the demo, which then ends the daemon.
                start_new_session=True,
                cwd=self._places.directory,
                env=dstackd_environment(),
            )

    def wait_ready(self) -> None:
        """Until /readyz says yes. Raises DemoError when it does not, or the daemon ends."""
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            self.check()
            if time.monotonic() > deadline_s:
                raise DemoError(f"the daemon was not ready after {READY_WITHIN_S:.0f} s")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise DemoError if the daemon has ended by itself."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise DemoError(
                f"the daemon ended with exit code {code}; it said last:\n{self._tail()}"
            )

    def kill(self) -> None:
        """Kill -9: nothing in the daemon notices."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """End it and wait; calling it again does nothing."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _is_ready(self) -> bool:
        try:
            return api.status_of(self._places.socket, "/readyz") == http.client.OK
        except api.Unavailable:
            return False

    def _tail(self) -> str:
        content = self._places.daemon_log.read_bytes()[-_TAIL_BYTES:]
        return content.decode(errors="replace").strip()
