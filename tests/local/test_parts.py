"""The parts that need no cloud: power commands, process trees, the metadata tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dstackd.local import imds, processes
from dstackd.local.power import Power, PowerRequest, parse


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("shutdown now", PowerRequest(Power.OFF)),
        ("shutdown -h now", PowerRequest(Power.OFF)),
        ("shutdown", PowerRequest(Power.OFF, 60.0)),
        ("shutdown +2 bye", PowerRequest(Power.OFF, 120.0)),
        ("shutdown -r +1", PowerRequest(Power.REBOOT, 60.0)),
        ("shutdown --halt 0", PowerRequest(Power.HALT)),
        ("shutdown -c", PowerRequest(Power.CANCEL)),
        ("poweroff -f", PowerRequest(Power.OFF)),
        ("halt", PowerRequest(Power.HALT)),
        ("halt -p", PowerRequest(Power.OFF)),
        ("reboot", PowerRequest(Power.REBOOT)),
        ("", None),
        ("dance", None),
    ],
)
def test_power_commands(line: str, request_: PowerRequest | None) -> None:
    """Commands mean what shutdown(8) and halt(8) say."""
    assert parse(line) == request_


def test_both_ways_to_see_the_tree_agree() -> None:
    """Where there is no /proc, ps shows the same parents."""
    if shutil.which("ps") is None or not Path("/proc/self").exists():
        pytest.skip("needs both /proc and ps")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            for parents in (processes._parents_from_proc(), processes._parents_from_ps()):
                assert parents[child.pid] == os.getpid()
                assert parents[os.getpid()] == os.getppid()
        finally:
            child.kill()


def test_a_spared_process_is_spared_with_all_below_it() -> None:
    """descendants() leaves out the subtrees it is told to leave out."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert child.pid in processes.descendants(os.getpid())
            assert child.pid not in processes.descendants(os.getpid(), spare={child.pid})
        finally:
            child.kill()


def test_folders_are_listed() -> None:
    """A path that is no leaf lists what is below it, folders with a slash."""
    tree = {"a/b": "1", "a/c/d": "2", "e": "3"}
    assert imds.find(tree, "a/b") == "1"
    assert imds.find(tree, "a/") == "b\nc/"
    assert imds.find(tree, "a/c") == "d"
    assert imds.find(tree, "") == "a/\ne"
    assert imds.find(tree, "f") is None


def test_a_player_is_light() -> None:
    """A machine player loads nothing that is slow: eight of them start at once."""
    root = Path(__file__).parents[2] / "daemon"
    program = "import sys, dstackd.local.machine; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-P", "-c", program],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not set(loaded) & {"asyncio", "http.server", "subprocess", "pathlib", "email", "moto"}
