"""The threads around the commands: a log or a pipe that fails is neither a broken pipe nor a success."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typing_extensions import override

from dstackd.runner.account import own_account
from dstackd.runner.direct import Direct
from dstackd.runner.enclosure import Enclosure
from dstackd.runner.job import Outcome, RunningJob, job_environment
from dstackd.runner.job_log import JobLog
from dstackd.runner.reading import PipeReader
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from tests.runner.conftest import a_job, wait_until
from tests.runner.enclosures import DESCENDANTS, direct, processes
from tests.runner.test_threads import FailingLog, Fails


class Forgetful(Direct):
    """Raises so many times before it tells how the commands ended."""

    def __init__(self, *, times: int) -> None:
        super().__init__(
            account=own_account(None),
            gather=partial(processes, DESCENDANTS),
            no_new_privs=True,
            say=print,
        )
        self._fails = Fails(times)

    @override
    def ended_with(self, status: int) -> int:
        self._fails.perhaps()
        return super().ended_with(status)


def a_running(
    folder: Path,
    log: JobLog,
    *commands: str,
    say: Callable[[str], None],
    enclosure: Enclosure | None = None,
) -> RunningJob:
    job = a_job(*commands)
    environment = job_environment(
        job,
        job_dir=str(folder),
        account=own_account(None),
        previous_attempt=None,
        environ={},
    )
    return RunningJob(
        job,
        enclosure=enclosure or direct(DESCENDANTS),
        script_path=str(folder / "commands.sh"),
        working_dir=str(folder),
        environment=environment,
        log=log,
        switch=StopSwitch(),
        say=say,
    )


def test_a_log_that_fails_is_no_broken_pipe(tmp_path: Path, spool: Spool) -> None:
    """The job writes on, and ends by itself; what came after the failure is there."""
    log = FailingLog(spool)
    log.fails = Fails(1)
    words: list[str] = []
    running = a_running(
        tmp_path,
        log,
        "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second; exit 3",
        say=words.append,
    )
    wait_until(lambda: words)
    assert running.is_well
    (tmp_path / "go").touch()
    assert running.wait() == Outcome(3, "exit")
    running.drain()
    assert running.is_well
    assert log.lines == 1
    assert words[0].startswith("stdout: unexpected: RuntimeError")


def test_what_the_log_could_not_take_is_lost(tmp_path: Path, spool: Spool) -> None:
    """It is counted, so that `done` does not say that all is there."""

    def mask(text: str) -> str:
        if "bad" in text:
            raise MemoryError
        return text

    log = JobLog(spool, mask=mask)
    with pytest.raises(MemoryError):
        log.feed("stdout", b"bad\nbad\n")
    log.feed("stdout", b"good\n")
    log.close()
    assert log.done_fields() == ("1", "4", "0", "2")


def test_a_pipe_that_cannot_be_read_is_not_well(spool: Spool) -> None:
    """There is nothing to go on with: the heartbeat stops."""
    reading, writing = os.pipe()
    os.close(reading)
    words: list[str] = []
    with os.fdopen(writing, "wb") as pipe:
        reader = PipeReader("stdout", pipe, log=JobLog(spool), say=words.append)
        reader.start()
        reader.join(10)
    assert not reader.is_well
    assert "OSError" in words[0]


def test_an_end_that_cannot_be_learnt_is_no_success(tmp_path: Path, spool: Spool) -> None:
    """The enclosure raises a few times, then answers."""
    words: list[str] = []
    running = a_running(
        tmp_path, JobLog(spool), "exit 4", say=words.append, enclosure=Forgetful(times=2)
    )
    assert running.wait() == Outcome(4, "exit")
    running.drain()
    assert len(words) == 1
    running = a_running(
        tmp_path, JobLog(spool), "exit 0", say=words.append, enclosure=Forgetful(times=1000)
    )
    assert running.wait() == Outcome(137, "exit", "SIGKILL")
    running.drain()
