"""The job's commands as one process group. Law: whatever the commands do, `wait` ends.

The commands are one shell script, run as `bash -e` (sh where there is no bash), in a session of
their own, with standard input empty and an environment that has nothing of the runner's.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dstackd.launch_document import JobDocument
from dstackd.runner.job_log import STDERR, STDOUT, JobLog
from dstackd.runner.stopping import EXIT, INTERRUPTED, TIMED_OUT, StopSwitch

PIPE_BYTES = 65_536
LAST_OUTPUT_S = 5.0
"""A process that left the group may hold the pipes for ever; its output is not waited for longer."""
KILL_S = 10.0
"""SIGKILL works at once, except on a process that waits for a device."""
_GROUP_POLL_S = 0.05
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Outcome:
    """How the commands ended: `code` is 128+n for signal n."""

    code: int
    cause: str


def job_environment(
    job: JobDocument, *, job_dir: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """The spec's variables over a few that every program expects; DSTACKD_* over both."""
    ours = {
        "DSTACKD_JOB_ID": job.job_id,
        "DSTACKD_ATTEMPT": str(job.attempt),
        "DSTACKD_JOB_NAME": job.name,
        "DSTACKD_JOB_DIR": job_dir,
    }
    if job.array_index is not None:
        ours["DSTACKD_ARRAY_INDEX"] = str(job.array_index)
    inherited = {name: environ[name] for name in _INHERITED if environ.get(name)}
    common = {"PATH": DEFAULT_PATH, "HOME": pwd.getpwuid(os.getuid()).pw_dir, "LANG": "C.UTF-8"}
    return {**common, **inherited, **job.env, **ours}


class RunningJob:
    """One run of the commands; `wait` once."""

    def __init__(
        self,
        job: JobDocument,
        *,
        script_path: str,
        working_dir: str,
        environment: Mapping[str, str],
        log: JobLog,
        switch: StopSwitch,
    ) -> None:
        """Start the commands. Raises OSError, ValueError."""
        self._job = job
        self._log = log
        self._switch = switch
        self._exit_code: int | None = None
        self._kill_at: float | None = None
        with open(script_path, "w", encoding="utf-8", errors="surrogateescape") as script:
            script.write("\n".join(job.commands) + "\n")
        shell = shutil.which("bash") or "/bin/sh"
        self._process = subprocess.Popen(
            [shell, "-e", script_path],
            cwd=working_dir,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._started_at = time.monotonic()
        self._readers = [self._reader(STDOUT), self._reader(STDERR)]
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._reaper.start()

    def wait(self) -> Outcome:
        """Until the commands ended, or were ended; nothing of their group is left then."""
        while not self._is_over():
            self._switch.wait(self._next_look_s())
        self._signal(signal.SIGKILL)
        self._reaper.join(KILL_S)
        return self._outcome()

    def drain(self) -> None:
        """Take what is still in the pipes, then close the log."""
        until = time.monotonic() + LAST_OUTPUT_S
        for reader in self._readers:
            reader.join(max(0.0, until - time.monotonic()))
        self._log.close()

    def _is_over(self) -> bool:
        now = time.monotonic()
        if self._exit_code is not None and (self._kill_at is None or not self._group_lives()):
            return True
        limit_s = self._job.max_duration_s
        if limit_s is not None and now >= self._started_at + limit_s:
            self._switch.order(TIMED_OUT, grace_s=self._job.stop_grace_s)
        order = self._switch.current()
        if order is None:
            return False
        if self._kill_at is None:
            self._signal(signal.SIGTERM)
            self._kill_at = now + order.grace_s
        self._kill_at = min(self._kill_at, now + order.grace_s)
        return now >= self._kill_at

    def _next_look_s(self) -> float | None:
        now = time.monotonic()
        if self._kill_at is not None:
            # The script may end before what it started, which still has its grace.
            poll_s = _GROUP_POLL_S if self._exit_code is not None else KILL_S
            return min(poll_s, max(0.0, self._kill_at - now))
        if self._job.max_duration_s is None:
            return None
        return max(0.0, self._started_at + self._job.max_duration_s - now)

    def _outcome(self) -> Outcome:
        code = self._exit_code if self._exit_code is not None else 128 + signal.SIGKILL
        order = self._switch.current() if self._kill_at is not None else None
        if order is None or (order.cause == INTERRUPTED and code == 0):
            return Outcome(code, EXIT)
        return Outcome(code, order.cause)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # gone; macOS says PermissionError when only zombies are left

    def _group_lives(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _reap(self) -> None:
        code = self._process.wait()
        self._exit_code = 128 - code if code < 0 else code
        self._switch.wake()

    def _reader(self, source: str) -> threading.Thread:
        pipe = self._process.stdout if source == STDOUT else self._process.stderr
        assert pipe is not None  # noqa: S101 - both are pipes; for the type checker

        def read() -> None:
            with pipe:
                while chunk := os.read(pipe.fileno(), PIPE_BYTES):
                    self._log.feed(source, chunk)

        thread = threading.Thread(target=read, name=source, daemon=True)
        thread.start()
        return thread
