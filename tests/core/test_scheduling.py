"""Whose turn it is: priority, then the share of the project, then age."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.instance import Market
from dstackd.core.offering import Offering
from dstackd.core.scheduling import NOTHING, Candidate, Holding, Usage, order_jobs
from tests.builders import a_job

PROJECTS = ("lab", "web", "ops")
WEIGHTS = st.dictionaries(st.sampled_from(PROJECTS), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
USAGES = st.dictionaries(
    st.sampled_from(PROJECTS), st.builds(Holding, st.integers(0, 9), st.integers(0, 99))
).map(Usage)


def candidate(seq: int, project: str = "lab", *, priority: int = 0, vcpus: int = 2) -> Candidate:
    """A queued job with an offering of that size."""
    job = a_job(id=f"job-{seq}", seq=seq, project=project, priority=priority)
    return Candidate(
        job, Offering("m5.large", "subnet-a", "a", Market.SPOT, "x86_64", 0.1, vcpus=vcpus)
    )


@st.composite
def queues(draw: st.DrawFn) -> list[Candidate]:
    """Waiting jobs of several projects, priorities and sizes, in any order."""
    seqs = draw(st.lists(st.integers(1, 500), unique=True, max_size=40))
    return [
        candidate(
            seq,
            draw(st.sampled_from(PROJECTS)),
            priority=draw(st.integers(-1, 1)),
            vcpus=draw(st.sampled_from([1, 2, 8, 96])),
        )
        for seq in seqs
    ]


def seqs_of(candidates: list[Candidate]) -> list[int]:
    """In order."""
    return [each.job.seq for each in candidates]


@given(queues(), USAGES, WEIGHTS, st.randoms())
def test_the_order_is_total_and_stable(
    queue: list[Candidate], usage: Usage, weights: dict[str, float], drawn: random.Random
) -> None:
    """Every job is in it once, and it does not depend on the order in which they were read."""
    ordered = order_jobs(queue, usage, weights=weights)
    assert sorted(seqs_of(ordered)) == sorted(seqs_of(queue))
    shuffled = list(queue)
    drawn.shuffle(shuffled)
    assert order_jobs(shuffled, usage, weights=weights) == ordered


@given(queues(), USAGES, WEIGHTS)
def test_priority_goes_first_and_age_goes_last(
    queue: list[Candidate], usage: Usage, weights: dict[str, float]
) -> None:
    """No share lifts a job over a higher priority; within a project and a priority the older job comes first."""
    ordered = order_jobs(queue, usage, weights=weights)
    priorities = [each.job.priority for each in ordered]
    assert priorities == sorted(priorities, reverse=True)
    for project in PROJECTS:
        for priority in (-1, 0, 1):
            own = [
                each.job.seq
                for each in ordered
                if (each.job.project, each.job.priority) == (project, priority)
            ]
            assert own == sorted(own)


@given(queues(), USAGES, WEIGHTS)
def test_each_turn_goes_to_the_project_that_holds_least(
    queue: list[Candidate], usage: Usage, weights: dict[str, float]
) -> None:
    """Whoever has a job of that priority waiting holds, for its weight, at least what the one holds whose turn it is."""
    held = {project: usage.projects.get(project, NOTHING) for project in PROJECTS}
    ordered = order_jobs(queue, usage, weights=weights)
    for at, each in enumerate(ordered):
        waiting = {other.job.project for other in ordered[at:] if _alike(other, each)}
        shares = {name: held[name].vcpus / weights.get(name, 1.0) for name in waiting}
        assert shares[each.job.project] == min(shares.values())
        held[each.job.project] += Holding(1, each.offering.vcpus)


def _alike(one: Candidate, other: Candidate) -> bool:
    return one.job.priority == other.job.priority


@given(st.integers(1, 30), st.integers(0, 60))
def test_equal_projects_differ_by_one_job_at_most(waiting: int, given_out: int) -> None:
    """However late a project comes, after any number of turns nobody has two jobs more than one that still waits."""
    queue = [candidate(seq, "lab") for seq in range(waiting)]
    queue += [candidate(1000 + seq, "web") for seq in range(waiting)]
    first = order_jobs(queue, Usage())[:given_out]
    counts = [sum(each.job.project == name for each in first) for name in ("lab", "web")]
    assert abs(counts[0] - counts[1]) <= 1


def test_a_weight_is_a_share() -> None:
    """Weight 2 gets twice the machines of weight 1."""
    queue = [candidate(seq, "lab" if seq % 2 else "web") for seq in range(60)]
    first = order_jobs(queue, Usage(), weights={"lab": 2.0})[:30]
    assert sum(each.job.project == "lab" for each in first) == 20


def test_what_is_held_already_counts() -> None:
    """A project with machines waits until the other has as many vCPUs, and machines decide between equals."""
    usage = Usage({"lab": Holding(2, 4)})
    queue = [candidate(1, "lab"), candidate(2, "lab"), *(candidate(s, "web") for s in range(3, 7))]
    assert seqs_of(order_jobs(queue, usage)) == [3, 4, 1, 5, 2, 6]
    fewer = Usage({"lab": Holding(2, 8), "web": Holding(1, 8)})
    assert seqs_of(order_jobs([candidate(1, "lab"), candidate(2, "web")], fewer)) == [2, 1]
