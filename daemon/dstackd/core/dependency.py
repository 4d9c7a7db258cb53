"""What a job that needs other jobs may do. Law: their phases in, a decision out; a dependency is judged by the end of the other
job and by nothing before it.

A job whose need cannot be met any more never begins: it ends as cancelled, for nothing of its own has failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from dstackd.core.holding import Hold
from dstackd.core.phase import TERMINAL, Phase, Reason
from dstackd.spec.model import Dependency, DependencyEnd

NAMED_MAX = 5
"""Ids that a message names."""


@dataclass(frozen=True, slots=True)
class Need:
    """A dependency and where the other job is; `phase` None: there is none of this id."""

    job_id: str
    on: DependencyEnd
    phase: Phase | None

    @property
    def open(self) -> bool:
        """Nobody knows yet whether it will be met."""
        return self.phase is not None and self.phase not in TERMINAL

    @property
    def met(self) -> bool:
        """The other job has ended as it had to, or is gone where any end was good enough."""
        return not self.open and (self.on is DependencyEnd.ANY or self.phase is Phase.SUCCEEDED)


def decide_needs(needs: Sequence[Need]) -> Hold | Need | None:
    """What holds the job, or the need that can never be met; None: all are met."""
    for need in needs:
        if not (need.open or need.met):
            return need
    if any(need.open for need in needs):
        return hold_for(Dependency(need.job_id, need.on) for need in needs)
    return None


def hold_for(dependencies: Iterable[Dependency]) -> Hold:
    """The hold of a job whose needs are not all met."""
    return Hold(Reason.DEPENDENCY, needs_text(dependencies))


def why_never(need: Need) -> str:
    """Why a job that has this need does not begin any more."""
    ends = {None: "is not there any more", Phase.FAILED: "failed"}
    return f"needs {need.job_id} to succeed, and that {ends.get(need.phase, f'was {need.phase}')}"


def needs_text(dependencies: Iterable[Dependency]) -> str:
    """`needs a and b to succeed and c to end first`: true whatever of it has happened already."""
    ids: dict[DependencyEnd, list[str]] = {}
    for each in dependencies:
        ids.setdefault(each.on, []).append(each.job_id)
    verbs = {DependencyEnd.SUCCESS: "succeed", DependencyEnd.ANY: "end"}
    parts = [f"{listed(ids[on])} to {verb}" for on, verb in verbs.items() if on in ids]
    return f"needs {' and '.join(parts)} first"


def where_needed(needs: Sequence[Need]) -> Iterator[str]:
    """A line for each of the first that are not over, and one that counts the rest."""
    left = [need for need in needs if need.open]
    for need in left[:NAMED_MAX]:
        yield f"{need.job_id}, which is {need.phase}"
    if left[NAMED_MAX:]:
        yield f"{len(left) - NAMED_MAX} more that are not over"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; `a, b, c, d, e and 7 more`."""
    more = len(names) - NAMED_MAX
    shown = [*names[:NAMED_MAX], *([f"{more} more"] if more > 0 else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def circles(edges: Mapping[str, Collection[str]]) -> list[tuple[str, ...]]:
    """Jobs that need each other in a circle, such that without these there is none; each as (a, b, c): a needs b, b needs c,
    c needs a.
    """
    rest = {job_id: tuple(needed) for job_id, needed in edges.items()}
    found: list[tuple[str, ...]] = []
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as error:
            # As graphlib has it, each is needed by the next, and the first stands also at the end.
            circle = tuple(reversed(error.args[1][1:]))
            found.append(circle)
            for job_id in circle:
                rest[job_id] = ()
        else:
            return found
