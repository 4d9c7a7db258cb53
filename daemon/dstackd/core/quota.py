"""How many machines a quota that EC2's refusals have taught allows. Law: pure; a quota only ever lowers what is asked for.

The policy has no servicequotas:*, so a limit is known only from the message of the error that it caused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dstackd.core.offering import Offering, quota_class


@dataclass(frozen=True, slots=True)
class LearntQuota:
    """What refusals have said of one market's quota class, believed until a time: the quota may have been raised."""

    until_ms: int
    limit_vcpus: int | None = None
    """vCPUs of all the account's machines together, where the error named it."""
    ask_max: int | None = None
    """Machines to ask for at once, where the error named no number: half of what was refused."""
    since_ms: int = 0
    """When it was learnt."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to ask for, and how many."""

    offering: Offering
    count: int


def quota_key(instance_type: str, market: str) -> str:
    """The name of the quota that a machine draws on: `spot/standard`, `on-demand/g`."""
    return f"{market}/{quota_class(instance_type)}"


def open_count(
    offering: Offering,
    *,
    wanted: int,
    live_vcpus: int,
    learnt: LearntQuota | None,
    asked: int = 0,
) -> int:
    """How many of `wanted` machines may be asked for. Under the same quota: `live_vcpus` of our live machines, and
    `asked` machines in intents of the same pass.
    """
    count = wanted
    if learnt is not None and learnt.ask_max is not None:
        count = min(count, learnt.ask_max - asked)
    if learnt is not None and learnt.limit_vcpus is not None:
        room = learnt.limit_vcpus - live_vcpus
        count = min(count, room // max(offering.vcpus, 1))
    return max(count, 0)


def vcpus_by_quota(
    machines: Iterable[tuple[str, str, int]], vcpus: Mapping[str, int]
) -> dict[str, int]:
    """Sum up vCPUs by quota key. `machines`: (instance type, market, how many); `vcpus`: of one machine of a type."""
    total: Counter[str] = Counter()
    for instance_type, market, count in machines:
        total[quota_key(instance_type, market)] += count * vcpus.get(instance_type, 0)
    return dict(total)
