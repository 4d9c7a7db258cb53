"""What becomes of the job's lines on the machine: masked, within the quota, or counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from dstackd.protocol import LogLine, decode_log_line
from dstackd.runner import records
from dstackd.runner.job_log import OURS, STDERR, STDOUT, JobLog
from dstackd.runner.spool import Spool


class FullDisk(Spool):
    """Takes nothing while `full`."""

    full = False

    @override
    def append(self, records: Sequence[bytes]) -> bool:
        return not self.full and super().append(records)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[FullDisk]:
    spool = FullDisk(str(tmp_path))
    yield spool
    spool.close()


def events(log: JobLog) -> list[Any]:
    """What CloudWatch would get."""
    bodies = [records.decode(record).body for record in iter(log.next_record, None)]
    return [event for body in bodies for event in json.loads(b"[%s]" % body)]


def lines(log: JobLog) -> list[LogLine]:
    found = [decode_log_line(event["message"]) for event in events(log)]
    return [line for line in found if line is not None]


def test_invalid_utf8_stays_readable(spool: Spool) -> None:
    """A byte that is no character is shown by its number, and the lines around it are untouched."""
    log = JobLog(spool)
    log.feed(STDOUT, b"one\ncaf\xe9 \xe2\x82\xac\na\x00b\n")
    log.close()
    assert [line.text for line in lines(log)] == ["one", "caf\\xe9 €", "a\x00b"]
    assert log.done_fields() == ("3", str(3 + 11 + 3), "0", "0")


def test_secrets_are_masked_before_the_disk(spool: Spool, tmp_path: Path) -> None:
    """In a short line, over the place where a long one is cut, in a bar, and in the last unfinished one."""
    log = JobLog(spool, mask=lambda text: text.replace("hunter2", "***"))
    log.feed(STDOUT, b"password hunter2\nharmless\n\rhunter2 10%\r")
    log.feed(STDERR, b"x" * 199_997 + b"hunter2" + b"y" * 300_000)
    log.feed(STDERR, b"hun")
    log.feed(STDERR, b"ter2")
    log.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"hunter2" not in stored
    found = lines(log)
    assert [line.text for line in found if line.source == STDOUT] == [
        "password ***",
        "harmless",
        "*** 10%",
    ]
    joined = "".join(line.text for line in found if line.source == STDERR)
    assert joined == "x" * 199_997 + "***" + "y" * 300_000 + "***"
    assert [line.n for line in found] == list(range(1, len(found) + 1))


def test_what_is_over_the_quota_is_counted(spool: Spool) -> None:
    """CloudWatch gets no more than the quota and one line that says so; the rest is counted, short lines too."""
    log = JobLog(spool, quota_bytes=1000)
    for n in range(100):
        log.feed(STDOUT, b"%d %s\n" % (n, b"x" * (60 if n < 50 else 0)))
    log.close()
    sent = events(log)
    found = [decode_log_line(event["message"]) for event in sent]
    assert all(line is not None for line in found)
    own = [line for line in found if line is not None and line.source == OURS]
    assert [line.n for line in found if line is not None] == list(range(1, len(found) + 1))
    assert own == [found[-1]]
    assert "1000 bytes" in own[0].text
    counted = [len(event["message"].encode()) + 26 for event in sent[:-1]]
    assert 1000 - max(counted) < sum(counted) <= 1000
    written_bytes = sum(len(str(n)) + 1 + (60 if n < 50 else 0) for n in range(100))
    kept = len(found) - 1
    assert log.done_fields() == (str(kept + 1), str(written_bytes), str(100 - kept), "0")


def test_a_full_disk_loses_lines_and_says_where(spool: FullDisk) -> None:
    """Lines that the disk did not take have no number; a line of ours stands in their place."""
    log = JobLog(spool)
    log.feed(STDOUT, b"one\n")
    spool.full = True
    log.feed(STDOUT, b"two\nthree\n")
    log.feed(STDERR, b"four\n")
    spool.full = False
    log.feed(STDOUT, b"five\n")
    spool.full = True
    log.feed(STDOUT, b"six")
    log.close()
    found = lines(log)
    assert [line.n for line in found] == [1, 2, 3]
    assert [(line.source, line.text) for line in found] == [
        (STDOUT, "one"),
        (OURS, "3 lines lost here: the machine's disk did not take them"),
        (STDOUT, "five"),
    ]
    assert log.done_fields() == ("3", str(3 + 3 + 5 + 4 + 4 + 3), "0", "4")


def test_a_line_of_ours_is_told_apart(spool: Spool) -> None:
    """It has a number like the job's lines and a source of its own; its bytes are not the job's."""
    log = JobLog(spool, quota_bytes=10)
    log.say("hello")
    log.close()
    log.say("too late")
    assert lines(log) == [LogLine(1, OURS, "hello")]
    assert log.done_fields() == ("1", "0", "0", "0")


def test_output_after_the_end_is_ignored(spool: Spool) -> None:
    """What a process that outlived the job writes does not change what was counted."""
    log = JobLog(spool)
    log.feed(STDOUT, b"one\n")
    log.close()
    log.feed(STDOUT, b"two\n")
    log.close()
    log.look()
    assert log.lines == 1
