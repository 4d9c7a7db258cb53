"""`dstackd demo` as a person runs it: its exit code says that every expectation of it held."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE_ROOT = Path(__file__).resolve().parents[2] / "daemon"
TIMEOUT_S = 220
START_S = 120
END_S = 40
HISTORY = range(15, 86)
"""Events after which a kill finds work in progress: acceptance is over, the last jobs still run. There are about a hundred."""

WITH_KILL = """
import sys
from dstackd.demo.main import run_demo
sys.exit(run_demo(True, kill_daemon_after_events=int(sys.argv[1])))
"""


@contextmanager
def demo(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that says everything into one pipe and keeps its folder below `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={
            **os.environ,
            "PYTHONPATH": str(SOURCE_ROOT),
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(tmp_path),
        },
    )
    try:
        yield process
    finally:
        process.terminate()  # not kill: the demo ends what it has started
        try:
            process.wait(END_S)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()


def left_running(folder: Path) -> list[str]:
    """Processes that know the folder by name."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a Unix socket below it."""
    return tmp_path_factory.mktemp("d")


@pytest.mark.timeout(240)
def test_every_expectation_holds(folder: Path) -> None:
    """The demo ends with 0, says that no machine is left, and leaves neither a process nor a file."""
    with demo(folder, "-m", "dstackd", "demo") as process:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert "machines left: 0" in output
    assert "✗" not in output
    assert left_running(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_daemon_goes_on(folder: Path, seed: int) -> None:
    """Kill -9 of the daemon in the middle: every job still ends right, and no machine was launched twice."""
    moment = random.Random(seed).choice(HISTORY)
    with demo(folder, "-c", WITH_KILL, str(moment)) as process:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, f"killed after event {moment}\n{output}"
    assert "killed with SIGKILL" in output
    assert left_running(folder) == []


@pytest.mark.timeout(240)
def test_ctrl_c_leaves_nothing_running(folder: Path) -> None:
    """Ctrl-C while machines run ends the daemon, the cloud and the machines; the exit code says so."""
    with demo(folder, "-m", "dstackd", "demo") as process:
        assert process.stdout is not None
        deadline_s = time.monotonic() + START_S
        for line in process.stdout:
            if " running " in line and "commands started" in line:
                break
            assert time.monotonic() < deadline_s, line
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=END_S)
    assert process.returncode == 128 + signal.SIGINT, rest
    assert "nothing is left running" in rest
    assert left_running(folder) == []
