"""Which job gets which idle machine: never one that the other was not launched for, and each at most once."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.admission import select_jobs
from dstackd.core.bounds import Bounds
from dstackd.core.budget import worst_case_s
from dstackd.core.cost import machine_cost_usd, share_usd
from dstackd.core.decide import STAY, decide
from dstackd.core.instance import Market, Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.pairing import candidate_for, pair
from dstackd.core.phase import HAS_MACHINE, TRANSITIONS, Outcome, Phase
from dstackd.core.retry import conclude
from dstackd.core.reuse import IdleMachine, Lifetime, fits, shape_of_machine
from dstackd.core.scheduling import Holding, Usage
from dstackd.spec.model import JobSpec, Permissions, RetryCause, RetryPolicy, SpotPolicy
from tests.builders import NOW_MS, a_job, an_attempt

LIMITS = Limits()
SPEC = JobSpec(commands=("true",), reuse_s=300)
DAY_MS = 86_400_000


def waiting(spec: JobSpec = SPEC, *, job_id: str = "job-1", project: str = "main") -> Job:
    """A queued job."""
    return a_job(id=job_id, spec=spec, phase=Phase.QUEUED, project=project)


def idle(
    instance_id: str = "i-1",
    *,
    spec: JobSpec = SPEC,
    project: str = "main",
    market: Market = Market.SPOT,
    price_usd_h: float = 0.1,
    until_ms: int = NOW_MS + 60_000,
    lifetime: Lifetime | None = None,
) -> IdleMachine:
    """A machine that ran such a job."""
    return IdleMachine(
        instance_id=instance_id,
        backend="main",
        number=1,
        shape=shape_of_machine(spec, project),
        instance_type="m5.large",
        zone="us-east-1a",
        market=market,
        price_usd_h=price_usd_h,
        vcpus=2,
        until_ms=until_ms,
        lifetime=lifetime,
    )


specs = st.builds(
    JobSpec,
    commands=st.just(("true",)),
    reuse_s=st.none() | st.just(300),
    spot_policy=st.sampled_from(SpotPolicy),
    max_price=st.none() | st.sampled_from([0.05, 0.2]),
    instance_types=st.sampled_from([(), ("m5.*",)]),
    image=st.none() | st.just("debian"),
    max_duration_s=st.none() | st.integers(1, 7200),
    budget=st.none() | st.sampled_from([0.01, 100.0]),
)
projects = st.sampled_from(["main", "lab"])
machines = st.builds(
    idle,
    spec=specs,
    project=projects,
    market=st.sampled_from(Market),
    price_usd_h=st.sampled_from([0.01, 0.1, 1.0]),
    until_ms=st.integers(NOW_MS - 10_000, NOW_MS + 60_000),
    lifetime=st.none()
    | st.integers(0, 10_000_000).map(lambda left: Lifetime(NOW_MS, NOW_MS + left)),
)


@given(
    st.lists(st.builds(waiting, specs, project=projects), max_size=6),
    st.lists(machines, max_size=6),
)
def test_no_machine_is_promised_twice_and_none_that_does_not_fit(
    jobs: list[Job], found: list[IdleMachine]
) -> None:
    """Every job is either paired or left; what is paired fits, is affordable, and each machine is in one pair."""
    jobs = [replace(job, id=f"job-{n}") for n, job in enumerate(jobs)]
    found = [replace(each, instance_id=f"i-{n}") for n, each in enumerate(found)]
    pairs, rest = pair(jobs, found, bounds=Bounds(), limits=LIMITS, now_ms=NOW_MS)
    assert sorted([each.job.id for each in pairs] + [job.id for job in rest]) == sorted(
        job.id for job in jobs
    )
    given_out = [each.machine.instance_id for each in pairs if each.machine is not None]
    assert len(given_out) == len(pairs) == len(set(given_out))
    for each in pairs:
        assert each.machine is not None
        spec, machine = each.job.spec, each.machine
        assert spec.reuse_s is not None
        assert machine.shape == shape_of_machine(spec, each.job.project)
        assert machine.until_ms > NOW_MS
        assert spec.max_price is None or machine.price_usd_h <= spec.max_price
        if spec.budget is not None:
            longest_s = worst_case_s(spec, limits=LIMITS)
            assert longest_s is not None
            assert machine.price_usd_h * longest_s / 3600 <= spec.budget + 1e-6
        if machine.lifetime is not None and spec.max_duration_s is not None:
            assert NOW_MS + spec.max_duration_s * 1000 <= machine.lifetime.ends_ms


@given(st.lists(machines, min_size=1, max_size=6))
def test_a_job_is_left_only_when_nothing_fits(found: list[IdleMachine]) -> None:
    """And it gets the cheapest of what fits."""
    found = [replace(each, instance_id=f"i-{n}") for n, each in enumerate(found)]
    job = waiting()
    pairs, _ = pair([job], found, bounds=Bounds(), limits=LIMITS, now_ms=NOW_MS)
    fitting = [each.price_usd_h for each in found if fits(job, each, now_ms=NOW_MS)]
    assert [each.offering.price_usd_h for each in pairs] == ([min(fitting)] if fitting else [])


@pytest.mark.parametrize(
    ("job", "machine"),
    [
        (waiting(replace(SPEC, reuse_s=None)), idle()),
        (waiting(project="lab"), idle()),
        (waiting(), idle(until_ms=NOW_MS)),
        (replace(waiting(), needs_own_machine=True), idle()),
        (replace(waiting(), reclaimed="m5.large/us-east-1a/spot"), idle()),
        (
            replace(
                waiting(replace(SPEC, spot_policy=SpotPolicy.AUTO)),
                interruptions=2,
            ),
            idle(spec=replace(SPEC, spot_policy=SpotPolicy.AUTO)),
        ),
        (waiting(replace(SPEC, permissions=Permissions.MACHINE)), idle()),
        (
            waiting(replace(SPEC, max_duration_s=3600)),
            idle(lifetime=Lifetime(NOW_MS - DAY_MS, NOW_MS + 3_700_000)),
        ),
        (waiting(), idle(lifetime=Lifetime(NOW_MS - DAY_MS, NOW_MS + DAY_MS))),
    ],
)
def test_what_does_not_fit(job: Job, machine: IdleMachine) -> None:
    """Not asked for, another project, too late, a second try, a reclaimed pool, spot after two interruptions, root, too old."""
    assert not fits(job, machine, now_ms=NOW_MS)


def test_a_young_machine_does_for_a_job_without_a_bound() -> None:
    """One of its own would end itself hardly later."""
    week_ms = 7 * DAY_MS
    machine = idle(lifetime=Lifetime(NOW_MS - 3_600_000, NOW_MS - 3_600_000 + week_ms))
    assert fits(waiting(), machine, now_ms=NOW_MS)


def test_an_idle_machine_takes_no_room_but_money() -> None:
    """Every bound is reached, and the job gets the machine that is there; a day's budget keeps it back all the same."""
    full = Usage({"main": Holding(machines=1, vcpus=2, spent_usd=5.0)}, launched_last_minute=9)
    spec = replace(SPEC, max_duration_s=600)
    candidate = candidate_for(waiting(spec), idle(spec=spec))
    bounds = Bounds(max_machines=1, max_vcpus=2, launches_per_minute=1, budget_per_day_usd=6.0)
    selection = select_jobs([candidate], full, bounds=bounds, limits=LIMITS, now_ms=NOW_MS)
    assert selection.admitted == (candidate,)
    poor = replace(bounds, budget_per_day_usd=5.0)
    refused = select_jobs([candidate], full, bounds=poor, limits=LIMITS, now_ms=NOW_MS)
    assert refused.admitted == ()


def test_the_worst_case_has_the_waiting_in_it() -> None:
    """A job whose machine waits may cost that much more."""
    plain = worst_case_s(replace(SPEC, reuse_s=None, max_duration_s=60), limits=LIMITS)
    longer = worst_case_s(replace(SPEC, reuse_s=300, max_duration_s=60), limits=LIMITS)
    assert plain is not None
    assert longer is not None
    assert longer - plain >= 300


@given(
    st.floats(0.001, 100),
    st.integers(0, 10_000_000),
    st.lists(st.integers(0, 10_000_000) | st.integers(0, 70_000), min_size=1, max_size=6),
)
def test_parts_of_a_machines_life_add_up(
    price_usd_h: float, began_ms: int, lengths: list[int]
) -> None:
    """However it was divided among jobs and waiting: the sum is what the machine costs, the minimum included once."""
    moments = list(accumulate(lengths, initial=began_ms))
    parts = [machine_cost_usd(price_usd_h, from_ms=began_ms, until_ms=moments[1])] + [
        share_usd(price_usd_h, launched_ms=began_ms, from_ms=begin, until_ms=end)
        for begin, end in pairwise(moments[1:])
    ]
    whole = machine_cost_usd(price_usd_h, from_ms=began_ms, until_ms=moments[-1])
    assert sum(parts) == pytest.approx(whole)
    assert all(part >= 0 for part in parts)


released = st.builds(
    an_attempt,
    started_at_ms=st.just(NOW_MS - 50_000),
    exited_at_ms=st.just(NOW_MS - 40_000),
    exit_code=st.integers(0, 3),
    exit_cause=st.just("exit"),
    done_at_ms=st.just(NOW_MS - 30_000),
    released_at_ms=st.integers(NOW_MS - 60_000, NOW_MS),
    reused=st.booleans(),
    outcome=st.none(),
    log_lines_sent=st.integers(0, 2),
    log_lines_seen=st.integers(0, 2),
    heartbeat_at_ms=st.none() | st.just(0),
    notice_at_ms=st.none(),
)
released_jobs = st.builds(
    a_job,
    phase=st.sampled_from([Phase.BOOTING, Phase.RUNNING, Phase.SEALING]),
    cancel_requested=st.booleans(),
    phase_since_ms=st.integers(NOW_MS - 8_000_000, NOW_MS),
    spec=st.just(replace(SPEC, retry=RetryPolicy(on=frozenset(RetryCause)))),
)


@given(released_jobs, released, st.sampled_from(Seen))
def test_a_released_machine_is_never_touched(job: Job, attempt: Attempt, seen: Seen) -> None:
    """Whatever EC2 shows of it, it may run another job by now: the job goes to its end without a word to the machine."""
    phases: list[Phase] = []
    decision = STAY
    for _ in range(4):
        decision = decide(job, attempt, Observation(seen), limits=LIMITS, now_ms=NOW_MS)
        assert decision.actions == ()
        if decision.phase is None:
            assert job.phase is Phase.SEALING
            assert attempt.log_lines_seen < (attempt.log_lines_sent or 0)
            return
        assert decision.phase in TRANSITIONS[job.phase]
        phases.append(decision.phase)
        if decision.phase not in HAS_MACHINE:
            break
        job = replace(job, phase=decision.phase)
    assert phases[-1] in {Phase.SUCCEEDED, Phase.QUEUED, Phase.CANCELLED}
    assert Phase.TERMINATING not in phases
    assert decision.outcome is Outcome.EXITED
    assert (phases[-1] is Phase.SUCCEEDED) == (attempt.exit_code == 0)


def test_a_machine_that_does_not_take_its_job_is_waited_for_shorter() -> None:
    """It is there already: what a boot may take it may not."""
    job = a_job(phase=Phase.BOOTING)
    for seconds, phase in ((119, None), (121, Phase.TERMINATING)):
        attempt = an_attempt(reused=True, launched_at_ms=NOW_MS - seconds * 1000)
        seen = Observation(Seen.RUNNING)
        assert decide(job, attempt, seen, limits=LIMITS, now_ms=NOW_MS).phase is phase


def test_an_idle_machine_that_goes_is_no_boot_failure() -> None:
    """However many there were: the job is queued again, and a cancel still ends it."""
    attempt = an_attempt(reused=True, outcome=Outcome.LOST)
    job = a_job(phase=Phase.TERMINATING, boot_failures=LIMITS.boot_failures_max)
    assert conclude(job, attempt, limits=LIMITS, now_ms=NOW_MS).phase is Phase.QUEUED
    cancelled = replace(job, cancel_requested=True)
    assert conclude(cancelled, attempt, limits=LIMITS, now_ms=NOW_MS).phase is Phase.CANCELLED
