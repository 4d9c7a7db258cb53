"""What a queued job waits for, as the planner would see it now. Law: the planner's own functions judge; here their inputs and answers
are put side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dstackd.core.admission import Room, Standing, rooms_of, select_jobs, taken_by
from dstackd.core.bounds import Bounds
from dstackd.core.instance import Market
from dstackd.core.job import Job
from dstackd.core.launching import Block
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.core.possible import possible_offerings
from dstackd.core.reuse import IdleMachine, why_unfit
from dstackd.core.scheduling import NOTHING, Candidate, Usage, order_jobs
from dstackd.core.waiting import Wait

OFFERINGS_MAX = 5
IDLE_MAX = 5


@dataclass(frozen=True, slots=True)
class OfferingLine:
    """One that fits, in the order of asking; `closed_until_ms` None: it is open."""

    instance_type: str
    market: Market
    zone: str
    price_usd_h: float
    closed_until_ms: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class BoundLine:
    """A bound of the operator's that is set. `wanted`: what the job would take. `unit`: `machines`, `vCPUs`, `USD`."""

    key: str
    limit: float
    used: float
    wanted: float
    unit: str
    reserved: float = 0.0
    """The part of `used` that is not spent yet."""

    @property
    def holds(self) -> bool:
        """Whether it leaves no room for the job."""
        return self.used + self.wanted > self.limit + 1e-9


@dataclass(frozen=True, slots=True)
class Ahead:
    """So many jobs come first, and why."""

    count: int
    why: str


@dataclass(frozen=True, slots=True)
class IdleLine:
    """An idle machine, and why the job does not get it; empty: it fits."""

    instance_id: str
    instance_type: str
    until_ms: int
    why_not: str


@dataclass(frozen=True, slots=True)
class QueueView:
    """`waits`: what the planner would say of the job now; None: it would launch it at its next pass."""

    waits: Wait | None
    offerings: tuple[OfferingLine, ...] = ()
    """The first ones."""
    offerings_total: int = 0
    open_total: int = 0
    too_dear: int = 0
    """Offerings that fit and that a budget or a bound on vCPUs rules out."""
    would_get: str = ""
    """The machine it would be launched on, if nothing else held it."""
    bounds: tuple[BoundLine, ...] = ()
    ahead: tuple[Ahead, ...] = ()
    ahead_complete: bool = True
    """False: there are more jobs than were looked at."""
    idle: tuple[IdleLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """The offerings of the job's plan, in the order of asking; `closed` says what keeps one from being asked for."""

    offerings: Sequence[Offering]
    closed: Callable[[Offering], Block | None]
    why_none: str = ""


@dataclass(frozen=True, slots=True)
class Others:
    """The jobs beside it that could be launched now, and whether these are all."""

    candidates: tuple[Candidate, ...] = ()
    complete: bool = True


def queue_view(
    job: Job,
    planned: Planned,
    others: Others,
    idle: Iterable[IdleMachine],
    usage: Usage,
    *,
    refused: Callable[[Sequence[Offering]], Wait],
    bounds: Bounds,
    limits: Limits,
    now_ms: int,
) -> QueueView:
    """Everything that decides whether the job is launched at the next pass. `refused` says what a job waits for when none of
    the offerings is open.
    """
    possible, never = possible_offerings(
        job, planned.offerings, spent_usd=job.spent_usd, bounds=bounds, limits=limits
    )
    closed = [(each, planned.closed(each)) for each in planned.offerings]
    is_open = {offering.key for offering, block in closed if block is None}
    first = next((each for each in possible if each.key in is_open), None)
    chosen = first or next(iter(possible or planned.offerings), None)
    candidate = None if chosen is None else Candidate(job, chosen, job.spent_usd)
    waits = never
    if waits is None and first is None and planned.offerings:
        waits = refused(possible)
    everybody = [*others.candidates, *([candidate] if candidate is not None else [])]
    if waits is None and candidate is not None:
        selection = select_jobs(everybody, usage, bounds=bounds, limits=limits, now_ms=now_ms)
        told = [wait for each, wait in selection.waits if each.job.id == job.id]
        waits = told[0] if told else None
    return QueueView(
        waits=waits,
        offerings=tuple(_line(*each) for each in closed[:OFFERINGS_MAX]),
        offerings_total=len(closed),
        open_total=len(is_open),
        too_dear=len(planned.offerings) - len(possible),
        would_get=""
        if chosen is None
        else f"{chosen.instance_type} ({chosen.market}) in {chosen.zone}",
        bounds=() if candidate is None else tuple(_bounds(candidate, usage, bounds, limits)),
        ahead=() if candidate is None else _ahead(candidate, everybody, usage, bounds),
        ahead_complete=others.complete,
        idle=tuple(
            IdleLine(
                each.instance_id,
                each.instance_type,
                each.until_ms,
                why_unfit(job, each, now_ms=now_ms),
            )
            for each in list(idle)[:IDLE_MAX]
        ),
    )


def _line(offering: Offering, block: Block | None) -> OfferingLine:
    return OfferingLine(
        offering.instance_type,
        offering.market,
        offering.zone,
        round(offering.price_usd_h, 6),
        None if block is None else block.until_ms,
        "" if block is None else block.message,
    )


def _bounds(
    candidate: Candidate, usage: Usage, bounds: Bounds, limits: Limits
) -> Iterable[BoundLine]:
    """Those that are set, with what is in use before anybody else gets something at the next pass."""
    project = candidate.job.project
    own = usage.projects.get(project, NOTHING)
    standing = Standing(own, usage.total, usage.launched_last_minute)
    for room in rooms_of(candidate, standing, bounds):
        if room.limit > 0:
            yield BoundLine(_key(room, project), room.limit, room.used, room.wanted, _unit(room))
    worst_usd = taken_by(candidate, limits=limits).reserved_usd
    for day in bounds.budgets_of(project):
        holding = usage.total if day.shared else own
        used_usd = holding.spent_usd + holding.reserved_usd
        section = "scheduling" if day.shared else f"projects.{project}"
        yield BoundLine(
            f"{section}.budget_per_day_usd",
            day.usd,
            used_usd,
            worst_usd,
            "USD",
            reserved=holding.reserved_usd,
        )
    if candidate.job.spec.budget is not None:
        yield BoundLine("budget", candidate.job.spec.budget, candidate.spent_usd, worst_usd, "USD")


def _key(room: Room, project: str) -> str:
    """As the configuration writes it."""
    name, _, own = room.name.partition(" of project ")
    return f"projects.{project}.{name}" if own else f"scheduling.{name}"


def _unit(room: Room) -> str:
    if "vcpus" in room.name:
        return "vCPUs"
    return "launches within 60 s" if "per_minute" in room.name else "machines"


def _ahead(
    candidate: Candidate, everybody: Sequence[Candidate], usage: Usage, bounds: Bounds
) -> tuple[Ahead, ...]:
    """Who gets a machine before the job while there are enough, and by which rule."""
    mine = candidate.job
    counts: Counter[str] = Counter()
    for each in order_jobs(everybody, usage, weights=bounds.weights):
        job = each.job
        if job.id == mine.id:
            break
        if job.priority > mine.priority:
            counts["of higher priority"] += 1
        elif job.project == mine.project:
            counts["older, of the same project"] += 1
        else:
            counts[f"of project {job.project}, whose share is due first"] += 1
    return tuple(Ahead(count, why) for why, count in counts.items())
