"""Needs, holds and circles, as pure decisions."""

from __future__ import annotations

from graphlib import TopologicalSorter

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.dependency import (
    NAMED_MAX,
    Need,
    circles,
    decide_needs,
    hold_for,
    listed,
    where_needed,
    why_never,
)
from dstackd.core.holding import Hold
from dstackd.core.phase import TERMINAL, Phase
from dstackd.spec.model import Dependency, DependencyEnd

NEEDS = st.builds(
    Need,
    job_id=st.sampled_from("abcd"),
    on=st.sampled_from(DependencyEnd),
    phase=st.none() | st.sampled_from(Phase),
)
GRAPHS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.frozensets(st.sampled_from("abcdefghxy"), max_size=4)
)


@given(st.lists(NEEDS, max_size=6))
def test_a_job_is_free_when_every_need_is_met_and_only_then(needs: list[Need]) -> None:
    """None means that each other job has ended, with success where that is asked for or it is gone after any end."""
    verdict = decide_needs(needs)
    fine = [
        each.phase is Phase.SUCCEEDED
        or (each.on is DependencyEnd.ANY and (each.phase is None or each.phase in TERMINAL))
        for each in needs
    ]
    assert (verdict is None) == all(fine)


@given(st.lists(NEEDS, max_size=6))
def test_a_job_is_given_up_only_for_an_end(needs: list[Need]) -> None:
    """What ends it is a job that is over without success, or is not there; while none is, it waits."""
    verdict = decide_needs(needs)
    hopeless = [
        each
        for each in needs
        if each.on is DependencyEnd.SUCCESS
        and (each.phase is None or each.phase in TERMINAL - {Phase.SUCCEEDED})
    ]
    assert isinstance(verdict, Need) == bool(hopeless)
    if isinstance(verdict, Need):
        assert verdict in hopeless
        assert verdict.job_id in why_never(verdict)


def test_words() -> None:
    """What is needed is said in one sentence with few names, whatever of it has happened."""
    some = [Dependency("a"), Dependency("b"), Dependency("c", DependencyEnd.ANY)]
    assert hold_for(some).message == "needs a and b to succeed and c to end first"
    assert hold_for([Dependency("a")]).message == "needs a to succeed first"
    many = [Dependency(f"j{number}") for number in range(9)]
    assert hold_for(many).message == "needs j0, j1, j2, j3, j4 and 4 more to succeed first"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_the_needs_that_are_not_over_are_told() -> None:
    """Few by name, the rest as a number."""
    needs = [Need(f"j{number}", DependencyEnd.ANY, Phase.RUNNING) for number in range(8)]
    over = Need("k", DependencyEnd.ANY, Phase.FAILED)
    told = list(where_needed([over, *needs]))
    assert told[0] == "j0, which is running"
    assert told[NAMED_MAX:] == ["3 more that are not over"]
    assert isinstance(decide_needs([over, *needs]), Hold)


@given(GRAPHS)
def test_circles_are_circles_and_without_them_there_are_none(
    graph: dict[str, frozenset[str]],
) -> None:
    """Each one found is a path of needs back to its beginning, and the rest has an order."""
    edges = {job_id: needed - {job_id} for job_id, needed in graph.items()}
    found = circles(edges)
    for circle in found:
        assert len(circle) > 1
        for job_id, needed in zip(circle, [*circle[1:], circle[0]], strict=True):
            assert needed in edges[job_id]
    inside = {job_id for circle in found for job_id in circle}
    rest = {job_id: needed for job_id, needed in edges.items() if job_id not in inside}
    TopologicalSorter(rest).prepare()


def test_a_deep_chain_is_no_circle() -> None:
    """Ten thousand jobs one after the other are looked through without recursion."""
    assert circles({f"j{n}": (f"j{n + 1}",) for n in range(10_000)}) == []
