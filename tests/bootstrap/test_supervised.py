"""The machine's whole life under a real systemd: how it starts, and that nothing keeps it from ending."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bootstrap.conftest import INSTANCE, Begin, Life
from tests.bootstrap.nspawn import REBOOTED, booted
from tests.runner.conftest import a_job

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")

UNIT = "dstackd-runner.service"
LONG = "sleep 600"


def main_pid(life: Life) -> str:
    return life.machine.show(UNIT, "MainPID")


def let_go(life: Life) -> None:
    """End a job that waits for a file `go` in its folder."""
    life.machine.run("sh", "-c", "find /var/lib/dstackd -type d -exec touch '{}/go' ';'")


def test_a_job_is_done_and_the_machine_goes(begin: Begin) -> None:
    """The unit is up once the runner says so, the job runs in it, and the machine powers itself off."""
    job = a_job("echo hello > out", "until [ -e go ]; do sleep 0.05; done", artifacts=("out",))
    life = begin(job)
    life.wait_for("started")
    assert life.machine.show(UNIT, "ActiveState") == "active"
    assert life.machine.show(UNIT, "NRestarts") == "0"
    deadlines = life.machine.run("systemctl", "list-timers", "--all", "--no-legend")
    assert "dstackd-lifetime.timer" in deadlines
    assert "dstackd-boot.timer" not in deadlines
    let_go(life)
    told = life.end()
    assert [event.kind for event in told] == ["booted", "started", "exited", "sealed", "done"]
    assert life.project.manifest(job).size_bytes == 6


def test_a_killed_runner_is_reported(begin: Begin) -> None:
    """After kill -9 of the runner: the machine says so and goes, with the job."""
    life = begin(a_job(LONG))
    life.wait_for("started")
    life.machine.run("kill", "-9", main_pid(life))
    last = life.end()[-1]
    assert (last.kind, last.fields[0]) == ("failed", "internal")
    assert "signal" in last.fields[1]


def test_a_hung_runner_is_ended(begin: Begin) -> None:
    """A runner that stands still feeds no watchdog: systemd ends it, the machine reports and goes."""
    life = begin(a_job(LONG), edits=(("WatchdogSec=90", "WatchdogSec=2"),))
    life.wait_for("started")
    life.machine.run("kill", "-STOP", main_pid(life))
    last = life.end()[-1]
    assert (last.kind, last.fields[0]) == ("failed", "internal")
    assert "watchdog" in last.fields[1]


def test_a_quiet_job_is_no_hang(begin: Begin) -> None:
    """A job that says nothing for several watchdog intervals goes on."""
    life = begin(a_job("sleep 4"), edits=(("WatchdogSec=90", "WatchdogSec=1"),))
    assert [event.kind for event in life.end()][-1] == "done"


def test_a_lifetime_ends_the_job_and_seals(begin: Begin) -> None:
    """At its lifetime the machine stops the job, keeps its artifacts, says so, and goes."""
    job = a_job("echo kept > out", LONG, artifacts=("out",))
    life = begin(job, lifetime_s=5)
    told = life.end()
    assert [event.kind for event in told] == ["booted", "started", "exited", "sealed", "done"]
    assert life.project.manifest(job).size_bytes == 5


def test_a_lifetime_holds_against_a_wedged_unit(begin: Begin) -> None:
    """A runner that is not ended by its unit is passed over: the machine reports and goes."""
    life = begin(
        a_job(LONG),
        lifetime_s=2,
        edits=(
            ('-p RuntimeMaxSec="$lifetime" ', ""),
            ("stop_s=600 ", "stop_s=1 "),
            ("margin_s=600 ", "margin_s=1 "),
        ),
    )
    life.wait_for("started")
    failed = life.wait_for("failed")
    assert failed.fields[0] == "internal"
    assert "lifetime" in failed.fields[1]
    life.end()


def test_a_runner_that_cannot_start_is_reported(begin: Begin) -> None:
    """A runner that dies before it can say anything."""
    life = begin(
        a_job(LONG),
        edits=(('"$python" -I -X utf8 "$dir/runner.pyz"\n}', '"$python" -c "import no_such"\n}'),),
    )
    [failed] = life.end()
    assert (failed.kind, failed.fields[0]) == ("failed", "internal")
    assert "no_such" in failed.fields[1]


def pythons() -> tuple[str, ...]:
    """Every Python that the machine would find."""
    return tuple(sorted({str(path.resolve()) for path in Path("/usr/bin").glob("python3*")}))


def test_a_machine_without_python_says_so(begin: Begin) -> None:
    """No Python, and none to install: curl reports, and the machine goes."""
    life = begin(
        a_job(LONG), without=pythons(), edits=(("for wait_s in 3 10 0", "for wait_s in 0 0 0"),)
    )
    [failed] = life.end()
    assert (failed.instance_id, failed.kind, failed.fields[0]) == (INSTANCE, "failed", "bootstrap")
    assert failed.fields[1].startswith("exit code 1: ")


INSTALLER = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> /run/asked
case "$*" in *update) exit 0 ;; esac
if [ ! -e /run/once ]; then
  touch /run/once
  echo "E: Could not get lock" >&2
  exit 100
fi
umount {python}
"""


@pytest.mark.skipif(
    not Path("/usr/bin/apt-get").exists(), reason="stands in for apt-get, where Debian has it"
)
def test_a_python_is_installed(begin: Begin, tmp_path: Path) -> None:
    """A machine without one asks its package manager, again when that was busy, and the job runs."""
    [python] = [path for path in pythons() if not path.endswith("config")][:1]
    installer = tmp_path / "apt-get"
    installer.write_text(INSTALLER.format(python=python))
    installer.chmod(0o755)
    life = begin(
        a_job("until [ -e go ]; do sleep 0.05; done"),
        without=(python,),
        binds=(f"{installer}:/usr/bin/apt-get",),
        edits=(("for wait_s in 3 10 0", "for wait_s in 0 0 0"),),
    )
    life.wait_for("started")
    asked = life.machine.run("cat", "/run/asked").splitlines()
    assert len(asked) == 4
    assert asked[-1].startswith("noninteractive -q -o DPkg::Lock::Timeout=")
    assert asked[-1].endswith("install -y --no-install-recommends python3")
    let_go(life)
    assert [event.kind for event in life.end()][-1] == "done"


def test_a_shutdown_that_hangs_is_cut_short(begin: Begin) -> None:
    """What the image runs may never stop: the machine goes all the same."""
    life = begin(
        a_job("until [ -e go ]; do sleep 0.05; done"), edits=(("timer off 90 ", "timer off 2 "),)
    )
    life.wait_for("started")
    life.machine.run(
        "systemd-run",
        "--unit=hangs",
        "-p",
        "ExecStop=/bin/sleep infinity",
        "-p",
        "TimeoutStopSec=infinity",
        "sleep",
        "infinity",
    )
    let_go(life)
    assert [event.kind for event in life.end()][-1] == "done"


def test_a_machine_that_starts_again_goes(begin: Begin, tmp_path: Path) -> None:
    """The script is run once for an instance: after a reboot the machine says that it has no runner, and goes."""
    disk = tmp_path / "disk"
    life = begin(a_job(LONG), disk=disk)
    life.wait_for("started")
    # As a panic would, without a word to anybody.
    life.machine.run("systemctl", "reboot", "--force", "--force", check=False)
    life.machine.wait_until_off(code=REBOOTED)
    assert life.kinds() == ["booted", "started"]
    with booted(
        tmp_path,
        user_data="",
        metadata=life.metadata,
        endpoint_url=life.project.cloud.endpoint_url,
        disk=disk,
        again=True,
    ) as machine:
        machine.wait_until_off()
    last = life.events()[-1]
    assert (last.kind, last.fields[0]) == ("failed", "internal")
    assert "started again" in last.fields[1]


def test_a_reload_does_not_end_a_machine(begin: Begin) -> None:
    """What waits for the next boot does nothing in this one."""
    life = begin(a_job("until [ -e go ]; do sleep 0.05; done"))
    life.wait_for("started")
    life.machine.run("systemctl", "daemon-reload")
    life.machine.run("systemctl", "start", "dstackd-rebooted.service")
    let_go(life)
    assert [event.kind for event in life.end()] == ["booted", "started", "exited", "sealed", "done"]


def test_a_copy_of_a_machine_stays(begin: Begin) -> None:
    """An image that somebody made of a machine of ours carries its files, and is theirs."""
    life = begin(a_job(LONG), edits=(("identity=$(hardware)", "identity=another"),))
    life.wait_for("started")
    life.machine.run("rm", "/run/dstackd-lives")
    life.machine.run("systemctl", "daemon-reload")
    life.machine.run("systemctl", "start", "dstackd-rebooted.service")
    assert life.machine.show("dstackd-rebooted.service", "Result") == "success"
    assert life.kinds() == ["booted", "started"]
    assert not life.machine.is_off
