"""The commands as a process group: how they run, how they end, what they see."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dstackd.launch_document import JobDocument
from dstackd.runner import job as job_module
from dstackd.runner.job import Outcome, RunningJob, job_environment
from dstackd.runner.job_log import JobLog
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from tests.runner.conftest import a_job, wait_until


@dataclass
class Bench:
    """Runs commands as the runner does."""

    folder: Path
    spool: Spool
    switch: StopSwitch = field(default_factory=StopSwitch)

    def start(self, *commands: str, **fields: Any) -> RunningJob:  # noqa: ANN401 - as JobDocument
        job = a_job(*commands, **fields)
        return RunningJob(
            job,
            script_path=str(self.folder / "commands.sh"),
            working_dir=str(self.folder),
            environment=environment(job, self.folder),
            log=JobLog(self.spool),
            switch=self.switch,
        )

    def run(self, *commands: str, **fields: Any) -> tuple[Outcome, list[str]]:  # noqa: ANN401 - as JobDocument
        """The outcome and the output's lines."""
        running = self.start(*commands, **fields)
        outcome = running.wait()
        running.drain()
        return outcome, self.output()

    def output(self) -> list[str]:
        lines = []
        while (record := self.spool.read()) is not None:
            lines.append(record.decode().partition('"log":"')[2].removesuffix('"}'))
        return lines

    def wait_for_file(self, name: str) -> str:
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        return path.read_text().strip()


def environment(job: JobDocument, folder: Path) -> dict[str, str]:
    return job_environment(job, job_dir=str(folder), environ={"PATH": job_module.DEFAULT_PATH})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    spool = Spool(str(tmp_path / "spool"))
    yield Bench(tmp_path, spool)
    spool.close()


@pytest.mark.parametrize(
    ("commands", "code", "output"),
    [
        (("echo a", "echo b"), 0, ["a", "b"]),
        (("echo a", "false", "echo never"), 1, ["a"]),
        (("exit 3",), 3, []),
        (("kill -9 $$",), 137, []),
        (("kill -TERM $$",), 143, []),
        (("x=1", "echo $x", "cd /", "pwd"), 0, ["1", "/"]),
        (("cat <<E", "here", "E"), 0, ["here"]),
        (("read x || echo no input",), 0, ["no input"]),
        (("no-such-command-at-all 2>/dev/null",), 127, []),
        ((), 0, []),
    ],
)
def test_commands_are_one_script(
    bench: Bench, commands: tuple[str, ...], code: int, output: list[str]
) -> None:
    """State carries from line to line, the first failure ends it, signals give 128+n."""
    assert bench.run(*commands) == (Outcome(code, "exit"), output)


def test_the_environment_has_nothing_of_the_runner() -> None:
    """Neither credentials nor endpoints nor the metadata address reach the job."""
    environ = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_ENDPOINT_URL": "x",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": "x",
        "PYTHONPATH": "x",
    }
    job = a_job(env={"MINE": "1", "LANG": "de_DE.UTF-8", "DSTACKD_ATTEMPT": "9"}, array_index=0)
    assert job_environment(job, job_dir="/job", environ=environ) == {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LANG": "de_DE.UTF-8",
        "MINE": "1",
        "DSTACKD_JOB_ID": job.job_id,
        "DSTACKD_ATTEMPT": "1",
        "DSTACKD_JOB_NAME": "a job",
        "DSTACKD_JOB_DIR": "/job",
        "DSTACKD_ARRAY_INDEX": "0",
    }


def test_the_group_ends_with_the_script(bench: Bench) -> None:
    """A child left in the background neither lives on nor keeps the runner waiting."""
    started_at = time.monotonic()
    outcome, _ = bench.run("sleep 60 & echo $! > child; exit 0")
    assert outcome == Outcome(0, "exit")
    assert time.monotonic() - started_at < 40
    wait_until(lambda: not is_alive(int(bench.wait_for_file("child"))))


def test_a_process_that_left_the_group_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the pipes open; the log is closed all the same."""
    monkeypatch.setattr(job_module, "LAST_OUTPUT_S", 2.0)
    leave = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    open('away', 'w').write(f'{os.getpid()}\\n')\n"
        "    time.sleep(60)\n"
    )
    (bench.folder / "leave.py").write_text(leave)
    started_at = time.monotonic()
    outcome, lines = bench.run(
        "echo before", "python3 leave.py", "until [ -s away ]; do sleep 0.02; done", "echo after"
    )
    os.kill(int(bench.wait_for_file("away")), signal.SIGKILL)
    assert (outcome.code, lines) == (0, ["before", "after"])
    assert time.monotonic() - started_at < 40


def test_max_duration_ends_the_job(bench: Bench) -> None:
    """SIGTERM after the limit, and the cause is told."""
    outcome, _ = bench.run("sleep 60", max_duration_s=0.3, stop_grace_s=20.0)
    assert outcome == Outcome(143, "timed_out")


def test_a_job_that_ignores_the_stop_is_killed(bench: Bench) -> None:
    """SIGKILL after the grace."""
    running = bench.start("trap '' TERM", "echo > up", "while :; do sleep 0.05; done")
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=0.3)
    assert running.wait() == Outcome(137, "stopped")
    running.drain()


def test_children_have_their_grace_when_the_shell_is_gone(bench: Bench) -> None:
    """The shell dies of SIGTERM at once; what it runs may still save its work."""
    program = (
        "import pathlib, signal, time\n"
        "def save(*_): time.sleep(0.5); pathlib.Path('saved').write_text('yes\\n'); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path('up').write_text('yes\\n')\n"
        "time.sleep(60)\n"
    )
    (bench.folder / "program.py").write_text(program)
    running = bench.start("python3 program.py", "echo next")
    bench.wait_for_file("up")
    bench.switch.order("interrupted", grace_s=20.0)
    outcome = running.wait()
    running.drain()
    assert (bench.folder / "saved").exists()
    assert outcome.cause == "interrupted"


@pytest.mark.parametrize(("code", "cause"), [(0, "exit"), (5, "interrupted")])
def test_a_job_that_finishes_in_the_notice_has_finished(
    bench: Bench, code: int, cause: str
) -> None:
    """Exit code 0 while being interrupted is an end like any other."""
    running = bench.start(f"trap 'exit {code}' TERM", "echo > up", "sleep 60 & wait")
    bench.wait_for_file("up")
    bench.switch.order("interrupted", grace_s=20.0)
    assert running.wait() == Outcome(code, cause)
    running.drain()


def test_a_later_order_hurries_and_the_first_cause_stays(bench: Bench) -> None:
    """A spot notice shortens the grace of a stop that is under way."""
    running = bench.start("trap '' TERM", "echo > up", "while :; do sleep 0.05; done")
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=600.0)
    timer = threading.Timer(0.2, bench.switch.order, args=("interrupted",), kwargs={"grace_s": 0.1})
    timer.start()
    assert running.wait() == Outcome(137, "stopped")
    running.drain()
    timer.join()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
