"""What EC2 has refused lately. Law: in memory only; forgetting a block costs one call, never a machine.

A block grows with each repeat, up to BLOCK_MAX_S, and a success in its scope lifts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dstackd.core.launching import Block, block_keys
from dstackd.core.offering import Offering, quota_class
from dstackd.core.phase import Reason
from dstackd.core.waiting import Refusal
from dstackd.errors import BlockScope, CapacityShortage, CloudError, InvalidRequest

BLOCK_MAX_S = 900.0
SHOWN_MAX = 3

_POSITION = {
    BlockScope.OFFERING: 0,
    BlockScope.QUOTA: 1,
    BlockScope.SUBNET: 2,
    BlockScope.MARKET: 3,
    BlockScope.REGION: 4,
}


class Asked(Protocol):
    """What a launch asked for: an offering, or the request made from one."""

    @property
    def instance_type(self) -> str: ...
    @property
    def subnet_id(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def market(self) -> object: ...


class MarketBlocks:
    """Blocks by key (`core.launching.block_keys`)."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}
        self._repeats: dict[str, int] = {}
        self._refusal: Reason | None = None

    def current(self, now_ms: int) -> dict[str, Block]:
        """The blocks that still hold."""
        return {key: block for key, block in self._blocks.items() if now_ms < block.until_ms}

    def add(self, asked: Asked, error: CapacityShortage, *, now_ms: int) -> None:
        """Block what the shortage rules out."""
        key = _keys(asked)[_POSITION[error.scope]]
        self._add(key, error, block_s=error.block_s, now_ms=now_ms)

    def add_refusal(self, error: CloudError, *, block_s: float, now_ms: int) -> None:
        """EC2 denies, or calls the request wrong: every launch waits, the operator is told."""
        self._refusal = (
            Reason.INVALID_LAUNCH if isinstance(error, InvalidRequest) else Reason.UNAUTHORIZED
        )
        self._add("region:", error, block_s=block_s, now_ms=now_ms)

    def _add(self, key: str, error: CloudError, *, block_s: float, now_ms: int) -> None:
        repeats = self._repeats.get(key, 0)
        self._repeats[key] = repeats + 1
        until_ms = now_ms + int(min(block_s * 2**repeats, max(BLOCK_MAX_S, block_s)) * 1000)
        self._blocks[key] = Block(until_ms, error.explained)

    def forget(self, asked: Asked) -> None:
        """A launch succeeded: what blocked it is history."""
        for key in _keys(asked):
            self._blocks.pop(key, None)
            self._repeats.pop(key, None)
        self._refusal = None

    def summary(self, offerings: Iterable[Offering], *, now_ms: int) -> Refusal:
        """Why none of `offerings` is open, and when the first will be again."""
        current = self.current(now_ms)
        opens_ms: list[int] = []
        hits: dict[str, Block] = {}
        for offering in offerings:
            own = {key: current[key] for key in block_keys(offering) if key in current}
            hits |= own
            opens_ms.append(max(block.until_ms for block in own.values()))
        shown = [
            f"{key.partition(':')[2] or 'every launch'}: {block.message}"
            for key, block in list(hits.items())[:SHOWN_MAX]
        ]
        more = f" and {len(hits) - SHOWN_MAX} more" if len(hits) > SHOWN_MAX else ""
        until_ms = min(opens_ms)
        reason = self._refusal if "region:" in hits and self._refusal else Reason.NO_CAPACITY
        return Refusal(reason, "; ".join(shown) + more, until_ms)


def _keys(asked: Asked) -> tuple[str, str, str, str, str]:
    place = asked.subnet_id or asked.zone
    return (
        f"offering:{asked.instance_type}/{place}/{asked.market}",
        f"quota:{asked.market}/{quota_class(asked.instance_type)}",
        f"subnet:{asked.subnet_id}",
        f"market:{asked.market}",
        "region:",
    )
