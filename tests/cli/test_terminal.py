"""What a person at a terminal sees, on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio

from tests.cli.program import DEADLINE_S, at, environment
from tests.http.world import World, running

WIDTH = 60
COLOUR = re.compile(r"\x1b\[\d+m")
REDRAWN = "\x1b[H\x1b[J"


def on_terminal(socket: Path, *arguments: str, redraws: int = 0, **variables: str) -> str:
    """What the command writes to a terminal of 60 columns; Ctrl-C after so many redraws, if any."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dstackd", *arguments],
        env=environment(COLUMNS=str(WIDTH), **at(socket), **variables),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := _read(ours):
            seen += chunk
            if redraws and seen.decode().count(REDRAWN) >= redraws:
                process.send_signal(signal.SIGINT)
                redraws = 0
        process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says EIO when the other end is closed
        return b""


async def see(world: World, *arguments: str, redraws: int = 0, **variables: str) -> str:
    """`on_terminal` while the world serves."""
    assert world.listening.socket_path is not None
    socket = world.listening.socket_path
    show = partial(on_terminal, socket, *arguments, redraws=redraws, **variables)
    return await anyio.to_thread.run_sync(show)


async def test_ps_fits_the_terminal() -> None:
    """No line is wider than the terminal: columns that matter least go first, then text is cut."""
    async with running() as world:
        job_id = await world.insert_job()
        await world.sql(
            "UPDATE job SET phase = 'queued', reason = 'no_capacity', message = ?", "x" * 200
        )
        coloured, plain = await see(world, "ps"), await see(world, "ps", NO_COLOR="1")
    assert max(map(len, plain.splitlines())) == WIDTH
    assert plain.splitlines()[1].startswith(job_id)
    assert "queued" in plain
    assert plain.splitlines()[1].endswith("…")
    assert COLOUR.sub("", coloured) == plain


async def test_colours_say_the_phase() -> None:
    """A phase has its colour on a terminal, and none with NO_COLOR."""
    async with running() as world:
        await world.finish_job(await world.insert_job(), "failed", 1)
        coloured, plain = await see(world, "ps", "-a"), await see(world, "ps", "-a", NO_COLOR="1")
    assert "\x1b[31mfailed\x1b[0m" in coloured
    assert COLOUR.search(plain) is None


async def test_watch_redraws_until_ctrl_c() -> None:
    """`ps -w` shows the table again and again, and Ctrl-C ends it quietly."""
    async with running() as world:
        job_id = await world.insert_job()
        seen = await see(world, "ps", "-w", redraws=2)
    assert seen.count(job_id) >= 2
    assert "Traceback" not in seen
