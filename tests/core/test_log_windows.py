"""Which part of the log group is read next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.log_assembly import Gap, LogAssembly
from dstackd.core.log_windows import (
    DEEP_OVERLAP_MS,
    NEAR_MS,
    OVERLAP_MS,
    REREAD_EVENTS_MAX,
    STREAMS_MAX,
    forward_start_ms,
    window_of,
)
from dstackd.core.open_log import LOOK_FIRST_S, LOOK_MAX_S, OpenLog, WantedLog

moments = st.integers(0, 10 * NEAR_MS)
gaps = st.builds(
    lambda begin, length: Gap(begin, None if length is None else begin + length),
    moments,
    st.none() | st.integers(0, 5000),
)


@given(st.lists(gaps, min_size=1, max_size=200))
def test_one_read_looks_for_many_gaps(found: list[Gap]) -> None:
    """The first gap is within the window, as is each other one that is named; those far away are left for later."""
    window = window_of([(f"s{at}", gap) for at, gap in enumerate(found)])
    named = [gap for at, gap in enumerate(found) if f"s{at}" in window.streams]
    assert "s0" in window.streams
    assert len(window.streams) <= STREAMS_MAX
    for gap in named:
        assert window.from_ms <= gap.from_ms
        assert window.to_ms is None or (gap.to_ms is not None and gap.to_ms <= window.to_ms)
    assert max(gap.from_ms for gap in named) - window.from_ms <= 2 * NEAR_MS
    near = [gap for gap in found if abs(gap.from_ms - found[0].from_ms) <= NEAR_MS]
    assert len(named) == min(len(near), STREAMS_MAX)


@given(moments, moments, st.integers(0, REREAD_EVENTS_MAX), st.booleans())
def test_a_read_goes_back_a_little(now_ms: int, until_ms: int, events: int, deep: bool) -> None:
    """Never more than the overlap before what was read, never behind it; less where there is much in it."""
    recent_ms = sorted(until_ms - at for at in range(events))
    start_ms = forward_start_ms(now_ms=now_ms, until_ms=until_ms, recent_ms=recent_ms, deep=deep)
    behind_ms = min(now_ms, until_ms)
    assert behind_ms - DEEP_OVERLAP_MS <= start_ms
    if deep:
        assert start_ms == behind_ms - DEEP_OVERLAP_MS
    elif events < REREAD_EVENTS_MAX:
        assert start_ms == behind_ms - OVERLAP_MS
    else:
        assert start_ms >= recent_ms[0]


@given(st.permutations(range(1, 9)), st.integers(1, 8), st.none() | st.integers(0, 9))
def test_a_gap_holds_the_missing_lines(order: list[int], arrive: int, expected: int | None) -> None:
    """Whatever has arrived: the first missing line was written within the gap, and no gap means that none is known."""
    assembly = LogAssembly(1, last_at_ms=0)
    assembly.expected = expected
    arrived = order[:arrive]
    for n in arrived:
        assembly.add(n, n * 100, "stdout", "")
    assembly.take_ready()
    first_missing = next(n for n in range(1, 10) if n not in arrived)
    gap = assembly.gap()
    if gap is None:
        assert first_missing > max([*arrived, expected or 0])
    else:
        assert gap.from_ms <= first_missing * 100 <= (gap.to_ms or 10_000)


def test_looks_become_rare() -> None:
    """A gap has a moment to close by itself, then is looked for at growing distances."""
    entry = WantedLog("job", 1, 0, 5, 0)
    log = OpenLog(entry, LogAssembly(1), size_bytes=0, quiet_since_s=0.0, is_known=True)
    log.learn(entry, now_s=0.0)
    log.note_gap(0.0)
    waits_s = [log.next_look_s]
    for _ in range(6):
        now_s = log.next_look_s
        log.looked(now_s)
        log.note_gap(now_s)
        waits_s.append(log.next_look_s - now_s)
    assert waits_s == sorted(waits_s)
    assert (waits_s[0], waits_s[-1]) == (LOOK_FIRST_S, LOOK_MAX_S)
    for n in range(1, 6):
        log.assembly.add(n, n, "stdout", "")
    log.assembly.take_ready()
    log.note_gap(100.0)
    assert log.gap_since_s is None
