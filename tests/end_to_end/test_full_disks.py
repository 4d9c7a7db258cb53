"""Disks that are full, on the machine and on the control host, and a machine whose clock is wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end import hostility
from tests.end_to_end.hostility import attempt_of, log_of, needs_root, next_home, sealed, small_disk
from tests.end_to_end.installation import Installation, installation, wait_until

BOOT_DELAY_S = 1.0
"""Enough to prepare the machine's home before its machine starts."""


@pytest.fixture(scope="module")
def site() -> Iterator[Installation]:
    """A running installation that does not wait long for lines that will never come."""
    with installation() as made:
        with made.config.open("a") as config:
            config.write("\n[limits]\nlogs_wait_s = 3\n")
        made.start_daemon()
        yield made


@contextmanager
def machine_to_come(site: Installation, spec: dict[str, object]) -> Iterator[tuple[str, Path]]:
    """(the job's id, the home of its machine), before the machine starts."""
    known = {view["instance_id"] for view in site.cloud.control.machines()}
    site.cloud.control.faults(boot_delay_s=BOOT_DELAY_S)
    try:
        job_id = site.insert(spec)
        home = next_home(site, known)
    finally:
        site.cloud.control.faults(boot_delay_s=0.0)
    yield job_id, home


@needs_root
def test_a_full_disk_on_the_machine(site: Installation) -> None:
    """Lines that the disk does not take are counted and named where they are missing; what is there is kept, and the job's
    own exit code counts.
    """
    commands = [
        "echo kept > kept",
        "seq 1 100",
        "cat /dev/zero > filler || true",
        "seq 101 40000",
        "rm filler",
        "sleep 0.5",
        "seq 40001 40100",
        "exit 5",
    ]
    spec = {"commands": commands, "artifacts": ["kept"]}
    with machine_to_come(site, spec) as (job_id, home), small_disk(home, size="3m"):
        job = site.wait_for(job_id)
        hostility.wait_until_gone(site)

    tried = attempt_of(site, job_id)
    assert (job["phase"], job["exit_code"], job["attempt"]) == ("failed", 5, 1)
    assert [file.path for file in sealed(site, job_id).files] == ["kept"]
    assert tried["seal_verdict"] == "complete"
    assert_counted(log_of(site, job_id), tried)
    assert tried["log_lines_lost"] > 0


def assert_counted(lines: list[str], tried: dict[str, object]) -> None:
    """Every number from 1 to 40100 is there once, or within what a line of ours says is lost at that place."""
    expected = 1
    for line in lines:
        if line.startswith("<") and "lost here" in line:
            expected += int(line[1:].partition(" ")[0])
        elif not line.startswith("cat:"):
            assert line == str(expected)
            expected += 1
    lost = 40101 - expected + sum(int(l[1:].split()[0]) for l in lines if "lost here" in l)
    assert (lost, tried["log_verdict"]) == (
        tried["log_lines_lost"],
        f"incomplete ({tried['log_lines_lost']} missing)",
    )


@needs_root
def test_a_disk_without_room_for_the_runner(site: Installation) -> None:
    """The machine says so and goes; another one runs the job."""
    spec = {"commands": ["echo here"]}
    with machine_to_come(site, spec) as (job_id, home), small_disk(home, size="120k"):
        job = site.wait_for(job_id)
        hostility.wait_until_gone(site)

    assert (job["phase"], job["attempt"]) == ("succeeded", 2)
    first = attempt_of(site, job_id)
    assert (first["outcome"], first["failed_stage"]) == ("boot_failed", "bootstrap")
    assert "No space left" in first["failed_message"]
    assert log_of(site, job_id, 2) == ["here"]


@needs_root
def test_a_full_disk_on_the_control_host(site: Installation) -> None:
    """While the daemon cannot write log files, the job ends as it ends; when there is room again, every line is there."""
    logs = site.folder / "logs"
    go = site.folder / "room"
    with ExitStack() as stack:
        stack.enter_context(small_disk(logs, size="2m"))
        fill(logs / "filler")
        job_id = site.insert(
            {"commands": ["seq 5000", f"while [ ! -e {go} ]; do sleep 0.05; done", "seq 5001 10000"]}
        )
        wait_until(lambda: "No space left" in site.log(), what=lambda: site.log()[-2000:])
        go.touch()
        try:
            hostility.wait_for_attempt(site, job_id, 1, "done_at_ms")
        except AssertionError:
            raise AssertionError(site.log()[-3000:] + "@@@" + hostility.machine_of(site, job_id).console() + str(hostility.machine_of(site, job_id).commands()))
        (logs / "filler").unlink()
        job = site.wait_for(job_id)
        wait_until(
            lambda: attempt_of(site, job_id)["log_verdict"] == "complete",
            what=lambda: f"every line; {attempt_of(site, job_id)}; {site.log()[-2000:]}",
        )
        assert log_of(site, job_id) == [str(n) for n in range(1, 10001)]
        assert (job["phase"], job["exit_code"]) == ("succeeded", 0)
    hostility.wait_until_gone(site)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


WRONG_CLOCK = """#!/bin/sh
exec {python} -I -X utf8 -c '
import runpy, sys, time
real, gmtime = time.time, time.gmtime
time.time = lambda: real() + ({off_s})
time.gmtime = lambda at=None: gmtime(time.time() if at is None else at)
sys.argv = sys.argv[sys.argv.index("utf8") + 1:] if "utf8" in sys.argv else sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
' "$@"
"""


@pytest.mark.parametrize("off_s", [-600, 600])
def test_a_wrong_clock(site: Installation, off_s: int) -> None:
    """The runner's clock is ten minutes off, as before its first look at a time server: every line arrives all the same."""
    go = site.folder / f"clock{off_s}"
    commands = ["seq 100", f"while [ ! -e {go} ]; do sleep 0.05; done", "seq 101 200"]
    with machine_to_come(site, {"commands": commands}) as (job_id, home):
        (home / "bin").mkdir(parents=True)
        wrapper = home / "bin" / "python3"
        python = subprocess.run(
            ["sh", "-c", "command -v python3"], capture_output=True, text=True, check=True
        ).stdout.strip()
        wrapper.write_text(WRONG_CLOCK.format(python=os.path.realpath(python), off_s=off_s))
        wrapper.chmod(0o755)
        wait_until(lambda: "100" in log_of(site, job_id), what=lambda: f"{site.job(job_id)}; {attempt_of(site, job_id)}; {(home/'console.log').read_text()}")
        go.touch()
        job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("succeeded", 0)
    assert log_of(site, job_id) == [str(n) for n in range(1, 201)]
    assert attempt_of(site, job_id)["log_verdict"] == "complete"
    hostility.wait_until_gone(site)
