"""The lines' queue on a disk that does not take all of them."""

from __future__ import annotations

import random
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstackd.runner.spool import Spool


@contextmanager
def room_for(size_bytes: int, path: Path) -> Iterator[None]:
    """The kernel lets this process make no file longer than that one and so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def impatient_threads() -> Iterator[None]:
    """Threads take turns often, so that one looks while another is in the middle."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)


def test_half_a_write_is_never_read(tmp_path: Path) -> None:
    """The disk takes a part of an append and no more; whoever reads at that moment sees nothing of it, nor what was there
    for a moment mixed with what came instead.
    """
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    spool = Spool(str(tmp_path), segment_bytes=50_000)
    taken: list[bytes] = []
    read: list[bytes] = []
    over = threading.Event()

    def reader() -> None:
        while not over.is_set():
            read.extend(iter(spool.read, None))

    thread = threading.Thread(target=reader)
    with impatient_threads():
        thread.start()
        try:
            for number in range(1000):
                records = [
                    b"%d/%d " % (number, part) + b"x" * dice.randrange(3000)
                    for part in range(dice.randint(1, 5))
                ]
                room_bytes = dice.choice([10**6, 10**6, dice.randrange(6000)])
                segment = max(tmp_path.glob("*.log"))
                with room_for(room_bytes, segment):
                    if spool.append(records):
                        taken += records
        finally:
            over.set()
            thread.join()
    read.extend(iter(spool.read, None))
    spool.close()
    assert read == taken, f"seed {seed}"
    assert len(taken) < 1000 * 5


def test_a_record_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    """It comes out whole, and so do its neighbours."""
    spool = Spool(str(tmp_path), segment_bytes=1000)
    records = [b"before", b"y" * 900_000, b"after"]
    for record in records:
        assert spool.append([record])
    assert list(iter(spool.read, None)) == records
    spool.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_disk_that_takes_nothing_and_gives_nothing_back(tmp_path: Path) -> None:
    """Neither writing nor cutting works: it is told each time, and nothing raises."""
    (tmp_path / "000000.log").symlink_to("/dev/full")
    spool = Spool(str(tmp_path))
    assert [spool.append([b"x"]) for _ in range(3)] == [False] * 3
    assert spool.read() is None
    spool.close()
