"""Jobs and machines that go wrong on purpose: the verdict is right, nothing is silently missing, the machine is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd import protocol
from tests.end_to_end import hostility
from tests.end_to_end.hostility import (
    WAITS,
    attempt_of,
    impatient_installation,
    log_of,
    machine_of,
    sealed,
    wait_for_attempt,
)
from tests.end_to_end.installation import Installation, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def site() -> Iterator[Installation]:
    with impatient_installation() as made:
        yield made


@pytest.mark.parametrize("everything", [False, True], ids=["shell", "group"])
def test_a_killed_job(site: Installation, everything: bool) -> None:
    """`kill -9` of the job's shell, or of all its process group: 137 and SIGKILL, every line, and its artifacts."""
    job_id = site.insert(
        {
            "commands": ["echo half > out", "seq 500", "echo up", "sleep 300 & sleep 301 & wait"],
            "artifacts": ["out"],
        }
    )
    wait_until(lambda: "up" in log_of(site, job_id), what=lambda: f"{site.job(job_id)}")
    shell = machine_of(site, job_id).shell
    if everything:
        os.killpg(shell, signal.SIGKILL)
    else:
        os.kill(shell, signal.SIGKILL)
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("failed", 137)
    assert "SIGKILL" in job["message"]
    tried = attempt_of(site, job_id)
    assert (tried["outcome"], tried["exit_cause"], tried["exit_signal"]) == (
        "exited",
        "exit",
        "SIGKILL",
    )
    assert log_of(site, job_id) == [*map(str, range(1, 501)), "up"]
    assert (tried["log_verdict"], tried["seal_verdict"]) == ("complete", "complete")
    assert [file.path for file in sealed(site, job_id).files] == ["out"]
    hostility.wait_until_gone(site)


def test_a_killed_runner(site: Installation) -> None:
    """`kill -9` of the runner while the job writes: what it had spooled arrives, the attempt is lost and says so, and the
    next one begins with what was uploaded meanwhile.
    """
    job_id = site.insert(
        {
            "commands": [
                "if [ $DSTACKD_ATTEMPT = 2 ]; then cat checkpoint; exit 0; fi",
                "echo saved > checkpoint",
                "n=0; while true; do n=$((n + 1)); echo line $n; sleep 0.01; done",
            ],
            "artifacts": [{"path": "checkpoint", "every": "1s"}],
            "resume": True,
            "retry": {"on": ["interruption"], "max_attempts": 2},
        }
    )
    site.wait_for(job_id, "running")
    wait_until(
        lambda: hostility.has_object(site, protocol.partial_manifest_key(job_id, 1)),
        what=lambda: f"a first round of artifacts; {machine_of(site, job_id).console()[-2000:]}",
    )
    machine = machine_of(site, job_id)
    os.kill(machine.runner, signal.SIGKILL)
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"], job["attempt"]) == ("succeeded", 0, 2), job
    lost, resumed = attempt_of(site, job_id, 1), attempt_of(site, job_id, 2)
    assert (lost["outcome"], lost["exit_code"], lost["failed_stage"]) == ("lost", None, "internal")
    assert "137" in lost["failed_message"]
    lines = log_of(site, job_id, 1)
    assert lost["log_verdict"] == f"unconfirmed ({len(lines)} lines arrived)"
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]
    assert "flush: " in machine.console()
    assert not machine.commands()
    assert log_of(site, job_id, 2)[-1] == "saved"
    assert (resumed["outcome"], resumed["log_verdict"]) == ("exited", "complete")
    hostility.wait_until_gone(site)


def test_a_daemon_that_is_killed_three_times(site: Installation) -> None:
    """`kill -9` of the daemon while the job begins, while it runs, and while it ends: each new one goes on, and all is there."""
    go = [site.folder / f"go{number}" for number in range(2)]
    job_id = site.insert(
        {
            "commands": [
                "seq 1 100",
                WAITS.format(go=go[0]),
                "seq 101 200",
                "head -c 20000000 /dev/urandom > big",
                "mkdir many; for n in $(seq 200); do echo $n > many/$n; done",
                WAITS.format(go=go[1]),
                "seq 201 300",
            ],
            "artifacts": ["big", "many"],
        }
    )
    wait_for_attempt(site, job_id, 1, "instance_id")
    restart(site)
    wait_until(lambda: "100" in log_of(site, job_id), what=lambda: f"{site.job(job_id)}")
    go[0].touch()
    restart(site)
    wait_until(lambda: "200" in log_of(site, job_id), what=lambda: f"{site.job(job_id)}")
    go[1].touch()
    wait_for_attempt(site, job_id, 1, "exited_at_ms")
    restart(site)
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"], job["attempt"]) == ("succeeded", 0, 1)
    assert log_of(site, job_id) == [str(n) for n in range(1, 301)]
    tried = attempt_of(site, job_id)
    assert (tried["log_verdict"], tried["seal_verdict"]) == ("complete", "complete")
    assert (tried["artifact_files"], len(sealed(site, job_id).files)) == (201, 201)
    hostility.wait_until_gone(site)


def restart(site: Installation) -> None:
    """`kill -9`, and another one."""
    assert site.end_daemon(signal.SIGKILL) == -signal.SIGKILL
    site.start_daemon()


HOSTILE = r"""
trap '' TERM HUP INT
echo begins
setsid sh -c 'trap "" TERM; echo $$ > /tmp/NAME-1; exec sleep 300' &
(setsid setsid sh -c 'trap "" TERM; echo $$ > /tmp/NAME-2; while true; do sleep 0.01 & wait; done' &) &
mkdir -p kept work
echo good > kept/good
echo soon > kept/shadow
head -c 3000000 /dev/zero | tr '\0' x
echo
printf 'no end \xff\xfe'
exec >&-
while [ ! -e GO ]; do /bin/sleep 0.05; done
rm kept/shadow; ln -s /etc/shadow kept/shadow
ln -s / kept/root
mkfifo kept/pipe
echo last words >&2
exec 2>&-
while true; do /bin/sleep 0.05; done
"""


def test_a_hostile_job(site: Installation) -> None:
    """It ignores SIGTERM, leaves its session, floods and closes its output, and turns an artifact into a link to /etc/shadow:
    it ends, all of it, with its lines and what it may keep.
    """
    go = site.folder / "hostile"
    marks = [Path(f"/tmp/{site.folder.parent.name}-{number}") for number in (1, 2)]
    commands = HOSTILE.replace("NAME", site.folder.parent.name).replace("GO", str(go))
    job_id = site.insert({"commands": commands, "artifacts": ["kept"], "stop_grace": "1s"})
    try:
        wait_until(lambda: all(m.exists() for m in marks), what=lambda: f"{site.job(job_id)}")
        go.touch()
        wait_until(lambda: "last words" in log_of(site, job_id), what=lambda: "its last words")
        site.sql("UPDATE job SET cancel_requested = 1 WHERE id = ?", job_id)
        job = site.wait_for(job_id)
        assert not [m for m in marks if Path(f"/proc/{m.read_text().strip()}").exists()]
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)

    assert (job["phase"], job["reason"]) == ("cancelled", "cancel_requested")
    tried = attempt_of(site, job_id)
    assert (tried["exit_code"], tried["exit_signal"]) == (137, "SIGKILL")
    lines = log_of(site, job_id)
    assert tried["log_verdict"] == "complete"
    assert lines[0] == "begins"
    assert sum(line.count("x") for line in lines if set(line) == {"x"}) == 3_000_000
    assert r"no end \xff\xfe" in lines
    assert [file.path for file in sealed(site, job_id).files] == ["kept/good"]
    for name in ("kept/shadow", "kept/root", "kept/pipe"):
        assert name in tried["seal_message"]
    hostility.wait_until_gone(site)


def test_a_job_that_removes_its_own_folder(site: Installation) -> None:
    """Nothing is left to be kept; its lines and its exit code are."""
    commands = [
        "cd $DSTACKD_JOB_DIR",
        "echo x > out",
        'rm -rf "$DSTACKD_JOB_DIR"',
        "echo gone",
        "exit 4",
    ]
    job_id = site.insert({"commands": commands, "artifacts": ["out"]})
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("failed", 4)
    assert log_of(site, job_id) == ["gone"]
    tried = attempt_of(site, job_id)
    assert tried["log_verdict"] == "complete"
    assert "nothing at out" in tried["seal_message"]
    assert sealed(site, job_id).files == ()
    hostility.wait_until_gone(site)
