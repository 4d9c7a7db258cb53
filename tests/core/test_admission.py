"""Which jobs may have a machine: bounds and budgets hold for every sequence of admissions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.core.admission import Selection, select_jobs, taken_by
from dstackd.core.bounds import Bounds, ProjectBounds
from dstackd.core.budget import GOING_S, day_end_ms, worst_case_s, worst_case_usd
from dstackd.core.instance import Market
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.core.possible import impossible, possible_offerings
from dstackd.core.scheduling import NOTHING, Candidate, Holding, Usage, order_jobs
from dstackd.core.waiting import Wait
from dstackd.spec.model import JobSpec
from tests.builders import NOW_MS, a_job

LIMITS = Limits()
PROJECTS = ("lab", "web", "ops")
HOUR = JobSpec(commands=("true",), max_duration_s=3600)
WORST_H = (600 + 1800 + 3600 + 30 + 300 + 3600 + GOING_S) / 3600
"""Of HOUR, with the default limits."""


def offering(*, vcpus: int = 2, price_usd_h: float = 1.0) -> Offering:
    """One of that size and price."""
    return Offering("m5.large", "subnet-a", "a", Market.SPOT, "x86_64", price_usd_h, vcpus=vcpus)


def candidate(
    seq: int,
    project: str = "lab",
    *,
    spec: JobSpec = HOUR,
    priority: int = 0,
    vcpus: int = 2,
    price_usd_h: float = 1.0,
    spent_usd: float = 0.0,
) -> Candidate:
    """A queued job with an offering."""
    job = a_job(
        id=f"job-{seq}",
        seq=seq,
        spec=spec,
        phase=Phase.QUEUED,
        project=project,
        priority=priority,
    )
    return Candidate(job, offering(vcpus=vcpus, price_usd_h=price_usd_h), spent_usd)


def select(queue: list[Candidate], bounds: Bounds, usage: Usage | None = None) -> Selection:
    """What a pass decides."""
    return select_jobs(queue, usage or Usage(), bounds=bounds, limits=LIMITS, now_ms=NOW_MS)


def only_wait(queue: list[Candidate], bounds: Bounds, usage: Usage | None = None) -> Wait:
    """Of the one job that is not admitted."""
    [(_, wait)] = select(queue, bounds, usage).waits
    return wait


def bounds_of(*, total: bool = True) -> st.SearchStrategy[Bounds]:
    """Bounds, each of them set or not."""
    count, usd = st.sampled_from([0, 1, 3, 8, 100]), st.sampled_from([0.0, 3.0, 20.0, 500.0])
    own = st.builds(
        ProjectBounds,
        count,
        count,
        usd,
        st.sampled_from([0.5, 1.0, 2.0]),
    )
    projects = st.dictionaries(st.sampled_from(PROJECTS), own)
    nothing = st.just(0)
    return st.builds(
        Bounds,
        count if total else nothing,
        count if total else nothing,
        count if total else nothing,
        usd if total else st.just(0.0),
        projects,
    )


@st.composite
def queues(draw: st.DrawFn) -> list[Candidate]:
    """Waiting jobs of every kind, those without an end and those with a budget of their own included."""
    found = []
    for seq in range(draw(st.integers(0, 25))):
        spec = replace(
            HOUR,
            max_duration_s=draw(st.sampled_from([60, 3600, 36_000, None])),
            budget=draw(st.sampled_from([None, None, 2.0, 50.0])),
        )
        found.append(
            candidate(
                seq,
                draw(st.sampled_from(PROJECTS)),
                spec=spec,
                priority=draw(st.integers(0, 1)),
                vcpus=draw(st.sampled_from([1, 2, 8])),
                price_usd_h=draw(st.sampled_from([0.05, 0.5, 2.0])),
                spent_usd=draw(st.sampled_from([0.0, 1.5])),
            )
        )
    return found


def within(bounds: Bounds, usage: Usage) -> bool:
    """Whether everything that is in use is allowed."""
    total = usage.total

    def fits(used: float, limit: float) -> bool:
        return limit == 0 or used <= limit + 1e-6

    own = [
        fits(held.machines, bounds.of(name).max_machines)
        and fits(held.vcpus, bounds.of(name).max_vcpus)
        and fits(held.spent_usd + held.reserved_usd, bounds.of(name).budget_per_day_usd)
        for name, held in usage.projects.items()
    ]
    return (
        all(own)
        and fits(total.machines, bounds.max_machines)
        and fits(total.vcpus, bounds.max_vcpus)
        and fits(total.spent_usd + total.reserved_usd, bounds.budget_per_day_usd)
        and fits(usage.launched_last_minute, bounds.launches_per_minute)
    )


@settings(deadline=None)
@given(bounds_of(), st.lists(queues(), max_size=4), st.data())
def test_no_sequence_of_passes_exceeds_a_bound(
    bounds: Bounds, passes: list[list[Candidate]], drawn: st.DataObject
) -> None:
    """Whatever comes, runs, costs and ends: machines, vCPUs, launches and money stay within every bound."""
    held: dict[str, Holding] = {}
    running: list[Candidate] = []
    for queue in passes:
        usage = Usage(held)
        selection = select(queue, bounds, usage)
        assert len(selection.admitted) + len(selection.waits) == len(queue)
        for each in selection.admitted:
            own = held.get(each.job.project, NOTHING)
            held[each.job.project] = own + taken_by(each, limits=LIMITS)
            running.append(each)
        assert within(bounds, Usage(held, len(selection.admitted)))
        for each in running[: drawn.draw(st.integers(0, len(running)))]:
            _ended(held, each, drawn.draw(st.floats(0, 1)))
            running.remove(each)
        assert within(bounds, Usage(held))


def _ended(held: dict[str, Holding], each: Candidate, part: float) -> None:
    """It has cost a part of its worst case."""
    taken = taken_by(each, limits=LIMITS)
    own = held[each.job.project]
    held[each.job.project] = Holding(
        own.machines - 1,
        own.vcpus - taken.vcpus,
        own.spent_usd + part * taken.reserved_usd,
        own.reserved_usd - taken.reserved_usd,
    )


@settings(deadline=None)
@given(queues())
def test_without_bounds_everybody_goes_in_the_order_of_the_turns(queue: list[Candidate]) -> None:
    """Except those that break their own budget, which fail."""
    selection = select(queue, Bounds())
    failing = [each for each, _ in selection.waits]
    assert all(
        (wait.phase, wait.reason) == (Phase.FAILED, Reason.BUDGET_EXHAUSTED)
        for _, wait in selection.waits
    )
    assert all(each.job.spec.budget is not None for each in failing)
    rest = [each for each in queue if each not in failing]
    assert list(selection.admitted) == order_jobs(rest, Usage())


@settings(deadline=None)
@given(bounds_of(), queues())
def test_whoever_waits_is_told_why_and_when(bounds: Bounds, queue: list[Candidate]) -> None:
    """Each reason names what it waits for, and a time for the next look; only a job's own budget ends it."""
    for each, wait in select(queue, bounds).waits:
        assert wait.reason in {Reason.LIMIT_REACHED, Reason.BUDGET_EXHAUSTED}
        assert (wait.phase is None) == (wait.retry_s is not None)
        assert wait.phase is None or each.job.spec.budget is not None
        assert any(word in wait.message for word in ("max_", "budget", "launches_per_minute"))


@given(st.integers(1, 20), st.integers(0, 20), st.sampled_from(["lab", "web"]))
def test_nobody_gets_more_than_its_share_and_one(room: int, held: int, rich: str) -> None:
    """With room for fewer than wait, a project has at most one job more than another that still waits, or gets nothing."""
    queue = [candidate(seq, "lab" if seq % 3 else "web") for seq in range(60)]
    usage = Usage({rich: Holding(held, 2 * held)})
    admitted = select(queue, Bounds(max_machines=held + room), usage).admitted
    assert len(admitted) == room
    got = {name: sum(each.job.project == name for each in admitted) for name in ("lab", "web")}
    poor = "web" if rich == "lab" else "lab"
    waiting = {name: sum(each.job.project == name for each in queue) - got[name] for name in got}
    if waiting[poor]:
        assert got[rich] == 0 or got[rich] + held <= got[poor] + 1
    if waiting[rich]:
        assert got[poor] <= got[rich] + held + 1


def test_a_large_job_is_not_overtaken() -> None:
    """Room that it waits for is not given to smaller jobs behind it, of any project."""
    queue = [candidate(1, vcpus=8), candidate(2, "web", vcpus=2)]
    usage = Usage({"ops": Holding(1, 4)})
    selection = select(queue, Bounds(max_vcpus=10), usage)
    # web holds as little as lab, and the older one comes first
    assert selection.admitted == ()
    first, second = (wait for _, wait in selection.waits)
    assert first.message == "max_vcpus is 10, and fewer than the 8 that the job needs are free"
    assert second.message == "max_vcpus is 10; jobs that come first wait for it, too"
    assert {first.retry_s, second.retry_s} == {0.0}


def test_a_project_at_its_bound_holds_nobody_else_up() -> None:
    """Its own jobs wait in their order, those of others go."""
    queue = [candidate(1), candidate(2), candidate(3, "web"), candidate(4, "web")]
    bounds = Bounds(projects={"lab": ProjectBounds(max_machines=1)})
    selection = select(queue, bounds)
    assert {each.job.seq for each in selection.admitted} == {1, 3, 4}
    [(each, wait)] = selection.waits
    assert each.job.seq == 2
    assert wait.message == "max_machines of project lab is 1, and as many are in use"


def test_what_can_never_start_holds_nobody_up() -> None:
    """It is told what would help, and those behind it go."""
    queue = [candidate(1, vcpus=96), candidate(2)]
    selection = select(queue, Bounds(max_vcpus=64))
    assert [each.job.seq for each in selection.admitted] == [2]
    [(_, wait)] = selection.waits
    assert wait.message == (
        "m5.large has 96 vCPUs and max_vcpus is 64; ask for fewer cpu, or have the bound raised"
    )


def test_the_launch_rate_is_of_machines_in_a_minute() -> None:
    """What was launched within the last minute counts, whether or not it is still there."""
    queue = [candidate(seq) for seq in range(5)]
    selection = select(queue, Bounds(launches_per_minute=10), Usage(launched_last_minute=7))
    assert len(selection.admitted) == 3
    assert selection.waits[0][1].message == (
        "launches_per_minute is 10, and as many machines were launched within the last minute"
    )


def test_the_worst_case_is_every_bound_at_once() -> None:
    """Boot, max_duration, grace, margin, upload and the way out, at the price of the offering."""
    assert worst_case_s(HOUR, limits=LIMITS) == WORST_H * 3600
    assert worst_case_usd(HOUR, price_usd_h=2.0, limits=LIMITS) == pytest.approx(2 * WORST_H)
    assert worst_case_s(replace(HOUR, max_duration_s=None), limits=LIMITS) is None


def test_the_days_money_is_shared() -> None:
    """What is spent, what is reserved and the worst case together stay within the day's budget; it says when it is over."""
    usage = Usage({"web": Holding(1, 2, spent_usd=4.0, reserved_usd=3.5)})
    assert select([candidate(1)], Bounds(budget_per_day_usd=7.5 + WORST_H), usage).waits == ()
    wait = only_wait([candidate(1)], Bounds(budget_per_day_usd=9.0), usage)
    assert (wait.phase, wait.reason, wait.retry_s) == (None, Reason.BUDGET_EXHAUSTED, 60.0)
    assert "budget_per_day_usd is 9.00 and the job may cost up to 2.79 USD" in wait.message
    assert "4.00 spent and 3.50 reserved at " in wait.message
    assert "00:00 UTC" in wait.message


def test_a_projects_money_is_its_own() -> None:
    """Another project's spending does not count against it, and cheaper jobs may still go."""
    bounds = Bounds(projects={"lab": ProjectBounds(budget_per_day_usd=3.0)})
    usage = Usage({"web": Holding(spent_usd=100.0), "lab": Holding(spent_usd=1.5)})
    queue = [candidate(1), candidate(2, price_usd_h=0.1)]
    selection = select(queue, bounds, usage)
    assert [each.job.seq for each in selection.admitted] == [2]
    assert "budget_per_day_usd of project lab is 3.00" in selection.waits[0][1].message


def test_at_midnight_the_waiting_jobs_are_due() -> None:
    """No job sleeps past the moment at which the money is there again."""
    usage = Usage({"lab": Holding(spent_usd=9.0)})
    late_ms = day_end_ms(NOW_MS) - 20_000
    selection = select_jobs(
        [candidate(1)], usage, bounds=Bounds(budget_per_day_usd=10), limits=LIMITS, now_ms=late_ms
    )
    assert selection.waits[0][1].retry_s == 20.0


def test_a_waiting_job_is_not_told_new_figures_all_the_time() -> None:
    """The reason stays word for word until the day, the budget or the price changes, so it leaves one event."""
    usage = Usage({"lab": Holding(spent_usd=9.0)})
    bounds = Bounds(budget_per_day_usd=10)
    told = only_wait([candidate(1)], bounds, usage)
    waiting = replace(candidate(1).job, reason=told.reason, message=told.message)
    later = Usage({"lab": Holding(spent_usd=9.5)})
    again = only_wait([replace(candidate(1), job=waiting)], bounds, later)
    assert again == told
    raised = only_wait([replace(candidate(1), job=waiting)], Bounds(budget_per_day_usd=11), later)
    assert "9.50 spent" in raised.message


def test_without_an_end_no_budget_can_be_kept() -> None:
    """The job waits, however much money there is, and is told to set max_duration."""
    endless = candidate(1, spec=replace(HOUR, max_duration_s=None))
    wait = only_wait([endless], Bounds(budget_per_day_usd=1e6))
    assert (wait.phase, wait.reason) == (None, Reason.BUDGET_EXHAUSTED)
    assert "max_duration set" in wait.message
    assert select([endless], Bounds(max_machines=1)).waits == ()


def test_a_job_over_its_own_budget_fails() -> None:
    """What its earlier attempts have cost counts, and the message says what would help."""
    spec = replace(HOUR, budget=3.0)
    assert select([candidate(1, spec=spec)], Bounds()).waits == ()
    wait = only_wait([candidate(1, spec=spec, spent_usd=1.0)], Bounds())
    assert (wait.phase, wait.reason) == (Phase.FAILED, Reason.BUDGET_EXHAUSTED)
    assert wait.message == (
        "the job's budget is 3.00 USD; 1.00 USD are spent and another attempt may cost up to 2.79 USD "
        "on m5.large (spot); lower max_duration, allow cheaper instance_types, or raise budget"
    )


@settings(deadline=None)
@given(bounds_of(), st.lists(st.floats(0.01, 50), min_size=1, max_size=8), st.data())
def test_possible_offerings_are_those_that_are_not_impossible(
    bounds: Bounds, prices: list[float], drawn: st.DataObject
) -> None:
    """In their order, all of them and no other; and where none is left, why."""
    budget = drawn.draw(st.sampled_from([None, 5.0, 40.0]))
    duration_s = drawn.draw(st.sampled_from([60, 36_000, None]))
    spec = replace(HOUR, budget=budget, max_duration_s=duration_s)
    offerings = [
        offering(vcpus=drawn.draw(st.sampled_from([1, 8, 96])), price_usd_h=each) for each in prices
    ]
    job = candidate(1, spec=spec).job
    possible, wait = possible_offerings(job, offerings, spent_usd=1.0, bounds=bounds, limits=LIMITS)
    assert list(possible) == [
        each
        for each in offerings
        if impossible(Candidate(job, each, 1.0), bounds=bounds, limits=LIMITS) is None
    ]
    assert (wait is None) == bool(possible)


def test_what_a_job_has_spent_rules_out_dearer_offerings() -> None:
    """The next attempt may cost what is left of the budget, so the cheaper machine is still possible."""
    job = candidate(1, spec=replace(HOUR, budget=3.0)).job
    offerings = [offering(price_usd_h=1.0), offering(price_usd_h=0.5)]
    for spent_usd, left in ((0.0, offerings), (1.0, offerings[1:]), (2.5, [])):
        possible, _ = possible_offerings(
            job, offerings, spent_usd=spent_usd, bounds=Bounds(), limits=LIMITS
        )
        assert list(possible) == left
