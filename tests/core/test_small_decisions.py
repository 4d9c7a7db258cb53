"""Orphans, arrays, costs, and what a snapshot says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.array import decide_array
from dstackd.core.cost import machine_cost_usd
from dstackd.core.instance import Instance, InstanceState, Seen, Snapshot
from dstackd.core.observe import VISIBILITY_GRACE_MS, observe
from dstackd.core.orphan import ORPHAN_GRACE_MS, find_orphans
from dstackd.core.phase import HAS_MACHINE, TERMINAL, TRANSITIONS, Phase, Reason
from dstackd.core.waiting import Wait, while_leaving
from tests.builders import NOW_MS, a_job, an_instance


def orphans(
    instance: Instance,
    *,
    needed: frozenset[str] = frozenset(),
    open_launches: frozenset[str] = frozenset(),
) -> list[str]:
    """Ids of the orphans in a snapshot of one machine."""
    snapshot = Snapshot(NOW_MS, {instance.instance_id: instance})
    found = find_orphans(snapshot, needed_ids=needed, open_launch_ids=open_launches, now_ms=NOW_MS)
    return [orphan.instance_id for orphan in found]


def test_a_machine_that_nobody_needs_is_an_orphan() -> None:
    """Old enough, costing money, no live attempt, no open launch."""
    assert orphans(an_instance()) == ["i-1"]
    assert orphans(an_instance(state=InstanceState.STOPPED)) == ["i-1"]


@pytest.mark.parametrize("state", [InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED])
def test_what_goes_already_is_left_alone(state: InstanceState) -> None:
    """Nothing is to be saved by terminating it again."""
    assert orphans(an_instance(state=state)) == []


def test_needed_young_and_unanswered_machines_are_never_orphans() -> None:
    """Each of the three protects a machine by itself."""
    assert orphans(an_instance(), needed=frozenset({"i-1"})) == []
    assert orphans(an_instance(), open_launches=frozenset({"launch-1"})) == []
    assert orphans(an_instance(launched_at_ms=NOW_MS - ORPHAN_GRACE_MS)) == []
    assert orphans(an_instance(launched_at_ms=NOW_MS - ORPHAN_GRACE_MS - 1)) == ["i-1"]


@dataclass(frozen=True, slots=True)
class AnElement:
    """One job of an array."""

    id: str
    phase: Phase
    exit_code: int | None = None
    cancel_requested: bool = False


elements = st.lists(
    st.builds(
        AnElement,
        id=st.text("ab", min_size=1, max_size=3),
        phase=st.sampled_from(Phase),
        exit_code=st.none() | st.integers(0, 3),
        cancel_requested=st.booleans(),
    ),
    min_size=1,
)


@given(elements, st.booleans())
def test_an_array_ends_with_its_last_element_and_as_badly_as_the_worst(
    found: list[AnElement], cancelled: bool
) -> None:
    """Open elements keep it open; one failure fails it; all must succeed for success."""
    decision = decide_array(a_job(cancel_requested=cancelled), found)
    phases = {element.phase for element in found}
    open_ids = [
        each.id for each in found if each.phase not in TERMINAL and not each.cancel_requested
    ]
    assert (decision.phase is None) == bool(phases - TERMINAL)
    assert list(decision.cancel) == (open_ids if cancelled else [])
    if decision.phase is not None:
        assert (decision.phase is Phase.SUCCEEDED) == (phases == {Phase.SUCCEEDED})
        assert (decision.phase is Phase.FAILED) == bool(phases & {Phase.FAILED, Phase.REJECTED})
        assert decision.phase in TRANSITIONS[Phase.RUNNING]
        assert decision.message
        if any(each.exit_code for each in found):
            assert decision.exit_code != 0


def test_a_machine_costs_a_minute_at_least() -> None:
    """EC2 bills by the second, sixty at least."""
    assert machine_cost_usd(3.6, from_ms=0, until_ms=1000) == pytest.approx(0.06)
    assert machine_cost_usd(3.6, from_ms=0, until_ms=100_000) == pytest.approx(0.1)
    assert machine_cost_usd(3.6, from_ms=5000, until_ms=0) == pytest.approx(0.06)


@pytest.mark.parametrize("state", InstanceState)
def test_every_state_of_ec2_means_something(state: InstanceState) -> None:
    """What a snapshot shows is never unknown or absent."""
    snapshot = Snapshot(NOW_MS, {"i-1": an_instance(state=state)})
    seen = observe("i-1", snapshot, launched_at_ms=NOW_MS)
    assert seen.seen not in {Seen.UNKNOWN, Seen.ABSENT}


def test_absent_is_not_unknown() -> None:
    """Missing from a snapshot means gone only when it would have been there: old enough, and a snapshot at all."""
    launched_at_ms = NOW_MS - VISIBILITY_GRACE_MS
    assert observe("i-1", None, launched_at_ms=0).seen is Seen.UNKNOWN
    young = observe("i-1", Snapshot(NOW_MS - 1), launched_at_ms=launched_at_ms)
    assert young.seen is Seen.UNKNOWN
    assert observe("i-1", Snapshot(NOW_MS), launched_at_ms=launched_at_ms).seen is Seen.ABSENT


def test_the_table_of_moves_is_sound() -> None:
    """Every phase is in it, terminal ones lead nowhere, and every other one can reach an end."""
    assert set(TRANSITIONS) == set(Phase)
    assert all(not TRANSITIONS[phase] for phase in TERMINAL)
    assert HAS_MACHINE.isdisjoint(TERMINAL)
    for start in Phase:
        reached, front = {start}, {start}
        while front:
            front = {after for phase in front for after in TRANSITIONS[phase]} - reached
            reached |= front
        assert reached & TERMINAL


def test_a_job_does_not_end_before_its_machines() -> None:
    """An end becomes a wait that the machine's end wakes; what waits anyway is told nothing else."""
    end = Wait(Phase.FAILED, Reason.BUDGET_EXHAUSTED, "no money")
    leaves, alone = a_job(phase=Phase.QUEUED, leaving=1), a_job(phase=Phase.QUEUED)
    wait = while_leaving(leaves, end)
    assert (wait.phase, wait.reason, wait.retry_s) == (None, Reason.BUDGET_EXHAUSTED, None)
    assert "has to be gone" in wait.message
    assert while_leaving(alone, end) == end
    stays = Wait(None, Reason.LIMIT_REACHED, "no room", retry_s=3.0)
    assert while_leaving(leaves, stays) == stays
