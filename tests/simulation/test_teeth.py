"""Bugs that somebody could make are planted, and a seed catches each: a promise that nothing can break would check nothing.

A seed that catches a bug is written down here, so that a run is short; `make simulate TEETH=1` searches from 0 on.
"""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.pool import Pool
from tests.simulation.teeth import SEEDS_MAX

CAUGHT_BY: dict[str, int] = {}


@pytest.mark.timeout(300)
def test_every_planted_bug_is_caught(pool: Pool) -> None:
    """Each by the first of the seeds that does; none of these breaks a promise without it (`test_seeds`)."""
    bites = pool.bite([(bug, [CAUGHT_BY[bug]]) for bug in PLANTED])
    assert [bite.bug for bite in bites if bite.seed is None] == []


def test_bugs_are_caught_early() -> None:
    """Within two hundred seeds, and so that the seed is among those that are known to be clean otherwise."""
    assert set(CAUGHT_BY) == set(PLANTED)
    assert len(PLANTED) >= 15
    assert max(CAUGHT_BY.values()) < SEEDS_MAX
