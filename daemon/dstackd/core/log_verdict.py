"""Whether an attempt's log is all here. Law: pure; one of these texts for every attempt that ran.

`complete`, `incomplete (2 missing)`, `incomplete (7 over the quota)`, `incomplete (2 missing, 7 over the quota)`, or
`unconfirmed (3 lines arrived)`: the machine went without saying how many there were.
"""

from __future__ import annotations

COMPLETE = "complete"


def log_verdict(*, sent: int | None, seen: int, over_quota: int, lost: int) -> str:
    """`sent`: how many lines have a number, by the machine's last word; None: it said none. `seen`: how many of them are
    here. `over_quota` and `lost`: lines without a number, left out on the machine.
    """
    if sent is None:
        lines = "1 line" if seen == 1 else f"{seen} lines"
        return f"unconfirmed ({lines} arrived)"
    missing = max(0, sent - seen) + lost
    parts = []
    if missing:
        parts.append(f"{missing} missing")
    if over_quota:
        parts.append(f"{over_quota} over the quota")
    return f"incomplete ({', '.join(parts)})" if parts else COMPLETE


def is_settled(*, sent: int | None, seen: int) -> bool:
    """Whether nothing that may still arrive can change the verdict."""
    return sent is not None and seen >= sent
