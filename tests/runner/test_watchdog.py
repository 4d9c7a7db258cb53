"""The proof of life that the runner gives to systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.runner.watchdog import OVERDUE_EXIT_CODE, Watchdog
from tests.runner.conftest import wait_until

SOURCES = Path(__file__).parents[2] / "daemon"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket at which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def environment(listener: socket.socket, **changes: str) -> dict[str, str]:
    return {
        "NOTIFY_SOCKET": listener.getsockname(),
        "WATCHDOG_USEC": "80000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/usr/bin",
        **changes,
    }


def test_it_says_ready_and_feeds(systemd: socket.socket) -> None:
    """READY=1 once, then WATCHDOG=1 again and again, four times an interval."""
    watchdog = Watchdog(environment(systemd))
    assert watchdog.look_s == 0.02
    watchdog.start()
    said = [systemd.recv(100) for _ in range(4)]
    watchdog.stop()
    assert said == [b"READY=1", *[b"WATCHDOG=1"] * 3]


def test_children_cannot_speak_for_it(systemd: socket.socket) -> None:
    """What systemd told the runner is in no environment that the runner passes on."""
    environ = environment(systemd)
    Watchdog(environ)
    assert environ == {"PATH": "/usr/bin"}


def test_an_abstract_socket_is_known() -> None:
    """What systemd names may be in no file system."""
    if sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    name = f"dstackd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        assert Watchdog({"NOTIFY_SOCKET": "@" + name}).look()
        assert listener.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_without_systemd_it_only_looks(environ: dict[str, str]) -> None:
    """Nobody to tell is no error, and what is overdue counts all the same."""
    ended: list[str] = []
    watchdog = Watchdog(environ, end=ended.append)
    assert watchdog.look()
    watchdog.expect("a thread", within_s=-1)
    assert not watchdog.look()
    assert ended == ["a thread (1 s late)"]


def test_another_process_is_not_meant() -> None:
    """An interval that systemd set for a parent process is not this one's."""
    assert Watchdog({"WATCHDOG_USEC": "80000", "WATCHDOG_PID": "1"}).look_s == 5


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["expect", "forget", "pass"]),
        st.sampled_from(["spot", "control", "end"]),
        st.integers(0, 50),
    )
)


@given(MOVES)
def test_it_is_fed_exactly_while_every_promise_holds(moves: list[tuple[str, str, int]]) -> None:
    """Whatever is promised, kept and taken back: one late name is enough to stop the feeding."""
    now = 0.0
    ended: list[str] = []
    watchdog = Watchdog({}, end=ended.append, now=lambda: now)
    due: dict[str, float] = {}
    for move, name, seconds in moves:
        if move == "pass":
            now += seconds
        elif move == "expect":
            watchdog.expect(name, within_s=seconds)
            due[name] = now + seconds
        else:
            watchdog.forget(name)
            due.pop(name, None)
        late = {name for name, at in due.items() if now > at}
        assert watchdog.look() == (not late)
        assert all(name in watchdog.overdue() for name in late)


def test_a_block_has_its_time() -> None:
    """`within` expects its own end, and nothing after that."""
    now = 0.0
    watchdog = Watchdog({}, end=lambda _: None, now=lambda: now)
    with watchdog.within("document", 10):
        now = 11
        assert watchdog.overdue() == "document (1 s late)"
    assert watchdog.overdue() == ""


def test_a_hung_thread_ends_the_process_with_its_stacks() -> None:
    """The exit code is an error, the stacks of all threads are there, and the last line says who is late."""
    program = """
import threading
from dstackd.runner.watchdog import Watchdog
watchdog = Watchdog({"WATCHDOG_USEC": "40000"})
watchdog.expect("control", within_s=0.05)
def where_it_hangs():
    threading.Event().wait()
threading.Thread(target=where_it_hangs, daemon=True).start()
watchdog.start()
threading.Event().wait()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_until(lambda: process.poll() is not None)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == OVERDUE_EXIT_CODE
    assert "where_it_hangs" in said
    assert said.splitlines()[-1].startswith("dstackd: no progress: control (")
