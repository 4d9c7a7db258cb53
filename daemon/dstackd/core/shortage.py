"""Why nothing is open, in words. Law: equal blocks give equal words, however often and at what time they are asked for.

So times are points in time, never distances: an unchanged reason costs no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from dstackd.core.launching import Block
from dstackd.core.offering import Offering

NAMED_MAX = 3
"""Offerings that are named one by one; more of them are counted."""
CODES_MAX = 4

Closed = tuple[Offering, Block]
"""An offering, and the block that keeps it closed the longest."""


def utc_text(at_ms: int) -> str:
    """`2026-07-24 12:03:20 UTC`, rounded up to the second."""
    at = datetime.fromtimestamp(-(-at_ms // 1000), UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def shortage_text(closed: Sequence[Closed]) -> str:
    """What is refused, by which code, since when, and when the first is asked for again. `closed` is not empty."""
    since_ms = min((block.since_ms for _, block in closed if block.since_ms), default=0)
    since = f"; refused since {utc_text(since_ms)}" if since_ms else ""
    return f"{_what(closed)}{since}; asked again {_when(block for _, block in closed)}"


def _what(closed: Sequence[Closed]) -> str:
    if len({block for _, block in closed}) == 1:
        block = closed[0][1]
        where = _name(closed[0][0]) if len(closed) == 1 else f"all {len(closed)} offerings"
        return f"{where}: {block.message}"
    by_code: dict[str, list[Closed]] = {}
    for each in closed:
        by_code.setdefault(each[1].code, []).append(each)
    groups = sorted(by_code.items(), key=lambda group: (-len(group[1]), group[0]))
    parts = [_group(code, members) for code, members in groups[:CODES_MAX]]
    if len(groups) > CODES_MAX:
        parts.append(f"{len(groups) - CODES_MAX} more codes")
    return f"none of {len(closed)} offerings is open: {', '.join(parts)}"


def _group(code: str, members: Sequence[Closed]) -> str:
    """`240 InsufficientInstanceCapacity`; what one message says of all of them is said, and few are named."""
    text = f"{len(members)} {code}"
    messages = {block.message for _, block in members}
    if len(messages) == 1:
        return f"{len(members)} {messages.pop()}"
    if len(members) <= NAMED_MAX:
        text += f" [{', '.join(sorted(_name(offering) for offering, _ in members))}]"
    advice = sorted({block.advice for _, block in members if block.advice})
    return f"{text} ({'; '.join(advice)})" if advice else text


def _name(offering: Offering) -> str:
    return f"{offering.instance_type} {offering.market} in {offering.zone}"


def _when(blocks: Iterable[Block]) -> str:
    kept = list(blocks)
    first = f"at {utc_text(min(block.until_ms for block in kept))}"
    return f"when a machine ends, or {first}" if any(block.awaits_room for block in kept) else first
