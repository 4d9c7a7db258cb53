"""The command line as a person types it: a child process. Law: the environment is clean but for what a test gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from tests.http.world import World
from tests.tidy.source_tree import ROOT

DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How it ended."""

    code: int
    out: str
    err: str


def environment(**given: str) -> dict[str, str]:
    """Ours without what could configure dstackd, and with the package on the path."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DSTACKD_", "AWS_")) and name != "NO_COLOR"
    }
    return {**kept, "PYTHONPATH": str(ROOT / "daemon"), **given}


def at(socket: Path) -> dict[str, str]:
    """Variables that lead a client to the socket."""
    return {"DSTACKD_HTTP__SOCKET": str(socket)}


def dstackd(
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stdin: bytes = b"",
    deadline_s: float = DEADLINE_S,
) -> Finished:
    """Run `dstackd` to its end, in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "dstackd", *arguments],
        env=environment(**(variables or {})),
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=deadline_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


async def ask(
    world: World, *arguments: str, folder: Path | None = None, stdin: bytes = b""
) -> Finished:
    """Run a client against the world's server, which goes on serving meanwhile."""
    assert world.listening.socket_path is not None
    run = partial(
        dstackd,
        *arguments,
        variables=at(world.listening.socket_path),
        folder=folder or world.path.parent,
        stdin=stdin,
    )
    return await anyio.to_thread.run_sync(run)


def start(*arguments: str, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start `dstackd`; the caller ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dstackd", *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process: subprocess.Popen[str]) -> Finished:
    """Ctrl-C, and the end of it."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    return Finished(process.returncode, out, err)
