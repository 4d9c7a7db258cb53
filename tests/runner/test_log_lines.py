"""From a pipe's bytes to lines: nothing is lost, nothing is too long, and a progress bar is tamed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.protocol import LogLine, encode_log_line
from dstackd.runner.carriage import kept, shown
from dstackd.runner.cutting import cut_for
from dstackd.runner.lines import MESSAGE_BYTES_MAX, STATE_S, LineSplitter, fitting_texts

chunks = st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r\n", b"ab\n", b"\r"]))
bars = st.lists(st.sampled_from([b"\r", b"\n", b"1%", b"2%", b"\x1b[K", b"\x1b[2K", b" ", b"a"]))


def split(
    pieces: list[bytes], *, at_s: float = 0.0, splitter: LineSplitter | None = None
) -> list[bytes]:
    """All lines of the pieces, which come at the same moment."""
    splitter = splitter or LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece, now_s=at_s)]
    return lines + splitter.finish()


@given(chunks, st.integers(4, 12), st.integers(0, 9))
def test_splitting_loses_no_byte(pieces: list[bytes], line_bytes_max: int, reserve: int) -> None:
    """Lines, joined, are the output without its line ends, wherever the pipe cut it."""
    pieces = [piece.replace(b"\r", b"") for piece in pieces]
    splitter = LineSplitter(line_bytes_max=line_bytes_max, reserve_bytes=reserve)
    lines = split(pieces, splitter=splitter)
    assert all(b"\n" not in line for line in lines)
    assert b"".join(lines) == b"".join(pieces).replace(b"\n", b"")


@given(st.lists(st.binary(max_size=9).map(lambda one: one.replace(b"\n", b"").replace(b"\r", b""))))
def test_cr_lf_is_one_end(lines: list[bytes]) -> None:
    """A line is what stands before LF or CR LF, also when it comes byte by byte, and none comes twice."""
    written = b"".join(line + b"\r\n" for line in lines)
    assert split([written]) == lines
    visible = [line for line in lines if line.strip()]
    one_by_one = split([bytes([byte]) for byte in written])
    assert [line for line in one_by_one if line.strip()] == visible


@given(bars, st.integers(1, 4))
def test_the_last_state_of_a_bar_is_always_a_line(pieces: list[bytes], size: int) -> None:
    """Cut anywhere and sampled at any time, each finished line's last state is there, in order; more is only
    states in between.
    """
    written = b"".join(pieces)
    cut = [written[start : start + size] for start in range(0, len(written), size)]
    splitter, lines = LineSplitter(), []
    for at, piece in enumerate(cut):
        lines += splitter.feed(piece, now_s=at * STATE_S)
    lines += splitter.finish()
    rest = iter(lines)
    finals = [shown(line) if b"\r" in line else line for line in written.split(b"\n")]
    for final in finals if written and not written.endswith(b"\n") else finals[:-1]:
        assert final in rest, (finals, lines)


@given(bars, bars)
def test_what_is_kept_of_a_bar_shows_the_same(before: list[bytes], after: list[bytes]) -> None:
    """What was drawn over may be forgotten: neither the state now nor a later one changes."""
    one, more = (b"".join(part).replace(b"\n", b"") for part in (before, after))
    if b"\r" in one:
        assert shown(kept(one)) == shown(one)
        assert shown(kept(one) + more) == shown(one + more)


def test_a_bar_of_ten_minutes_is_a_line_a_second() -> None:
    """A bar of tqdm, 200 states a second: at most one line a second, the last state last, the memory bounded."""
    splitter, lines = LineSplitter(), []
    for tick in range(120_000):
        bar = f"\r {tick / 1200:5.1f}%|{'#' * 60}| {tick}/120000".encode()
        lines += splitter.feed(bar, now_s=tick / 200)
        assert splitter._size_bytes < 40_000
    lines += splitter.feed(b"\r100.0%| done\n", now_s=600.1)
    assert 590 <= len(lines) <= 602
    assert lines[0].startswith(b"   0.0%")
    assert lines[-1] == b"100.0%| done"


def test_a_bar_that_stopped_moving_shows_where() -> None:
    """The state is told a second later although nothing more was written; and only once."""
    splitter = LineSplitter()
    assert splitter.feed(b"\r10%", now_s=0.0) == [b"10%"]
    assert splitter.feed(b"\r20%", now_s=0.1) == []
    assert splitter.look(now_s=0.9) == []
    assert splitter.look(now_s=1.1) == [b"20%"]
    assert splitter.look(now_s=5.0) == []
    assert splitter.finish() == []


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (b"10%\r20%\r\n", b"20%"),
        (b"\r10%\r\x1b[KDone", b"Done"),
        (b"\r10%\x1b[2K\rDone", b"Done"),
        (b"\r\x1b[32m10%\x1b[0m\r\x1b[32m20%\x1b[0m", b"\x1b[32m20%\x1b[0m"),
        (b"a\x1b[31mb", b"a\x1b[31mb"),
        (b"a\x00b", b"a\x00b"),
    ],
)
def test_a_line_is_what_the_terminal_shows(written: bytes, line: bytes) -> None:
    """Returns and erasing have done their part; colours and NULs stay."""
    assert split([written]) == [line]


@given(st.lists(st.text("aé€😀", max_size=12), min_size=1))
def test_a_long_line_is_not_cut_inside_a_character(lines: list[str]) -> None:
    """Valid UTF-8 stays valid, however the pipe cut it."""
    splitter = LineSplitter(line_bytes_max=5)
    written = "".join(f"{line}\n" for line in lines).encode()
    pieces = [written[start : start + 3] for start in range(0, len(written), 3)]
    assert "".join(one.decode() for one in split(pieces, splitter=splitter)) == "".join(lines)


def test_an_unfinished_line_is_kept_bounded() -> None:
    """A job that never ends its line cannot fill the memory."""
    splitter = LineSplitter(line_bytes_max=10)
    assert splitter.feed(b"x" * 35, now_s=0) == [b"x" * 10] * 3
    assert splitter.finish() == [b"x" * 5]


@pytest.mark.parametrize("text", ["\x1b" * 200_000, "\\xff" * 200_000, "é" * 500_000, ""])
def test_every_line_fits_into_an_event(text: str) -> None:
    """JSON makes a line longer; then it becomes several events, with all of its text."""
    texts = fitting_texts(text)
    messages = [encode_log_line(LogLine(n=10**9, source="stdout", text=one)) for one in texts]
    assert all(len(message.encode()) <= MESSAGE_BYTES_MAX for message in messages)
    assert "".join(texts) == text


SECRETS = ("hunter2", "s3cr€t", "*x*")


def hide(text: str) -> str:
    for secret in SECRETS:
        text = text.replace(secret, "***")
    return text


@given(
    st.lists(st.sampled_from([*SECRETS, "hunter", "a", "é", "*"]), max_size=30),
    st.integers(1, 9),
    st.integers(8, 20),
)
def test_a_cut_gives_no_secret_away(words: list[str], size: int, line_bytes_max: int) -> None:
    """Wherever a line without an end is cut, its pieces, masked one by one, hold what the whole line shows."""
    written = "".join(words)
    splitter = LineSplitter(
        line_bytes_max=line_bytes_max, reserve_bytes=max(map(len, SECRETS)) + 2, cut=cut_for(hide)
    )
    encoded = written.encode()
    pieces = [encoded[start : start + size] for start in range(0, len(encoded), size)]
    lines = split(pieces, splitter=splitter)
    assert "".join(hide(line.decode()) for line in lines) == hide(written)
