"""Disks that are full, on the machine and on the control host, and a machine whose clock is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end import hostility
from tests.end_to_end.hostility import (
    WAITS,
    attempt_of,
    fill,
    impatient_installation,
    log_of,
    needs_root,
    next_home,
    sealed,
    small_disk,
)
from tests.end_to_end.installation import Installation, wait_until

LAST = 40_100
BOOT_DELAY_S = 1.0
"""Enough to prepare the machine's home before its machine starts."""


@pytest.fixture(scope="module")
def site() -> Iterator[Installation]:
    with impatient_installation() as made:
        yield made


@contextmanager
def machine_to_come(site: Installation, spec: Mapping[str, object]) -> Iterator[tuple[str, Path]]:
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
        "cat /dev/zero > filler 2> /dev/null || true",
        "seq 101 40000",
        "rm filler",
        "sleep 0.5",
        f"seq 40001 {LAST}",
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
    """Every number from 1 to LAST is there once, or within what a line of ours says is lost at that place."""
    expected, said = 1, 0
    for line in lines:
        if "lost here" in line:
            lost = int(line[1:].partition(" ")[0])
            expected, said = expected + lost, said + lost
        else:
            assert line == str(expected)
            expected += 1
    assert expected == LAST + 1
    assert said == tried["log_lines_lost"]
    assert tried["log_verdict"] == f"incomplete ({said} missing)"


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
    assert "the disk: " in first["failed_message"]
    assert "100%" in first["failed_message"]
    assert log_of(site, job_id, 2) == ["here"]


@needs_root
def test_a_full_disk_on_the_control_host(site: Installation) -> None:
    """While the daemon cannot write log files, it goes on, and says so; when there is room again, every line is there."""
    logs = site.folder / "logs"
    go = [site.folder / f"room{number}" for number in range(2)]
    commands = [WAITS.format(go=go[0]), "seq 5000", WAITS.format(go=go[1]), "seq 5001 10000"]
    with small_disk(logs, size="2m"):
        fill(logs / "filler")
        job_id = site.insert({"commands": commands})
        # Before there is any line: its own notes.
        wait_until(lambda: f"{logs}: No space left" in site.log(), what=lambda: site.log()[-2000:])
        go[0].touch()
        log = f"{logs}/{job_id}/1.jsonl: No space left"
        wait_until(lambda: log in site.log(), what=lambda: site.log()[-2000:])
        go[1].touch()
        hostility.wait_for_attempt(site, job_id, 1, "done_at_ms")
        (logs / "filler").unlink()
        job = site.wait_for(job_id)
        wait_until(
            lambda: attempt_of(site, job_id)["log_verdict"] == "complete",
            what=lambda: f"every line; {attempt_of(site, job_id)}; {site.log()[-2000:]}",
        )
        assert log_of(site, job_id) == [str(n) for n in range(1, 10001)]
        assert (job["phase"], job["exit_code"]) == ("succeeded", 0)
    hostility.wait_until_gone(site)


WRONG_CLOCK = """#!/bin/sh
# As the machine calls it: -c PROGRAM, or -I -X utf8 FILE ARGUMENT...
[ "$1" != -c ] || exec {python} "$@"
shift 3
exec {python} -I -X utf8 -c '
import runpy, sys, time
real, gmtime = time.time, time.gmtime
time.time = lambda: real() + ({off_s})
time.gmtime = lambda at=None: gmtime(time.time() if at is None else at)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
' "$@"
"""


@pytest.mark.parametrize("off_s", [-600, 600])
def test_a_wrong_clock(site: Installation, off_s: int) -> None:
    """The runner's clock is ten minutes off, as before its first look at a time server: every line arrives all the same."""
    go = site.folder / f"clock{off_s}"
    commands = ["seq 100", WAITS.format(go=go), "seq 101 200"]
    with machine_to_come(site, {"commands": commands}) as (job_id, home):
        (home / "bin").mkdir(parents=True)
        wrapper = home / "bin" / "python3"
        python = subprocess.run(
            ["sh", "-c", "command -v python3"], capture_output=True, text=True, check=True
        ).stdout.strip()
        wrapper.write_text(WRONG_CLOCK.format(python=os.path.realpath(python), off_s=off_s))
        wrapper.chmod(0o755)
        wait_until(lambda: "100" in log_of(site, job_id), what=lambda: f"{site.job(job_id)}")
        go.touch()
        job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("succeeded", 0)
    assert log_of(site, job_id) == [str(n) for n in range(1, 201)]
    assert attempt_of(site, job_id)["log_verdict"] == "complete"
    wrong_s = max(abs(at_ms / 1000 - time.time()) for at_ms in times_of(site, job_id))
    assert wrong_s < abs(off_s) / 2
    hostility.wait_until_gone(site)


def times_of(site: Installation, job_id: str) -> list[int]:
    """When the lines were written, by their machine."""
    path = site.folder / "logs" / job_id / "1.jsonl"
    return [json.loads(line)["at_ms"] for line in path.read_text().splitlines()]
