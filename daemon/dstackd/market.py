"""What EC2 has refused lately. Law: in memory only; forgetting a block costs one call, never a machine.

A block grows with each repeat, up to BLOCK_MAX_S, and a success in its scope lifts it. A quota that a refusal has
taught lowers how many are asked for, until it is forgotten: it may have been raised meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from dstackd.core.launching import BATCH_MAX, Block, block_of
from dstackd.core.offering import Offering
from dstackd.core.phase import Reason
from dstackd.core.quota import Choice, LearntQuota, open_count, quota_key
from dstackd.core.shortage import Closed, shortage_text
from dstackd.core.waiting import Refusal
from dstackd.errors import BlockScope, CapacityShortage, CloudError, InvalidRequest

BLOCK_MAX_S = 900.0
QUOTA_BELIEVED_MS = 3_600_000
ROOM_LOOK_S = 30.0
"""Our own machines use a quota up: how often to look whether one has ended. It costs no call."""

_POSITION = {
    BlockScope.OFFERING: 0,
    BlockScope.QUOTA: 1,
    BlockScope.SUBNET: 2,
    BlockScope.MARKET: 3,
    BlockScope.REGION: 4,
}


class Asked(Protocol):
    """What a launch asked for: the request made from an offering."""

    @property
    def instance_type(self) -> str: ...
    @property
    def subnet_id(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def market(self) -> str: ...
    @property
    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Streak:
    """Refusals that follow each other."""

    since_ms: int
    repeats: int
    goes_on_until_ms: int
    """A refusal after it begins another streak."""


REFUSALS_MAX = 3


class MarketBlocks:
    """Blocks by key (`core.launching.block_keys`), and learnt quotas by theirs (`core.quota.quota_key`)."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}
        self._streaks: dict[str, _Streak] = {}
        self._quotas: dict[str, LearntQuota] = {}
        self._live_vcpus: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._refusal: Reason | None = None
        self._refused: set[str] = set()
        """Offerings whose request EC2 called wrong since the last success."""

    def current(self, now_ms: int) -> dict[str, Block]:
        """The blocks that still hold."""
        return {key: block for key, block in self._blocks.items() if now_ms < block.until_ms}

    def add(self, asked: Asked, error: CapacityShortage, *, now_ms: int) -> None:
        """Block what the shortage rules out, and learn the quota that it tells of."""
        key = _keys(asked)[_POSITION[error.scope]]
        self._add(key, error, block_s=error.block_s, now_ms=now_ms)
        if error.scope is BlockScope.QUOTA:
            self._learn(asked, error.limit_vcpus, now_ms=now_ms)

    def add_refusal(self, asked: Asked, error: CloudError, *, block_s: float, now_ms: int) -> None:
        """EC2 denies, or calls the request wrong.

        A wrong request may be wrong for this offering alone; REFUSALS_MAX different ones in a row mean that something
        is wrong with all of them, as a denial does: then every launch waits, and the operator is told.
        """
        is_invalid = isinstance(error, InvalidRequest)
        self._refusal = Reason.INVALID_LAUNCH if is_invalid else Reason.UNAUTHORIZED
        key = _keys(asked)[0]
        self._refused.add(key)
        if not is_invalid or len(self._refused) >= REFUSALS_MAX:
            key = "region:"
        self._add(key, error, block_s=block_s, now_ms=now_ms)

    def _add(self, key: str, error: CloudError, *, block_s: float, now_ms: int) -> None:
        streak = self._streaks.get(key)
        if streak is None or now_ms > streak.goes_on_until_ms:
            streak = _Streak(now_ms, 0, 0)
        bound_s = max(BLOCK_MAX_S, block_s)
        until_ms = now_ms + int(min(block_s * 2**streak.repeats, bound_s) * 1000)
        goes_on_until_ms = until_ms + int(bound_s * 1000)
        self._streaks[key] = _Streak(streak.since_ms, streak.repeats + 1, goes_on_until_ms)
        self._blocks[key] = Block(
            until_ms,
            error.explained,
            code=error.code,
            advice=error.advice,
            since_ms=streak.since_ms,
        )

    def _learn(self, asked: Asked, limit_vcpus: int | None, *, now_ms: int) -> None:
        key = quota_key(asked.instance_type, asked.market)
        until_ms = now_ms + QUOTA_BELIEVED_MS
        if limit_vcpus is not None:
            self._quotas[key] = LearntQuota(until_ms, limit_vcpus=limit_vcpus, since_ms=now_ms)
            return
        before = self._learnt(key, now_ms) or LearntQuota(until_ms, since_ms=now_ms)
        ask_max = max(min(asked.count, before.ask_max or asked.count) // 2, 1)
        self._quotas[key] = replace(before, until_ms=until_ms, ask_max=ask_max)

    def forget(self, asked: Asked) -> None:
        """A launch succeeded: what blocked it is history. A quota without a number is tried at twice as many."""
        for key in _keys(asked):
            self._blocks.pop(key, None)
            self._streaks.pop(key, None)
        self._refusal = None
        self._refused.clear()
        quota = quota_key(asked.instance_type, asked.market)
        learnt = self._quotas.get(quota)
        if learnt is not None and learnt.ask_max is not None and asked.count >= learnt.ask_max:
            doubled = learnt.ask_max * 2
            ask_max = None if doubled >= BATCH_MAX else doubled
            self._quotas[quota] = replace(learnt, ask_max=ask_max)

    def knows_limits(self, now_ms: int) -> bool:
        """Whether `note_live` has an influence: while no quota is known, nobody has to count machines."""
        return any(now_ms < learnt.until_ms for learnt in self._quotas.values())

    def note_live(self, vcpus: Mapping[str, int]) -> None:
        """Begin a pass: what our machines that are not seen gone and our open intents use (`core.quota.vcpus_by_quota`)."""
        self._live_vcpus = dict(vcpus)
        self._asked = {}

    def reserve(self, offering: Offering, count: int) -> None:
        """An intent for so many was committed after `note_live`."""
        key = quota_key(offering.instance_type, offering.market)
        self._live_vcpus[key] = self._live_vcpus.get(key, 0) + count * offering.vcpus
        self._asked[key] = self._asked.get(key, 0) + count

    def choose(self, offerings: Iterable[Offering], *, wanted: int, now_ms: int) -> Choice | None:
        """The first offering that is open, and how many of `wanted` may be asked of it (1 or more)."""
        blocks = self.current(now_ms)
        for offering in offerings:
            if block_of(offering, blocks, now_ms=now_ms) is None:
                count = self._room(offering, wanted=wanted, now_ms=now_ms)
                if count > 0:
                    return Choice(offering, count)
        return None

    def closed(self, offering: Offering, *, now_ms: int) -> Block | None:
        """What keeps the offering from being asked for; None: it is open."""
        block = block_of(offering, self._blocks, now_ms=now_ms)
        if block is None and self._room(offering, wanted=1, now_ms=now_ms) == 0:
            return self._used_up(offering, now_ms=now_ms)
        return block

    def summary(self, offerings: Iterable[Offering], *, now_ms: int) -> Refusal:
        """Why none of `offerings` is open, and when to look again."""
        closed: list[Closed] = [
            (offering, block)
            for offering in offerings
            if (block := self.closed(offering, now_ms=now_ms)) is not None
        ]
        if not closed:
            return Refusal(Reason.NO_CAPACITY, "the offerings have just opened again", now_ms)
        blocks = [block for _, block in closed]
        until_ms = min(block.until_ms for block in blocks)
        if any(block.awaits_room for block in blocks):
            until_ms = min(until_ms, now_ms + int(ROOM_LOOK_S * 1000))
        refused = self._refusal if "region:" in self.current(now_ms) else None
        return Refusal(refused or Reason.NO_CAPACITY, shortage_text(closed), until_ms)

    def _learnt(self, quota: str, now_ms: int) -> LearntQuota | None:
        learnt = self._quotas.get(quota)
        return None if learnt is None or now_ms >= learnt.until_ms else learnt

    def _room(self, offering: Offering, *, wanted: int, now_ms: int) -> int:
        quota = quota_key(offering.instance_type, offering.market)
        live, learnt = self._live_vcpus.get(quota, 0), self._learnt(quota, now_ms)
        return open_count(
            offering,
            wanted=wanted,
            live_vcpus=live,
            learnt=learnt,
            asked=self._asked.get(quota, 0),
        )

    def _used_up(self, offering: Offering, *, now_ms: int) -> Block | None:
        """As a block; without the count of what is in use, which would change the words with every machine."""
        quota = quota_key(offering.instance_type, offering.market)
        learnt = self._learnt(quota, now_ms)
        if learnt is None:
            return None
        limit = learnt.limit_vcpus
        fits = limit is None or offering.vcpus <= limit
        why = "our machines use it up" if fits else "this type needs more"
        message = f"the vCPU quota {quota} is {limit} and {why}"
        if limit is None:
            message = f"EC2 has refused to give more under the quota {quota}: only few are asked for at once"
        return Block(
            learnt.until_ms,
            f"VcpuQuotaUsedUp: {message} ({_RAISE})",
            code="VcpuQuotaUsedUp",
            advice=_RAISE,
            since_ms=learnt.since_ms,
            awaits_room=fits,
        )


_RAISE = "ask for a higher quota under Service Quotas > Amazon EC2"


def _keys(asked: Asked) -> tuple[str, str, str, str, str]:
    place = asked.subnet_id or asked.zone
    return (
        f"offering:{asked.instance_type}/{place}/{asked.market}",
        f"quota:{quota_key(asked.instance_type, asked.market)}",
        f"subnet:{asked.subnet_id}",
        f"market:{asked.market}",
        "region:",
    )
