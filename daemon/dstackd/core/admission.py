"""Which waiting jobs may have a machine now. Law: no admission takes more than a bound or a day's budget leaves.

An admission is counted at once, so a pass cannot admit more together than one by one. The worst case of a
job is reserved before its launch: what the day has cost, what is reserved and the new worst case stay
within the budget together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from dstackd.core.bounds import Bounds
from dstackd.core.budget import day_end_ms, exceeds, text_of_exhausted, worst_case_usd
from dstackd.core.limits import Limits
from dstackd.core.phase import Reason
from dstackd.core.possible import impossible
from dstackd.core.scheduling import NOTHING, Candidate, Holding, Usage, turns
from dstackd.core.waiting import Wait

STAYS_DUE_S = 0.0
"""A job that waits for room is looked at in each pass: else one that came later, but is due, would overtake it."""
MONEY_RETRY_S = 60.0
"""Money comes back when a machine goes before its worst case."""


class HoldsUp(Enum):
    """Who may not pass a job that is refused."""

    NOBODY = auto()
    ITS_PROJECT = auto()
    EVERYBODY = auto()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a job may not have a machine now."""

    wait: Wait
    holds_up: HoldsUp = HoldsUp.NOBODY
    bound: str = ""
    """The bound whose room it waits for, with its value."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a pass may launch, in the order of the turns, and what the others wait for."""

    admitted: tuple[Candidate, ...]
    waits: tuple[tuple[Candidate, Wait], ...]


def select_jobs(
    candidates: Iterable[Candidate], usage: Usage, *, bounds: Bounds, limits: Limits, now_ms: int
) -> Selection:
    """Go through the candidates in their turns and admit each that fits beside those before it.

    Room (machines, vCPUs, launches a minute) that one waits for is not given to those behind it, so that a
    large job does not wait for ever. Money is: what is spent does not come back before midnight.
    """
    held, total = dict(usage.projects), usage.total
    launched = usage.launched_last_minute
    awaited: dict[str, str] = {}
    awaited_by_all = ""
    admitted: list[Candidate] = []
    waits: list[tuple[Candidate, Wait]] = []
    for each in turns(candidates, held, weights=bounds.weights):
        project = each.job.project
        own = held.get(project, NOTHING)
        state = Standing(own=own, total=total, launched_last_minute=launched)
        refused = admit(each, state, bounds=bounds, limits=limits, now_ms=now_ms)
        ahead = awaited_by_all or awaited.get(project, "")
        if ahead and (refused is None or refused.holds_up is not HoldsUp.NOBODY):
            waits.append((each, _for_room(f"{ahead}; jobs that come first wait for it, too")))
        elif refused is not None:
            waits.append((each, refused.wait))
            if refused.holds_up is HoldsUp.EVERYBODY:
                awaited_by_all = refused.bound
            elif refused.holds_up is HoldsUp.ITS_PROJECT:
                awaited[project] = refused.bound
        else:
            admitted.append(each)
            taken = taken_by(each, limits=limits)
            held[project], total = own + taken, total + taken
            launched += each.machine is None
    return Selection(tuple(admitted), tuple(waits))


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in use when a candidate's turn comes."""

    own: Holding
    """Of the candidate's project."""
    total: Holding
    launched_last_minute: int = 0


def taken_by(candidate: Candidate, *, limits: Limits) -> Holding:
    """What a candidate holds once it is admitted; its worst case is 0 where there is no bound."""
    price_usd_h = candidate.offering.price_usd_h
    worst_usd = worst_case_usd(candidate.job.spec, price_usd_h=price_usd_h, limits=limits)
    if candidate.machine is not None:  # whoever waited with it holds it already
        return Holding(reserved_usd=worst_usd or 0.0)
    return Holding(1, candidate.offering.vcpus, 0.0, worst_usd or 0.0)


def admit(
    candidate: Candidate, standing: Standing, *, bounds: Bounds, limits: Limits, now_ms: int
) -> Refused | None:
    """None if the candidate may have its offering now.

    What it could never have comes first, then money, then room: only who has everything but room makes
    others wait for that room.
    """
    never = impossible(candidate, bounds=bounds, limits=limits)
    if never is not None:
        return Refused(never)
    worst_usd = taken_by(candidate, limits=limits).reserved_usd
    return _without_money(
        candidate, standing, worst_usd, bounds=bounds, now_ms=now_ms
    ) or _without_room(candidate, standing, bounds=bounds)


def _without_money(
    candidate: Candidate, standing: Standing, worst_usd: float, *, bounds: Bounds, now_ms: int
) -> Refused | None:
    for day in bounds.budgets_of(candidate.job.project):
        holding = standing.total if day.shared else standing.own
        if exceeds(holding.spent_usd + holding.reserved_usd + worst_usd, day.usd):
            message = text_of_exhausted(
                candidate.job,
                day.name,
                budget_usd=day.usd,
                worst_usd=worst_usd,
                spent_usd=holding.spent_usd,
                reserved_usd=holding.reserved_usd,
                now_ms=now_ms,
            )
            retry_s = min(MONEY_RETRY_S, (day_end_ms(now_ms) - now_ms) / 1000)
            return Refused(Wait(None, Reason.BUDGET_EXHAUSTED, message, retry_s=retry_s))
    return None


@dataclass(frozen=True, slots=True)
class Room:
    """A bound of the operator's, what is used of it, and what a candidate would take."""

    name: str
    limit: int
    used: int
    wanted: int
    holds_up: HoldsUp
    full: str = "as many are in use"


def _without_room(candidate: Candidate, standing: Standing, *, bounds: Bounds) -> Refused | None:
    rooms = () if candidate.machine is not None else rooms_of(candidate, standing, bounds)
    for room in rooms:
        if 0 < room.limit < room.used + room.wanted:
            bound = f"{room.name} is {room.limit}"
            short = f"fewer than the {room.wanted} that the job needs are free"
            message = f"{bound}, and {room.full if room.wanted == 1 else short}"
            return Refused(_for_room(message), room.holds_up, bound)
    return None


def rooms_of(candidate: Candidate, standing: Standing, bounds: Bounds) -> Iterator[Room]:
    """The project's first: room for everybody would not help a job that its project holds back."""
    project, vcpus = candidate.job.project, candidate.offering.vcpus
    narrow, own, total = bounds.of(project), standing.own, standing.total
    its, everybody = HoldsUp.ITS_PROJECT, HoldsUp.EVERYBODY
    of_project = f"of project {project}"
    yield Room(f"max_machines {of_project}", narrow.max_machines, own.machines, 1, its)
    yield Room(f"max_vcpus {of_project}", narrow.max_vcpus, own.vcpus, vcpus, its)
    yield Room("max_machines", bounds.max_machines, total.machines, 1, everybody)
    yield Room("max_vcpus", bounds.max_vcpus, total.vcpus, vcpus, everybody)
    yield Room(
        "launches_per_minute",
        bounds.launches_per_minute,
        standing.launched_last_minute,
        1,
        everybody,
        "as many machines were launched within the last minute",
    )


def _for_room(message: str) -> Wait:
    return Wait(None, Reason.LIMIT_REACHED, message, retry_s=STAYS_DUE_S)
