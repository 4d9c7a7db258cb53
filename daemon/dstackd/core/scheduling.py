"""Whose turn it is. Law: priority first, then the project that holds least for its weight, then age; pure, and total.

Weighted max-min fairness by progressive filling: within a priority each turn goes to the project that
holds the fewest vCPUs for its weight, counting what it holds already and what this pass has given it.
Where vCPUs are equal, machines decide, and then the age of the oldest waiting job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from types import MappingProxyType

from dstackd.core.job import Job
from dstackd.core.offering import Offering
from dstackd.core.reuse import IdleMachine


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could be launched now, with the offering that it would get."""

    job: Job
    offering: Offering
    spent_usd: float = 0.0
    """What the job's earlier attempts have cost."""
    machine: IdleMachine | None = None
    """The idle machine that it would get; it is there already, so it takes no room."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What attempts that are not over hold, and what they and those that ended today take of the day's money."""

    machines: int = 0
    vcpus: int = 0
    spent_usd: float = 0.0
    """Cost since midnight UTC, of attempts that are over and of those that are not."""
    reserved_usd: float = 0.0
    """The part of the worst case that attempts which are not over have not spent yet."""

    def __add__(self, other: Holding) -> Holding:
        return Holding(
            self.machines + other.machines,
            self.vcpus + other.vcpus,
            self.spent_usd + other.spent_usd,
            self.reserved_usd + other.reserved_usd,
        )


NOTHING = Holding()


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in use at the start of a pass; a project without an entry holds nothing."""

    projects: Mapping[str, Holding] = field(default_factory=lambda: MappingProxyType({}))
    launched_last_minute: int = 0
    """Machines whose intents were committed within the last 60 s."""

    @property
    def total(self) -> Holding:
        """Of all projects together."""
        return sum(self.projects.values(), start=NOTHING)


def order_jobs(
    candidates: Iterable[Candidate],
    usage: Usage,
    *,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> list[Candidate]:
    """All candidates in the order in which they get machines while there are enough. O(n log projects + n log n)."""
    held = dict(usage.projects)
    ordered = []
    for candidate in turns(candidates, held, weights=weights):
        ordered.append(candidate)
        project = candidate.job.project
        held[project] = held.get(project, NOTHING) + Holding(1, candidate.offering.vcpus)
    return ordered


def turns(
    candidates: Iterable[Candidate],
    held: Mapping[str, Holding],
    *,
    weights: Mapping[str, float],
) -> Iterator[Candidate]:
    """Candidates one by one. The caller adds what one is given to `held` before it asks for the next.

    So a job that is refused is not held against its project. A project without a weight has 1.
    """
    levels: dict[int, dict[str, deque[Candidate]]] = {}
    for each in sorted(candidates, key=lambda candidate: candidate.job.seq):
        lanes = levels.setdefault(each.job.priority, {})
        lanes.setdefault(each.job.project, deque()).append(each)
    for priority in sorted(levels, reverse=True):
        yield from _by_share(levels[priority], held, weights)


_Turn = tuple[float, float, int, str]


def _by_share(
    lanes: Mapping[str, deque[Candidate]],
    held: Mapping[str, Holding],
    weights: Mapping[str, float],
) -> Iterator[Candidate]:
    def turn(project: str) -> _Turn:
        holding, weight = held.get(project, NOTHING), weights.get(project, 1.0)
        return (
            holding.vcpus / weight,
            holding.machines / weight,
            lanes[project][0].job.seq,
            project,
        )

    heap = [turn(project) for project in lanes]
    heapify(heap)
    while heap:
        project = heappop(heap)[-1]
        yield lanes[project].popleft()
        if lanes[project]:
            heappush(heap, turn(project))
