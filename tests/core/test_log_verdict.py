"""What is said about an attempt's log."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.log_verdict import COMPLETE, is_settled, log_verdict

counts = st.integers(0, 5)


@given(st.none() | counts, counts, counts, counts)
def test_a_verdict_says_what_is_not_here(
    sent: int | None, seen: int, over_quota: int, lost: int
) -> None:
    """The figures in it are those of the lines: on their way, over the quota, lost on the machine; `complete` only when
    there are none.
    """
    verdict = log_verdict(sent=sent, seen=seen, over_quota=over_quota, lost=lost)
    figures = [int(figure) for figure in re.findall(r"\d+", verdict)]
    if sent is None:
        assert verdict.startswith("unconfirmed (")
        assert figures == [seen]
        return
    missing = max(sent - seen, 0) + lost
    assert figures == [count for count in (missing, over_quota) if count]
    assert (verdict == COMPLETE) == (not figures)
    assert ("missing" in verdict) == (missing > 0)
    assert ("over the quota" in verdict) == (over_quota > 0)


@given(st.none() | counts, counts, counts, counts)
def test_what_is_settled_cannot_improve(
    sent: int | None, seen: int, over_quota: int, lost: int
) -> None:
    """More lines make no other verdict once it is settled, and a complete log is."""
    verdict = log_verdict(sent=sent, seen=seen, over_quota=over_quota, lost=lost)
    later = log_verdict(sent=sent, seen=seen + 1, over_quota=over_quota, lost=lost)
    if is_settled(sent=sent, seen=seen):
        assert later == verdict
    else:
        assert verdict != COMPLETE
        assert later != verdict


def test_the_texts() -> None:
    """They can be asked for by SQL, so they are fixed."""
    assert [
        log_verdict(sent=5, seen=5, over_quota=0, lost=0),
        log_verdict(sent=5, seen=4, over_quota=0, lost=1),
        log_verdict(sent=5, seen=5, over_quota=1, lost=0),
        log_verdict(sent=5, seen=4, over_quota=7, lost=0),
        log_verdict(sent=None, seen=1, over_quota=0, lost=0),
    ] == [
        "complete",
        "incomplete (2 missing)",
        "incomplete (1 over the quota)",
        "incomplete (1 missing, 7 over the quota)",
        "unconfirmed (1 line arrived)",
    ]
