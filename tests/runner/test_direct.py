"""The machine itself as an enclosure: nothing gets out of it, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dstackd.runner import direct as direct_module
from dstackd.runner.account import Account, existing_account
from dstackd.runner.direct import Direct
from dstackd.runner.job import Outcome, RunningJob
from dstackd.runner.job_log import JobLog
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from tests.runner.conftest import a_job, wait_until
from tests.runner.enclosures import DESCENDANTS, KINDS, MEMORY_GROUP, direct, is_alive

MIB = 1024 * 1024
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
LEAVE = """
import os, signal, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1] + ".part", "w") as file:
    file.write(f"{os.getpid()}\\n")
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(300)
"""
"""A daemon: forks twice, has a session of its own, and does not hear SIGTERM."""


@dataclass
class Room:
    """A folder to run scripts in, and what is to be closed in the end."""

    folder: Path
    opened: list[Direct] = field(default_factory=list)
    spools: list[Spool] = field(default_factory=list)

    def start(
        self,
        enclosure: Direct,
        script: str,
        *,
        environment: dict[str, str] | None = None,
        working_dir: str | None = None,
    ) -> subprocess.Popen[bytes]:
        self.opened.append(enclosure)
        path = self.folder / "script.sh"
        path.write_text(script)
        path.chmod(0o444)
        return enclosure.start(
            str(path),
            working_dir=working_dir or str(self.folder),
            environment=ENVIRONMENT if environment is None else environment,
        )

    def run(self, enclosure: Direct, script: str, **options: Any) -> str:  # noqa: ANN401 - see start
        """The output, both sources."""
        out, error = self.start(enclosure, script, **options).communicate()
        return (out + error).decode()

    def running_job(self, enclosure: Direct, *commands: str, **fields: Any) -> RunningJob:  # noqa: ANN401 - as JobDocument
        self.opened.append(enclosure)
        self.spools.append(Spool(str(self.folder / "spool")))
        return RunningJob(
            a_job(*commands, **fields),
            enclosure=enclosure,
            script_path=str(self.folder / "commands.sh"),
            working_dir=str(self.folder),
            environment=ENVIRONMENT,
            log=JobLog(self.spools[-1]),
            switch=StopSwitch(),
        )


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Every folder above it may be entered by everybody: other users work in it."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    room = Room(tmp_path)
    yield room
    for enclosure in room.opened:
        enclosure.close()
    for spool in room.spools:
        spool.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def nobody(room: Room) -> Account:
    home = room.folder / "home"
    home.mkdir()
    account = existing_account("nobody", home=str(home))
    os.chown(home, account.uid, account.gid)
    return account


def test_a_daemon_does_not_outlive_the_job(room: Room, kind: str) -> None:
    """Two forks, two sessions and deaf ears do not get it out of the enclosure."""
    (room.folder / "leave.py").write_text(LEAVE)
    enclosure = direct(kind)
    running = room.running_job(
        enclosure,
        f"{sys.executable} leave.py away >/dev/null 2>&1",
        "until [ -s away ]; do sleep 0.02; done",
    )
    assert running.wait() == Outcome(0, "exit")
    assert not is_alive(int((room.folder / "away").read_text()))
    running.drain()
    assert not enclosure.lives()


def test_a_daemon_hears_the_stop(room: Room, kind: str) -> None:
    """The signal goes to everything inside, also to what is in no group of the shell's."""
    script = (
        "(setsid sleep 300 & echo $! > away; wait) & until [ -s away ]; do sleep 0.02; done; wait"
    )
    enclosure = direct(kind)
    process = room.start(enclosure, script)
    wait_until((room.folder / "away").exists)
    wait_until(lambda: (room.folder / "away").read_text().endswith("\n"))
    enclosure.signal(signal.SIGTERM)
    process.communicate()
    wait_until(lambda: not enclosure.lives())
    assert not is_alive(int((room.folder / "away").read_text()))


def test_two_hundred_children_end_at_once(room: Room, kind: str) -> None:
    """However many there are, none is left, and it does not take long."""
    enclosure = direct(kind)
    script = "for i in $(seq 200); do setsid sleep 300 & done; echo > up; wait"
    process = room.start(enclosure, script)
    wait_until((room.folder / "up").exists)
    began_at = time.monotonic()
    enclosure.close()
    took_s = time.monotonic() - began_at
    process.communicate()
    assert not enclosure.lives()
    assert took_s < 10


def test_what_forks_while_it_is_killed_is_killed(room: Room, kind: str) -> None:
    """Processes that replace themselves faster than a list of them is read."""
    enclosure = direct(kind)
    script = "f() { (sleep 0.01; f) & }; for i in 1 2 3 4 5; do f; done; echo > up; sleep 300"
    process = room.start(enclosure, script)
    wait_until((room.folder / "up").exists)
    enclosure.close()
    process.communicate()
    assert not enclosure.lives()


def test_output_that_never_ends_does_not_keep_the_runner(room: Room, kind: str) -> None:
    """A job that fills its pipe while it is killed: the end comes, and the log is closed."""
    running = room.running_job(
        direct(kind), "trap '' TERM", "yes & yes", max_duration_s=0.3, stop_grace_s=0.3
    )
    assert running.wait() == Outcome(137, "timed_out", "SIGKILL")
    running.drain()


def test_the_shell_is_killed_from_outside(room: Room, kind: str) -> None:
    """SIGKILL of the job's shell is an exit with 137; its children go too."""
    enclosure = direct(kind)
    running = room.running_job(enclosure, "echo $$ > shell", "sleep 300 & sleep 300")
    wait_until(lambda: (room.folder / "shell").exists() and (room.folder / "shell").read_text())
    os.kill(int((room.folder / "shell").read_text()), signal.SIGKILL)
    assert running.wait() == Outcome(137, "exit", "SIGKILL")
    running.drain()
    assert not enclosure.lives()


@pytest.mark.skipif(MEMORY_GROUP not in KINDS, reason="no memory cgroup that can be written")
def test_memory_runs_out(room: Room) -> None:
    """A real one: the kernel kills what is above the limit, and the cause is told."""
    running = room.running_job(
        direct(MEMORY_GROUP, limit_bytes=64 * MIB),
        f"{sys.executable} -c 'x = bytearray(256 << 20); print(len(x))'",
        "echo never",
    )
    assert running.wait() == Outcome(137, "oom", "SIGKILL")
    running.drain()


@pytest.mark.skipif(MEMORY_GROUP not in KINDS, reason="no memory cgroup that can be written")
def test_a_job_that_survives_its_lack_of_memory_has_not_failed(room: Room) -> None:
    """What the commands handle themselves is theirs."""
    running = room.running_job(
        direct(MEMORY_GROUP, limit_bytes=64 * MIB),
        f"{sys.executable} -c 'x = bytearray(256 << 20)' || echo handled",
    )
    assert running.wait() == Outcome(0, "exit")
    running.drain()


def test_a_job_within_its_memory_is_not_touched(room: Room, kind: str) -> None:
    """A failure for another reason is not told as a lack of memory."""
    running = room.running_job(direct(kind, limit_bytes=64 * MIB), "kill -9 $$")
    assert running.wait() == Outcome(137, "exit", "SIGKILL")
    running.drain()


@needs_root
def test_the_commands_are_the_jobs_user(room: Room, kind: str, nobody: Account) -> None:
    """User, groups and home are that user's, and none of root's are left."""
    script = "id -u; id -g; id -G; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Groups'"
    said = room.run(direct(kind, account=nobody), script).split()
    groups = [str(gid) for gid in nobody.groups]
    assert said[:2] == [str(nobody.uid), str(nobody.gid)]
    assert set(said[2 : said.index("Groups:")]) == {str(nobody.gid), *groups}
    assert said[said.index("CapEff:") + 1] == "0" * 16
    assert said[said.index("NoNewPrivs:") + 1] == "1"


@needs_root
def test_no_program_gives_more_rights(room: Room, nobody: Account) -> None:
    """A program with the setuid bit of root runs as the job's user."""
    tool = room.folder / "as_root"
    tool.write_bytes(Path("/usr/bin/id").read_bytes())
    tool.chmod(0o4755)
    confined = room.run(direct(DESCENDANTS, account=nobody), f"{tool} -u")
    free = room.run(direct(DESCENDANTS, account=nobody, no_new_privs=False), f"{tool} -u")
    assert (confined.strip(), free.strip()) == (str(nobody.uid), "0")


@needs_root
def test_the_job_reads_its_script_and_cannot_change_it(room: Room, nobody: Account) -> None:
    """Nor can it replace it, or look into what is the runner's."""
    secret = room.folder / "secret"
    secret.write_text("of the runner's")
    secret.chmod(0o600)
    said = room.run(
        direct(DESCENDANTS, account=nobody),
        f'test -r "$0" && echo read; test -w "$0" || echo kept; rm -f "$0" || echo stays; cat {secret} || echo closed',
    )
    assert [line for line in said.splitlines() if ":" not in line] == [
        *("read", "kept", "stays", "closed")
    ]


@needs_root
def test_the_jobs_variables_are_not_heard_by_root(room: Room, nobody: Account) -> None:
    """A library to preload and a path for Python mean nothing until the user is the job's."""
    (room.folder / "sitecustomize.py").write_text("open('/proc/self/loginuid'); print('python')")
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": str(room.folder),
        "PYTHONSTARTUP": "/nowhere",
        "LD_PRELOAD": "/nowhere/evil.so",
    }
    said = room.run(direct(DESCENDANTS, account=nobody), "id -u", environment=environment)
    # Each program of the script complains, the trampoline's Python before it did not.
    assert [line for line in said.splitlines() if "LD_PRELOAD" not in line] == [str(nobody.uid)]
    assert "python" not in said


@needs_root
def test_a_folder_that_the_user_may_not_enter(room: Room, nobody: Account) -> None:
    """The start fails and says which; nothing runs in another place instead."""
    closed = room.folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PermissionError, match="closed"):
        room.start(direct(DESCENDANTS, account=nobody), "echo ran", working_dir=str(closed))


def test_signals_are_as_a_shell_expects(room: Room) -> None:
    """Python's own ignoring of SIGPIPE does not reach the job: `yes | head` ends."""
    said = room.run(
        direct(DESCENDANTS), "set +o pipefail; yes | head -n 1; grep SigIgn /proc/self/status"
    )
    answer, _, ignored = said.split()
    # The first 31: what lies above is glibc's own, and no program can reset it.
    assert (answer, int(ignored, 16) & 0x7FFFFFFF) == ("y", 0)


def test_a_large_environment(room: Room) -> None:
    """More than a pipe holds arrives whole, with any bytes in it."""
    large = "x" * 100_000
    environment = {**ENVIRONMENT, "ONE": large, "TWO": "ä\udcff" + large}
    said = room.run(
        direct(DESCENDANTS), 'echo ${#ONE} $(printf %s "$TWO" | wc -c)', environment=environment
    )
    assert said.split() == ["100000", "100003"]


@pytest.mark.parametrize("environment", [{"A": "b\0"}, {"A=B": "c"}, {"": "x"}])
def test_what_cannot_be_a_variable(room: Room, environment: dict[str, str]) -> None:
    """Is refused before anything starts."""
    with pytest.raises(ValueError, match="environment variable"):
        room.start(direct(DESCENDANTS), "true", environment=environment)


def test_an_environment_that_the_kernel_refuses(room: Room) -> None:
    """The kernel's error is the error of the start, not an exit code of the job."""
    with pytest.raises(OSError, match="Argument list too long"):
        room.start(direct(DESCENDANTS), "true", environment={"A": "x" * 400_000})


def test_a_trampoline_that_breaks_is_no_job(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot start what is to become the shell: that is told as such."""
    monkeypatch.setattr(direct_module, "_TRAMPOLINE", "raise SystemExit(3)")
    with pytest.raises(OSError, match="before it did"):
        room.start(direct(DESCENDANTS), "true")


def test_the_kernel_is_to_take_the_job_first(room: Room) -> None:
    """Where nothing bounds the job's memory, the runner is not what the kernel kills."""
    said = room.run(direct(DESCENDANTS), "cat /proc/self/oom_score_adj")
    assert int(said) > int(Path("/proc/self/oom_score_adj").read_text())


def test_the_start_is_quick(room: Room, kind: str) -> None:
    """What the enclosure adds to a start is not felt (bar: 60 ms on a quiet machine)."""
    took_s = []
    for _ in range(5):
        began_at = time.monotonic()
        enclosure = direct(kind)
        room.run(enclosure, "true")
        enclosure.close()
        took_s.append(time.monotonic() - began_at)
    assert statistics.median(took_s) < 0.5, took_s


def test_nothing_of_the_enclosure_stays(room: Room, kind: str) -> None:
    """Closed twice, or before it was started, it leaves no group and no file open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    enclosure = direct(kind)
    enclosure.close()
    room.run(enclosure, "true")
    enclosure.close()
    enclosure.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
