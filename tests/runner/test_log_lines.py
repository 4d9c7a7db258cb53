"""From a pipe's bytes to batches: nothing is lost, nothing is too long."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.protocol import LogLine, decode_log_line, encode_log_line
from dstackd.runner.batches import Batcher
from dstackd.runner.lines import MESSAGE_BYTES_MAX, LineSplitter, texts_of
from dstackd.runner.spool import Spool

chunks = st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r\n", b"ab\n", b"\r"]))


@given(chunks, st.integers(4, 12))
def test_splitting_loses_no_byte(pieces: list[bytes], line_bytes_max: int) -> None:
    """Lines, joined, are the output without its line ends, wherever the pipe cut it."""
    splitter = LineSplitter(line_bytes_max=line_bytes_max)
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish()
    written = b"".join(pieces)
    assert all(len(line) <= line_bytes_max for line in lines)
    assert all(b"\n" not in line for line in lines)
    # A line that is cut just before its CR leaves the CR to the next piece, where it is dropped.
    expected = written.replace(b"\r\n", b"\n").replace(b"\n", b"")
    assert b"".join(lines) == expected


@given(st.lists(st.text("aé€😀", max_size=12), min_size=1))
def test_a_long_line_is_not_cut_inside_a_character(lines: list[str]) -> None:
    """Valid UTF-8 stays valid."""
    splitter = LineSplitter(line_bytes_max=5)
    cut = splitter.feed("".join(f"{line}\n" for line in lines).encode())
    assert "".join(piece.decode() for piece in cut) == "".join(lines)


def test_an_unfinished_line_is_kept_bounded() -> None:
    """A job that never ends its line cannot fill the memory."""
    splitter = LineSplitter(line_bytes_max=10)
    assert splitter.feed(b"x" * 35) == [b"x" * 10] * 3
    assert splitter.finish() == [b"x" * 5]


@pytest.mark.parametrize("line", [b"\x1b" * 200_000, b"\xff" * 200_000, b"a" * 200_000, b""])
def test_every_line_fits_into_an_event(line: bytes) -> None:
    """Escapes make a line longer; then it becomes several events, with all of its text."""
    texts = texts_of(line, source="stdout")
    messages = [encode_log_line(LogLine(n=10**9, source="stdout", text=text)) for text in texts]
    assert all(len(message.encode()) <= MESSAGE_BYTES_MAX for message in messages)
    assert "".join(texts) == line.decode("utf-8", "backslashreplace")


def test_invalid_utf8_stays_readable() -> None:
    """A byte that is no character is shown by its number."""
    assert texts_of(b"caf\xe9 \xe2\x82\xac", source="stdout") == ["caf\\xe9 €"]


@given(texts=st.text(), n=st.integers(1, protocol.LOG_LINE_NUMBER_MAX))
def test_a_line_survives_its_encoding(texts: str, n: int) -> None:
    """What the daemon decodes is what the job wrote."""
    line = LogLine(n=n, source="stderr", text=texts)
    assert decode_log_line(encode_log_line(line)) == line


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.binary(max_size=30).map(lambda one: one.replace(b"\n", b"")), max_size=5)
        | st.just("read")
    )
)
def test_the_spool_is_a_queue(steps: list[list[bytes] | str]) -> None:
    """Whatever the order of writes and reads, records come out as they went in; read segments go."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(folder, segment_bytes=40)
        written: list[bytes] = []
        read: list[bytes] = []
        for step in [*steps, "read"]:
            if isinstance(step, list):
                assert spool.append(step)
                written += step
            else:
                read += iter(spool.read, None)
        assert read == written
        spool.close()
        assert len(list(Path(folder).iterdir())) <= 1


events = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from([1, 100, 250_000])), min_size=1, max_size=30
)


@settings(deadline=None)
@given(events)
def test_batches_keep_to_the_limits(lines: list[tuple[int, int]]) -> None:
    """Bytes, span and order are as PutLogEvents wants them, and no line is left out."""
    hours = sorted(hour for hour, _ in lines)
    records = [
        b"%d %s" % (hour * 3_600_000, b"x" * size)
        for hour, (_, size) in zip(hours, lines, strict=True)
    ]
    waiting = iter(records)
    batcher = Batcher(lambda: next(waiting, None))
    batches = list(iter(batcher.take, []))
    assert [b"%d %s" % (at, text.encode()) for batch in batches for at, text in batch] == records
    for batch in batches:
        assert sum(len(text) + 26 for _, text in batch) <= protocol.LOG_BATCH_BYTES_MAX
        assert batch[-1][0] - batch[0][0] < 24 * 3_600_000


def test_batches_are_as_full_as_they_can_be() -> None:
    """25,000 short lines need three calls."""
    waiting = iter([b"1 x"] * 25_000)
    batcher = Batcher(lambda: next(waiting, None))
    assert [len(batch) for batch in iter(batcher.take, [])] == [10_000, 10_000, 5_000]
