"""Sealing artifacts beside the AWS CLI: 1 GB in 1,000 files (`s3 sync`) and in one (`s3 cp`), both
against the same S3, which reads and forgets. Interleaved, the best of three of each, whole processes
with their start. Also the time to find and send 20,000 small files, and the memory that takes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.artifacts.aws_cli import NoCliError, aws_cli
from tests.benchmarks.figure import Figure

HERE = Path(__file__).parent / "artifacts"
ROOT = Path(__file__).parents[2]
GIB = 2**30
ROUNDS = 3
BAR = 1.0
"""At least as fast as the CLI."""


@dataclass(frozen=True)
class Took:
    """Of one process."""

    wall_s: float
    cpu_s: float
    rss_mib: float


def measure() -> Iterator[Figure]:
    """All figures; those of the CLI are the baselines."""
    with tempfile.TemporaryDirectory(prefix="dstackd-bench-") as folder:
        one, many = Path(folder, "one"), Path(folder, "many")
        _write(one, files=1, size_bytes=GIB)
        _write(many, files=1000, size_bytes=GIB // 1000)
        with discarding_s3() as url:
            yield from _compare("1 GB in 1,000 files", many, url, ["s3", "sync", str(many), _S3])
            file = one / "0"
            yield from _compare("1 GB in one file", one, url, ["s3", "cp", str(file), f"{_S3}/0"])
            yield from _small_files(Path(folder, "small"), url)


@contextmanager
def discarding_s3() -> Iterator[str]:
    """The URL of an S3 that reads and forgets, in a process of its own until the block ends."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "discarding_s3.py")], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


_S3 = "s3://a-bucket/files"


def _write(folder: Path, *, files: int, size_bytes: int) -> None:
    folder.mkdir()
    block = os.urandom(min(size_bytes, 1024 * 1024))
    for number in range(files):
        with (folder / str(number)).open("wb") as file:
            left = size_bytes
            while left:
                left -= file.write(block[:left])


def _compare(what: str, folder: Path, url: str, command: Sequence[str]) -> Iterator[Figure]:
    ours: list[Took] = []
    theirs: list[Took] = []
    for _ in range(ROUNDS):
        ours.append(_run([sys.executable, str(HERE / "seal_folder.py"), url, str(folder)]))
        try:
            theirs.append(_run([str(aws_cli()), "--endpoint-url", url, *command]))
        except NoCliError as error:
            print(f"no AWS CLI, so no baseline: {error}", file=sys.stderr)
    best = min(ours, key=lambda took: took.wall_s)
    other = min(theirs, key=lambda took: took.wall_s, default=None)
    if other is not None:
        bar = "holds" if other.wall_s / best.wall_s >= BAR else "MISSED"
        speed = f"{other.wall_s / best.wall_s:.2f} times the CLI's speed, bar {BAR}: {bar}"
        print(f"{what}: {best.wall_s:.2f} s, CLI {other.wall_s:.2f} s: {speed}", file=sys.stderr)
    yield Figure(
        figure=f"upload, {what}, against aws {command[1]}",
        value=round(best.wall_s, 3),
        unit="s",
        baseline=round(other.wall_s, 3) if other else None,
    )
    yield Figure(
        figure=f"processor time, {what}",
        value=round(best.cpu_s, 3),
        unit="s",
        baseline=round(other.cpu_s, 3) if other else None,
    )
    yield Figure(
        figure=f"memory at most, {what}",
        value=round(best.rss_mib, 1),
        unit="MiB",
        baseline=round(other.rss_mib, 1) if other else None,
    )


def _small_files(folder: Path, url: str) -> Iterator[Figure]:
    for part in range(20):
        (folder / str(part)).mkdir(parents=True)
        for number in range(1000):
            (folder / str(part) / str(number)).write_bytes(b"x")
    took = _run([sys.executable, str(HERE / "seal_folder.py"), url, str(folder)])
    yield Figure(figure="upload, 20,000 files of a byte", value=round(took.wall_s, 2), unit="s")
    yield Figure(figure="memory at most, 20,000 files", value=round(took.rss_mib, 1), unit="MiB")


def _run(command: Sequence[str]) -> Took:
    environment: Mapping[str, str] = {
        **{name: text for name, text in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ACCESS_KEY_ID": "AKIAOFABENCHMARK",
        "AWS_SECRET_ACCESS_KEY": "of no meaning",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(ROOT / "daemon"),
    }
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - begun
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Took(wall_s, used.ru_utime + used.ru_stime, _mib(used))


def _mib(used: resource.struct_rusage) -> float:
    """ru_maxrss is in KiB on Linux, in bytes on macOS."""
    return used.ru_maxrss / (1024 if sys.platform == "linux" else 1024 * 1024)
