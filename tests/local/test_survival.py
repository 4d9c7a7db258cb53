"""Whatever is killed, no process is left, and the cloud tells the truth about it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstackd.local.cloud import LocalCloud, LocalCloudError, start_local_cloud
from tests.local.conftest import Account, is_alive, wait_until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs /proc to see processes"
)

# A child in the group, and a daemon in a session of its own that ignores SIGTERM and SIGHUP.
FAMILY = """#!/bin/bash
echo $$ > leader
sleep 600 &
echo $! > child
python3 -c 'import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sh", ["sh", "-c", "trap : TERM HUP; echo $$ > far; while :; do sleep 1; done"])
    os._exit(0)
os.wait()
'
wait
"""


def family(account: Account, instance_id: str) -> list[int]:
    """Process ids of a machine: its player, and what its user-data started."""
    player = account.wait_for_state(instance_id, "running")["pid"]
    assert player is not None
    names = ("leader", "child", "far")
    return [player, *(int(account.wait_for_file(instance_id, name)) for name in names)]


def wait_until_gone(pids: list[int]) -> None:
    """Wait until no process of the list runs."""
    wait_until(
        lambda: not any(map(is_alive, pids)),
        seen=lambda: f"alive: {[pid for pid in pids if is_alive(pid)]}",
        deadline_s=5,
    )


def test_kill_9_of_a_player_is_a_failed_host(account: Account) -> None:
    """Its processes die with it, also the far one, and EC2 says Server.InternalError."""
    victim, bystander = account.launch(MaxCount=2, UserData=FAMILY)
    pids, others = family(account, victim), family(account, bystander)
    os.kill(pids[0], signal.SIGKILL)
    view = account.wait_for_state(victim, "terminated")
    assert view["reason"] == "Server.InternalError"
    wait_until_gone(pids)
    assert all(map(is_alive, others))


def test_sigterm_of_a_player_leaves_nothing(account: Account) -> None:
    """A player that is told to end ends its machine first."""
    [one] = account.launch(UserData=FAMILY)
    pids = family(account, one)
    os.kill(pids[0], signal.SIGTERM)
    account.wait_for_state(one, "terminated")
    wait_until_gone(pids)


@pytest.fixture
def lonely(tmp_path: Path) -> LocalCloud:
    """A cloud that a test may kill."""
    return start_local_cloud(tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_cloud(lonely: LocalCloud, signum: signal.Signals) -> None:
    """After kill -9 or SIGTERM of the cloud, every player and every process of theirs is gone."""
    with lonely:
        account = Account(lonely, itertools.count())
        ids = account.launch(MaxCount=2, UserData=FAMILY)
        pids = [pid for one in ids for pid in family(account, one)]
        assert all(map(is_alive, pids))
        os.kill(lonely.pid, signum)
        wait_until_gone([*pids, lonely.pid])


STARTER = """
import pathlib, sys
from dstackd.local.cloud import start_local_cloud
cloud = start_local_cloud(pathlib.Path(sys.argv[1]))
print(cloud.pid, flush=True)
sys.stdin.read()
"""


def test_the_cloud_does_not_outlive_its_starter(tmp_path: Path) -> None:
    """The end of whoever started the cloud ends the cloud."""
    root = Path(__file__).parents[2] / "daemon"
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as starter:
        assert starter.stdout is not None
        cloud_pid = int(starter.stdout.readline())
        assert is_alive(cloud_pid)
        starter.kill()
    wait_until_gone([cloud_pid])


def test_a_cloud_that_cannot_start_says_why(tmp_path: Path, account: Account) -> None:
    """A port that is taken is an error with the reason in it, not a hang."""
    port = int(account.cloud.endpoint_url.rpartition(":")[2])
    with pytest.raises(LocalCloudError, match=r"(?i)address already in use|port"):
        start_local_cloud(tmp_path, port=port)


def test_stopping_twice_is_stopping(tmp_path: Path) -> None:
    """stop() may be called again, and nothing is printed or logged by a quiet cloud."""
    cloud = start_local_cloud(tmp_path, faults={"boot_delay_s": 0.1})
    assert cloud.control.faults()["boot_delay_s"] == 0.1
    cloud.stop()
    cloud.stop()
    assert (tmp_path / "cloud.log").read_text() == ""
