"""Bugs that somebody could make are planted, and a seed catches each: a promise that nothing can break would check nothing.

A seed that catches a bug is written down here, so that a run is short; `make simulate TEETH=1` searches from 0 on.
"""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.pool import Pool
from tests.simulation.teeth import SEEDS_MAX

CAUGHT_BY = {
    "token_not_derived": 0,
    "new_machines_judged_at_once": 2,
    "reaper_takes_open_launches": 0,
    "reports_removed_first": 0,
}
"""Where the search begins: a change of the product moves all worlds a little, and then it takes longer."""


@pytest.mark.timeout(900)
def test_every_planted_bug_is_caught(pool: Pool) -> None:
    """Within two hundred seeds, none of which breaks a promise without it (`test_seeds`, `make simulate`)."""
    assert len(PLANTED) >= 15
    bites = pool.bite([(bug, [CAUGHT_BY.get(bug, 0), *range(SEEDS_MAX)]) for bug in PLANTED])
    assert [bite.bug for bite in bites if bite.seed is None] == []


def test_each_hint_is_for_a_bug() -> None:
    """One that was renamed or removed leaves none behind."""
    assert set(CAUGHT_BY) <= set(PLANTED)
