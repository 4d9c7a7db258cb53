"""The peers' own environment, made from `requirements/bench.txt`. Law: .venv gets none of it; made once, under build/."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.queue.peers import Rates

ROOT = Path(__file__).resolve().parents[3]
LOCKED = ROOT / "requirements" / "bench.txt"
FOLDER = ROOT / "build" / "bench-queue"
_PROGRAM = Path(__file__).with_name("peers.py")
_STAMP = FOLDER / "made-from"
PEER_S = 600


def peer(name: str, place: str, count: int) -> Rates:
    """What the peer does, in a process of its own."""
    done = subprocess.run(
        [str(_python()), "-I", str(_PROGRAM), name, place, str(count)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=PEER_S,
    )
    enqueued, finished = json.loads(done.stdout)
    return enqueued, finished


def _python() -> Path:
    python = FOLDER / "bin" / "python"
    if _STAMP.exists() and _STAMP.read_text() == LOCKED.read_text():
        return python
    shutil.rmtree(FOLDER, ignore_errors=True)
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--quiet", "--python", sys.executable, str(FOLDER)]
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv", str(FOLDER)]
        install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run(make, check=True, stdout=sys.stderr)
    hashed = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCKED)]
    subprocess.run([*install, *hashed], check=True, stdout=sys.stderr)
    _STAMP.write_text(LOCKED.read_text())
    return python
