"""An explanation names the phase, what comes next, and the bound that the decisions apply, for every job there can be."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.core.action import RequestStop
from dstackd.core.advice import advice
from dstackd.core.bounds import Bounds, ProjectBounds
from dstackd.core.decide import STAY, decide
from dstackd.core.explain import Asking, Situation, explain
from dstackd.core.instance import Market, Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.launching import Block
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.core.phase import HAS_MACHINE, TERMINAL, Outcome, Phase, Reason
from dstackd.core.queue_view import Others, Planned, QueueView, queue_view
from dstackd.core.reuse import IdleMachine, shape_of_machine
from dstackd.core.scheduling import Candidate, Holding, Usage
from dstackd.core.waiting import Refusal, Wait, decide_queued, decide_without_capacity
from dstackd.spec.model import JobSpec, RetryCause, RetryPolicy, SpotPolicy
from tests.builders import NOW_MS, a_job, an_attempt
from tests.core.test_deadlines import attempts
from tests.core.test_decide_properties import jobs as jobs_with_machines
from tests.core.test_decide_properties import observations

LIMITS = Limits()
jobs = st.builds(
    lambda job, phase: replace(job, phase=phase), jobs_with_machines, st.sampled_from(Phase)
)


@settings(max_examples=400)
@given(jobs, attempts, observations)
def test_every_phase_has_its_next_step(job: Job, attempt: Attempt, seen: Observation) -> None:
    """The phase is named, whoever is not over has a next step and something it waits for, and who is over has none."""
    has_machine = job.phase in HAS_MACHINE
    told = explain(Situation(job, LIMITS, NOW_MS, attempt if has_machine else None, seen))
    assert (told.phase, told.reason) == (job.phase, job.reason)
    assert bool(told.next_steps) == (job.phase not in TERMINAL)
    if has_machine:
        assert told.waits_for
    assert all(step.text for step in told.next_steps)


@settings(max_examples=400)
@given(jobs_with_machines, attempts, observations)
def test_the_bound_is_the_one_that_decides(job: Job, attempt: Attempt, seen: Observation) -> None:
    """At the first moment that is named `decide` acts, as it is said, and not a millisecond before."""
    told = explain(Situation(job, LIMITS, NOW_MS, attempt, seen))
    first = told.next_steps[0]
    decided = decide(job, attempt, seen, limits=LIMITS, now_ms=first.at_ms or NOW_MS)
    if first.at_ms is None:
        due = decided != STAY
        assert first.text.startswith("at the next look") == due
    else:
        assert first.bound != ""
        assert decided != STAY
        before = decide(job, attempt, seen, limits=LIMITS, now_ms=first.at_ms - 1)
        assert before == STAY
    if decided != STAY:
        assert (first.phase, first.reason) == (decided.phase, decided.reason)
        assert decided.message in first.text
        stops = any(isinstance(each, RequestStop) for each in decided.actions)
        assert ("asked to stop" in first.text) == stops


@given(
    st.integers(NOW_MS - 8_000_000, NOW_MS),
    st.none() | st.integers(0, 20_000),
    st.sampled_from([Reason.NO_CAPACITY, Reason.LIMIT_REACHED]),
)
def test_a_queued_job_is_given_up_when_it_says(
    submitted_ms: int, within_s: int | None, reason: Reason
) -> None:
    """The named end of retry.within is the first millisecond at which `decide_queued` ends the job."""
    spec = JobSpec(("true",), retry=RetryPolicy(within_s=within_s))
    job = a_job(phase=Phase.QUEUED, spec=spec, submitted_at_ms=submitted_ms, reason=reason)
    told = explain(Situation(job, LIMITS, NOW_MS))
    ends = [step for step in told.next_steps if step.bound == "retry.within"]
    now = decide_queued(job, now_ms=NOW_MS)
    if within_s is None or reason is not Reason.NO_CAPACITY:
        assert ends == []
        assert now is None
    elif now is not None:
        assert told.next_steps[0].phase is Phase.FAILED
    else:
        (end,) = ends
        assert end.at_ms is not None
        at_end = decide_queued(job, now_ms=end.at_ms)
        assert at_end is not None
        assert (at_end.phase, at_end.reason) == (end.phase, end.reason)
        assert decide_queued(job, now_ms=end.at_ms - 1) is None


def an_offering(name: str, *, price_usd_h: float = 0.1, vcpus: int = 2) -> Offering:
    """On the spot market, in the first zone."""
    return Offering(
        instance_type=name,
        subnet_id="subnet-a",
        zone="us-east-1a",
        market=Market.SPOT,
        architecture="x86_64",
        price_usd_h=price_usd_h,
        vcpus=vcpus,
    )


def a_view(
    job: Job,
    *offerings: Offering,
    closed: frozenset[str] = frozenset(),
    others: tuple[Candidate, ...] = (),
    idle: tuple[IdleMachine, ...] = (),
    usage: Usage | None = None,
    bounds: Bounds | None = None,
) -> QueueView:
    """The planner's view of a job; `closed` names types that EC2 has refused until in a minute."""
    block = Block(NOW_MS + 60_000, "InsufficientInstanceCapacity: sold out")

    def refused(_possible: object) -> Wait:
        refusal = Refusal(Reason.NO_CAPACITY, "sold out", block.until_ms)
        return decide_without_capacity(job, refusal, now_ms=NOW_MS)

    return queue_view(
        job,
        Planned(offerings, lambda each: block if each.instance_type in closed else None),
        Others(others),
        idle,
        usage or Usage(),
        refused=refused,
        bounds=bounds or Bounds(),
        limits=LIMITS,
        now_ms=NOW_MS,
    )


QUEUED = a_job(phase=Phase.QUEUED, seq=5, attempt=0, ran_attempts=0)


def test_a_job_that_nothing_holds() -> None:
    """It is said what it would get, and that it waits for the next pass only."""
    view = a_view(QUEUED, an_offering("m5.large"))
    assert (view.waits, view.open_total, view.ahead) == (None, 1, ())
    assert view.would_get == "m5.large (spot) in us-east-1a"
    told = explain(Situation(QUEUED, LIMITS, NOW_MS, queue=view))
    assert "next pass launches it" in told.waits_for[-1].text


def test_a_sold_out_market_names_its_blocks() -> None:
    """Each offering with the end of its block; what the planner would say is what is said."""
    view = a_view(QUEUED, an_offering("a"), an_offering("b"), closed=frozenset({"a", "b"}))
    assert [each.closed_until_ms for each in view.offerings] == [NOW_MS + 60_000] * 2
    assert view.waits is not None
    assert view.waits.reason is Reason.NO_CAPACITY
    assert view.open_total == 0


def test_bounds_are_told_with_their_keys_and_figures() -> None:
    """The bound that holds the job, as the configuration writes it, its value, what is in use and what the job takes."""
    bounds = Bounds(
        max_machines=2,
        budget_per_day_usd=10.0,
        projects={"main": ProjectBounds(max_vcpus=64)},
    )
    usage = Usage({"other": Holding(2, 4, spent_usd=1.0, reserved_usd=2.0)})
    spec = replace(QUEUED.spec, max_duration_s=3600)
    view = a_view(replace(QUEUED, spec=spec), an_offering("a"), bounds=bounds, usage=usage)
    figures = {
        each.key: (each.limit, each.used, round(each.wanted, 2), each.holds) for each in view.bounds
    }
    assert figures == {
        "projects.main.max_vcpus": (64, 0, 2, False),
        "scheduling.max_machines": (2, 2, 1, True),
        "scheduling.budget_per_day_usd": (10.0, 3.0, 0.28, False),
    }
    assert view.waits is not None
    assert view.waits.message == "max_machines is 2, and as many are in use"


def test_who_comes_first_and_why() -> None:
    """By priority, by age within the project, by the other project's share; whoever is younger does not count."""
    offering = an_offering("a")

    def another(job_id: str, seq: int, *, priority: int = 0, project: str = "main") -> Candidate:
        job = replace(QUEUED, id=job_id, seq=seq, priority=priority, project=project)
        return Candidate(job, offering)

    others = (
        another("urgent", 9, priority=5),
        another("older", 1),
        another("younger", 8),
        another("theirs", 7, project="lab"),
        another("theirs-2", 8, project="lab"),
    )
    usage = Usage({"main": Holding(1, 2)})
    view = a_view(QUEUED, offering, others=others, usage=usage)
    assert {each.why: each.count for each in view.ahead} == {
        "of higher priority": 1,
        "older, of the same project": 1,
        "of project lab, whose share is due first": 2,
    }


def test_idle_machines_say_why_not() -> None:
    """The first thing that keeps the job from each."""
    reusing = replace(QUEUED, spec=replace(QUEUED.spec, reuse_s=600))
    fitting = IdleMachine(
        "i-1",
        "main",
        1,
        shape_of_machine(reusing.spec, reusing.project),
        *("m5.large", "us-east-1a", Market.SPOT, 0.1, 2, NOW_MS + 60_000),
    )
    other = replace(fitting, instance_id="i-2", shape=())
    view = a_view(reusing, an_offering("a"), idle=(fitting, other))
    assert [each.why_not for each in view.idle] == [
        "",
        "it was launched for another project or other resources",
    ]
    view = a_view(QUEUED, an_offering("a"), idle=(fitting,))
    assert view.idle[0].why_not == "the job does not ask for one (`reuse` in its spec)"


def test_a_budget_rules_offerings_out() -> None:
    """What is too dear for the job's own budget is counted, and the cheaper one is taken."""
    spec = replace(QUEUED.spec, max_duration_s=3600, budget=1.0)
    dear = an_offering("dear", price_usd_h=9.0)
    view = a_view(replace(QUEUED, spec=spec), dear, an_offering("cheap"))
    assert (view.too_dear, view.would_get) == (1, "cheap (spot) in us-east-1a")


def test_waiting_for_an_answer_names_what_was_asked() -> None:
    """A launching job says what EC2 was asked for and since when."""
    asking = Asking("EC2's answer: m5.large (spot) in us-east-1a was asked for", NOW_MS - 5000)
    job = a_job(phase=Phase.LAUNCHING)
    told = explain(Situation(job, LIMITS, NOW_MS, asking=asking))
    assert (told.waits_for[0].text, told.waits_for[0].since_ms) == (asking.what, NOW_MS - 5000)


def test_an_array_waits_for_its_jobs() -> None:
    """How many have ended, and where the others are; no retries of its own."""
    elements = {"succeeded": 3, "running": 2, "queued": 1}
    told = explain(Situation(a_job(), LIMITS, NOW_MS, elements=elements))
    assert told.waits_for[0].text == "its jobs: 3 of 6 have ended, 2 running, 1 queued"
    assert told.retries == ()


def test_a_running_machine_has_two_ends() -> None:
    """Its silence ends it soon, and its max_duration ends it however alive it is."""
    spec = replace(QUEUED.spec, max_duration_s=3600)
    attempt = an_attempt(started_at_ms=NOW_MS - 50_000, heartbeat_at_ms=NOW_MS - 10_000)
    told = explain(Situation(a_job(spec=spec), LIMITS, NOW_MS, attempt, Observation(Seen.RUNNING)))
    at = {step.bound: step.at_ms for step in told.next_steps if step.at_ms is not None}
    assert at["limits.heartbeat_timeout_s"] == NOW_MS - 10_000 + 300_000
    assert at["max_duration"] == NOW_MS - 50_000 + (3600 + 30 + 300) * 1000


def test_what_helps_is_the_nearest_thing() -> None:
    """Memory for a job that ran out of it, another market for one that found nothing, the field for a broken spec."""
    failed = a_job(phase=Phase.FAILED, reason=Reason.EXITED)
    ended = an_attempt(outcome=Outcome.EXITED, exit_code=137, started_at_ms=1)
    assert "resources.memory more than 8GB" in advice(failed, replace(ended, exit_cause="oom"))[0]
    assert "add error to retry.on" in advice(failed, ended)[1]
    retrying = JobSpec(("true",), retry=RetryPolicy(on=frozenset({RetryCause.ERROR})))
    assert "raise retry.max_attempts" in advice(replace(failed, spec=retrying), ended)[1]
    assert "was not found" in advice(failed, replace(ended, exit_code=127))[0]
    waiting = a_job(
        phase=Phase.QUEUED,
        reason=Reason.NO_CAPACITY,
        spec=JobSpec(("true",), spot_policy=SpotPolicy.SPOT, instance_types=("m5.large",)),
    )
    assert advice(waiting, None) == ("try spot_policy auto, more instance_types",)
    rejected = a_job(phase=Phase.REJECTED, reason=Reason.BAD_SPEC)
    assert "mend the field" in advice(rejected, None)[0]
    no_boot = an_attempt(outcome=Outcome.BOOT_TIMEOUT)
    exhausted = a_job(phase=Phase.FAILED, reason=Reason.RETRIES_EXHAUSTED)
    assert "did not reach the bucket" in advice(exhausted, no_boot)[0]
    staged = replace(no_boot, outcome=Outcome.BOOT_FAILED, failed_stage="image")
    assert "registry_auth" in advice(exhausted, staged)[0]
    interrupted = replace(ended, outcome=Outcome.INTERRUPTED)
    assert "raise retry.max_attempts" in advice(exhausted, interrupted)[0]


@given(jobs, attempts)
def test_who_ended_badly_is_told_what_to_do(job: Job, attempt: Attempt) -> None:
    """A failed or rejected job with a reason that a person can act on has advice; one that is well has none."""
    told = advice(job, attempt)
    if job.phase in {Phase.SUCCEEDED, Phase.CANCELLED}:
        assert told == ()
    if job.phase is Phase.FAILED and job.reason in {Reason.NO_CAPACITY, Reason.TIMED_OUT}:
        assert told
