"""What enumerates the crash points of a path can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from typing_extensions import override

from tests.controllers.installation import Installation
from tests.controllers.scenario import Scenario
from tests.controllers.scenarios import SCENARIOS
from tests.simulation.crashes import enumerate_path
from tests.simulation.stage import Stage

SHORT = SCENARIOS["rejected"]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One for all tests here."""
    with Stage() as stage:
        yield stage


def test_every_effect_of_a_path_is_a_point(stage: Stage) -> None:
    """A row that is rejected: the daemon dies behind the verdict, and behind the rules that it writes into the bucket."""
    found = enumerate_path("rejected", SHORT, stage=stage)
    assert (found.points, found.broken) == (2, ())


@dataclass(frozen=True, slots=True)
class Mortal(Scenario):
    """No death is survived."""

    @override
    def check(self, world: Installation, *, died: bool) -> None:
        assert not died, "it died"


def test_a_broken_promise_is_told_with_its_point(stage: Stage) -> None:
    """Each point is looked at, whatever came of the one before."""
    mortal = Mortal(SHORT.spec, SHORT.phase, exit_code=None, attempts=0, lines={})
    found = enumerate_path("mortal", mortal, stage=stage)
    assert found.points == 2
    assert [each.partition(":")[0] for each in found.broken] == [
        "died behind effect 1",
        "died behind effect 2",
    ]


def test_a_path_that_is_not_lived_as_it_should_is_broken(stage: Stage) -> None:
    """Also when nobody dies: there is nothing to enumerate then."""
    found = enumerate_path("wrong", replace(SHORT, phase="failed"), stage=stage)
    assert found.points == 0
    assert [each.partition(":")[0] for each in found.broken] == ["without a death"]
