"""What time it is for AWS, by what its answers say. Law: pure; what is believed changes by no more than an answer proves.

An answer's Date header has whole seconds, and AWS's clock showed it at some moment between question and answer: that is a
span, not a time. What lies in it is left as it is.
"""

from __future__ import annotations

WHOLE_SECOND_MS = 999
TOLERANCE_MS = 1000
"""AWS's servers need not agree better than this among each other."""


def corrected_ms(believed_ms: int, *, told_ms: int, took_ms: int) -> int:
    """What AWS's clock shows now. `believed_ms`: what ours shows; `told_ms`: the Date header of an answer that has just arrived;
    `took_ms`: how long ago it was asked for.
    """
    earliest_ms = told_ms - TOLERANCE_MS
    latest_ms = told_ms + WHOLE_SECOND_MS + took_ms + TOLERANCE_MS
    return min(max(believed_ms, earliest_ms), latest_ms)
