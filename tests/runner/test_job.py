"""The commands: how they run, how they end, what they see. On each kind of enclosure that this
computer has.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dstackd.launch_document import JobDocument
from dstackd.runner import job as job_module
from dstackd.runner.account import Account, own_account
from dstackd.runner.job import Outcome, RunningJob, job_environment, signal_name
from dstackd.runner.job_log import JobLog
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from tests.runner.conftest import a_job, wait_until
from tests.runner.enclosures import KINDS, direct, is_alive
from tests.runner.engines import spooled_texts


@dataclass
class Bench:
    """Runs commands as the runner does."""

    folder: Path
    spool: Spool
    kind: str
    switch: StopSwitch = field(default_factory=StopSwitch)

    def start(self, *commands: str, **fields: Any) -> RunningJob:  # noqa: ANN401 - as JobDocument
        job = a_job(*commands, **fields)
        return RunningJob(
            job,
            enclosure=direct(self.kind),
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
        return spooled_texts(self.spool)

    def wait_for_file(self, name: str) -> str:
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        return path.read_text().strip()


def environment(job: JobDocument, folder: Path) -> dict[str, str]:
    return job_environment(
        job,
        job_dir=str(folder),
        account=own_account(None),
        previous_attempt=None,
        environ={"PATH": job_module.DEFAULT_PATH},
    )


@pytest.fixture(params=KINDS)
def bench(tmp_path: Path, spool: Spool, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path, spool, request.param)


@pytest.mark.parametrize(
    ("commands", "code", "signalled", "output"),
    [
        (("echo a", "echo b"), 0, "", ["a", "b"]),
        (("echo a", "false", "echo never"), 1, "", ["a"]),
        (("false | cat", "echo never"), 1, "", []),
        (("if false; then :; fi", "! true", "false || true", "echo on"), 0, "", ["on"]),
        (("exit 3",), 3, "", []),
        (("kill -9 $$",), 137, "SIGKILL", []),
        (("kill -TERM $$",), 143, "SIGTERM", []),
        (("(kill -SEGV $BASHPID)", "echo never"), 139, "SIGSEGV", []),
        (("x=1", "echo $x", "cd /", "pwd"), 0, "", ["1", "/"]),
        (("cat <<E", "here", "E"), 0, "", ["here"]),
        (("read x || echo no input",), 0, "", ["no input"]),
        (("no-such-command-at-all 2>/dev/null",), 127, "", []),
        ((), 0, "", []),
    ],
)
def test_commands_are_one_script(
    bench: Bench, commands: tuple[str, ...], code: int, signalled: str, output: list[str]
) -> None:
    """State carries from line to line, the first failure ends it, signals give 128+n and a name."""
    outcome, lines = bench.run(*commands)
    told = [line for line in lines if "core dumped" not in line and "Segmentation" not in line]
    assert (outcome, told) == (Outcome(code, "exit", signalled), output)


@pytest.mark.parametrize(
    ("code", "name"), [(0, ""), (1, ""), (128, ""), (130, "SIGINT"), (137, "SIGKILL"), (255, "")]
)
def test_a_code_names_its_signal(code: int, name: str) -> None:
    """128+n is signal n, where there is such a signal."""
    assert signal_name(code) == name


def test_the_script_is_read_only(bench: Bench) -> None:
    """Whoever runs it may read it; a script of an earlier job is replaced, not written over."""
    bench.run("true")
    first = bench.folder / "commands.sh"
    before = first.stat()
    bench.run("false || true")
    assert (before.st_mode & 0o777, first.stat().st_mode & 0o777) == (0o444, 0o444)


def test_the_environment_has_nothing_of_the_runner() -> None:
    """Neither credentials nor endpoints nor the metadata address reach the job."""
    environ = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "TMPDIR": "/mine",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_ENDPOINT_URL": "x",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": "x",
        "PYTHONPATH": "x",
    }
    account = Account("me", 7, 7, (), "/home/job", "/bin/bash", is_other=False)
    job = a_job(env={"MINE": "1", "LANG": "de_DE.UTF-8", "DSTACKD_ATTEMPT": "9"}, array_index=0)
    assert job_environment(
        job, job_dir="/job", account=account, previous_attempt=None, environ=environ
    ) == {
        "PATH": "/bin",
        "HOME": "/home/job",
        "USER": "me",
        "LOGNAME": "me",
        "SHELL": "/bin/bash",
        "TMPDIR": "/mine",
        "LANG": "de_DE.UTF-8",
        "MINE": "1",
        "DSTACKD_JOB_ID": job.job_id,
        "DSTACKD_ATTEMPT": "1",
        "DSTACKD_JOB_NAME": "a job",
        "DSTACKD_JOB_DIR": "/job",
        "DSTACKD_ARRAY_INDEX": "0",
    }


def test_a_job_learns_what_was_restored() -> None:
    """Which attempt's artifacts are there, and where; another user's TMPDIR is not passed on."""
    account = Account("job", 7, 7, (), "/home/job", "/bin/bash", is_other=True)
    seen = job_environment(
        a_job(attempt=4),
        job_dir="/job",
        account=account,
        previous_attempt=2,
        environ={"TMPDIR": "/somewhere/tmp"},
    )
    assert seen["DSTACKD_PREVIOUS_ATTEMPT"] == "2"
    assert seen["DSTACKD_PREVIOUS_ATTEMPT_DIR"] == "/job"
    assert "TMPDIR" not in seen


def test_the_group_ends_with_the_script(bench: Bench) -> None:
    """A child left in the background neither lives on nor keeps the runner waiting."""
    started_at = time.monotonic()
    outcome, _ = bench.run("sleep 60 & echo $! > child; exit 0")
    assert outcome == Outcome(0, "exit")
    assert time.monotonic() - started_at < 40
    wait_until(lambda: not is_alive(int(bench.wait_for_file("child"))))


def test_max_duration_ends_the_job(bench: Bench) -> None:
    """SIGTERM after the limit, and the cause is told."""
    outcome, _ = bench.run("sleep 60", max_duration_s=0.3, stop_grace_s=20.0)
    assert outcome == Outcome(143, "timed_out", "SIGTERM")


def test_a_job_that_ignores_the_stop_is_killed(bench: Bench) -> None:
    """SIGKILL after the grace."""
    running = bench.start("trap '' TERM", "echo > up", "while :; do sleep 0.05; done")
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=0.3)
    assert running.wait() == Outcome(137, "stopped", "SIGKILL")
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


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_the_job_chooses_its_stop_signal(bench: Bench, name: str) -> None:
    """What `stop_signal` says is what the commands get, all of them."""
    running = bench.start(
        f"trap 'echo got; exit 7' {name}",
        "echo > up",
        "while :; do sleep 0.05 || true; done",
        stop_signal=name,
    )
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=20.0)
    assert running.wait() == Outcome(7, "stopped")
    running.drain()
    assert "got" in bench.output()


def test_an_unknown_stop_signal_does_not_start(bench: Bench) -> None:
    """It is an error of the start, not of the stop days later."""
    with pytest.raises(ValueError, match="SIGNONSENSE"):
        bench.start("true", stop_signal="SIGNONSENSE")


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


@pytest.mark.parametrize(
    ("cause", "told"),
    [("interrupted", "interrupted"), ("silence", "silence"), ("stopped", "stopped")],
)
def test_a_job_that_resumes_has_saved_and_not_finished(bench: Bench, cause: str, told: str) -> None:
    """With `resume`, exit code 0 after the stop signal is no end: another attempt goes on from what was saved."""
    running = bench.start("trap 'exit 0' TERM", "echo > up", "sleep 60 & wait", resume=True)
    bench.wait_for_file("up")
    bench.switch.order(cause, grace_s=20.0)
    assert running.wait() == Outcome(0, told)
    running.drain()


def test_a_job_that_resumes_ends_by_itself(bench: Bench) -> None:
    """Exit code 0 that no stop signal came before is the end, whatever comes after it."""
    running = bench.start("echo > up", resume=True)
    bench.wait_for_file("up")
    outcome = running.wait()
    bench.switch.order("interrupted", grace_s=20.0)
    running.drain()
    assert outcome == Outcome(0, "exit")


def test_a_later_order_hurries_and_the_first_cause_stays(bench: Bench) -> None:
    """A spot notice shortens the grace of a stop that is under way."""
    running = bench.start("trap '' TERM", "echo > up", "while :; do sleep 0.05; done")
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=600.0)
    timer = threading.Timer(0.2, bench.switch.order, args=("interrupted",), kwargs={"grace_s": 0.1})
    timer.start()
    assert running.wait() == Outcome(137, "stopped", "SIGKILL")
    running.drain()
    timer.join()
