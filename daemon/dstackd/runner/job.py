"""The job's commands, from their start to their end. Law: whatever the commands do, `wait` ends.

The commands are one shell script, run in an enclosure (`enclosure.py`): the machine itself or a
container. Their standard input is empty and their environment has nothing of the runner's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dstackd.launch_document import JobDocument
from dstackd.runner.account import Account
from dstackd.runner.enclosure import Enclosure
from dstackd.runner.job_log import STDERR, STDOUT, JobLog
from dstackd.runner.processes import KILL_S
from dstackd.runner.reading import PipeReader
from dstackd.runner.stopping import EXIT, INTERRUPTED, OUT_OF_MEMORY, TIMED_OUT, StopSwitch
from dstackd.runner.unexpected import Unexpected

LAST_OUTPUT_S = 5.0
"""A process that cannot be killed may hold the pipes for ever; its output is not waited for longer."""
_LIFE_POLL_S = 0.05
_END_TRIES = 5
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED = ("PATH", "LANG")


@dataclass(frozen=True)
class Outcome:
    """How the commands ended: `code` is 128+n for signal n, whose name is `signal_name`.

    A shell that ends because a signal took its last command reports it so too.
    """

    code: int
    cause: str
    signal_name: str = ""


def job_environment(
    job: JobDocument,
    *,
    job_dir: str,
    account: Account,
    previous_attempt: int | None,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """The spec's variables over a few that every program expects; DSTACKD_* over both.

    `previous_attempt` is the attempt whose artifacts are in the job's folder, if any are.
    """
    ours = {
        "DSTACKD_JOB_ID": job.job_id,
        "DSTACKD_ATTEMPT": str(job.attempt),
        "DSTACKD_JOB_NAME": job.name,
        "DSTACKD_JOB_DIR": job_dir,
    }
    if job.array_index is not None:
        ours["DSTACKD_ARRAY_INDEX"] = str(job.array_index)
    if previous_attempt is not None:
        ours["DSTACKD_PREVIOUS_ATTEMPT"] = str(previous_attempt)
        ours["DSTACKD_PREVIOUS_ATTEMPT_DIR"] = job_dir
    inherited = {name: environ[name] for name in _INHERITED if environ.get(name)}
    if environ.get("TMPDIR") and not account.is_other:
        inherited["TMPDIR"] = environ["TMPDIR"]
    common = {
        "PATH": DEFAULT_PATH,
        "LANG": "C.UTF-8",
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
    }
    return {**common, **inherited, **job.env, **ours}


def signal_name(code: int) -> str:
    """SIGKILL for 137; empty where the code stands for no signal."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""


def _signal_number(name: str) -> int:
    """Raises ValueError."""
    try:
        return signal.Signals[name]
    except KeyError as error:
        raise ValueError(f"{name!r} is not a signal") from error


class RunningJob:
    """One run of the commands; `wait` once."""

    def __init__(
        self,
        job: JobDocument,
        *,
        enclosure: Enclosure,
        script_path: str,
        working_dir: str,
        environment: Mapping[str, str],
        log: JobLog,
        switch: StopSwitch,
        say: Callable[[str], None] = print,
    ) -> None:
        """Start the commands; `say` is for what goes wrong in a thread. Raises OSError, ValueError, StageFailed."""
        self._job = job
        self._enclosure = enclosure
        self._log = log
        self._switch = switch
        self._unexpected = Unexpected("reaper", say)
        self._exit_code: int | None = None
        self._kill_at: float | None = None
        self._stop_signal = _signal_number(job.stop_signal)
        _write_script(job, script_path)
        try:
            self._process = enclosure.start(
                script_path, working_dir=working_dir, environment=environment
            )
        except BaseException:
            enclosure.close()
            raise
        self._started_at = time.monotonic()
        self._readers = [self._reader(STDOUT, say), self._reader(STDERR, say)]
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._start_threads()

    @property
    def is_well(self) -> bool:
        """Whether the end of the commands would be noticed, or has been, and their output is read."""
        sees_end = self._exit_code is not None or self._reaper.is_alive()
        return sees_end and all(reader.is_well for reader in self._readers)

    def wait(self) -> Outcome:
        """Until the commands ended, or were ended; nothing of them is left then."""
        while not self._is_over():
            self._switch.wait(self._next_look_s())
        self._enclosure.signal(signal.SIGKILL)
        self._reaper.join(KILL_S)
        return self._outcome()

    def drain(self) -> None:
        """Take what is still in the pipes, close the log, then the enclosure."""
        until = time.monotonic() + LAST_OUTPUT_S
        for reader in self._readers:
            reader.join(max(0.0, until - time.monotonic()))
        self._log.close()
        self._enclosure.close()

    def _is_over(self) -> bool:
        now = time.monotonic()
        if self._exit_code is not None and (self._kill_at is None or not self._enclosure.lives()):
            return True
        limit_s = self._job.max_duration_s
        if limit_s is not None and now >= self._started_at + limit_s:
            self._switch.order(TIMED_OUT, grace_s=self._job.stop_grace_s)
        order = self._switch.current()
        if order is None:
            return False
        if self._kill_at is None:
            self._enclosure.signal(self._stop_signal)
            self._kill_at = now + order.grace_s
        self._kill_at = min(self._kill_at, now + order.grace_s)
        return now >= self._kill_at

    def _next_look_s(self) -> float | None:
        now = time.monotonic()
        if self._kill_at is not None:
            # The script may end before what it started, which still has its grace.
            poll_s = _LIFE_POLL_S if self._exit_code is not None else KILL_S
            return min(poll_s, max(0.0, self._kill_at - now))
        if self._job.max_duration_s is None:
            return None
        return max(0.0, self._started_at + self._job.max_duration_s - now)

    def _outcome(self) -> Outcome:
        code = self._exit_code if self._exit_code is not None else 128 + signal.SIGKILL
        return Outcome(code, self._cause(code), signal_name(code))

    def _cause(self, code: int) -> str:
        order = self._switch.current() if self._kill_at is not None else None
        finished = code == 0 and not self._job.resume
        if order is not None and not (order.cause == INTERRUPTED and finished):
            return order.cause
        return OUT_OF_MEMORY if code != 0 and self._enclosure.ran_out_of_memory() else EXIT

    def _start_threads(self) -> None:
        """Commands that nobody looks after do not run. Raises RuntimeError."""
        try:
            for reader in self._readers:
                reader.start()
            self._reaper.start()
        except BaseException:
            self._enclosure.signal(signal.SIGKILL)
            self._enclosure.close()
            raise

    def _reap(self) -> None:
        code = self._end()
        self._exit_code = 128 - code if code < 0 else code
        self._switch.wake()

    def _end(self) -> int:
        """As `Enclosure.ended_with`; what cannot be learnt is no success."""
        for _ in range(_END_TRIES):
            code = self._try_to_learn_end()
            if code is not None:
                return code
        return self._process.returncode or -signal.SIGKILL

    def _try_to_learn_end(self) -> int | None:
        try:
            return self._enclosure.ended_with(self._process.wait())
        except Exception as error:  # noqa: BLE001 - nobody else would notice the end
            time.sleep(self._unexpected.met(error))
        return None

    def _reader(self, source: str, say: Callable[[str], None]) -> PipeReader:
        pipe = self._process.stdout if source == STDOUT else self._process.stderr
        assert pipe is not None  # noqa: S101 - both are pipes; for the type checker
        return PipeReader(source, pipe, log=self._log, say=say)


def _write_script(job: JobDocument, path: str) -> None:
    """A new file that everybody may read and nobody writes: its reader may be any user."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    script = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with open(script, "w", encoding="utf-8", errors="surrogateescape") as file:
        os.fchmod(script, 0o444)  # whatever the umask says
        file.write("\n".join(job.commands) + "\n")
