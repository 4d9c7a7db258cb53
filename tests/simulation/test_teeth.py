"""Bugs that somebody could make are planted, and a seed catches each: a promise that nothing can break would check nothing.

Here are those that the first seeds catch; `make simulate TEETH=1` searches for all that are planted, and prints
`caught_by.py` anew.
"""

from __future__ import annotations

import pytest

from tests.simulation.caught_by import CAUGHT_BY, UNCAUGHT
from tests.simulation.planted import PLANTED
from tests.simulation.pool import Pool
from tests.simulation.teeth import SEEDS_MAX, search_order

FIRST_SEEDS = 4
COMMON = sorted(bug for bug, seed in CAUGHT_BY.items() if seed == 0)


@pytest.mark.timeout(300)
def test_planted_bugs_are_caught(pool: Pool) -> None:
    """By one of the first seeds, none of which breaks a promise without it (`test_seeds`)."""
    assert len(COMMON) >= 15
    bites = pool.bite([(bug, search_order(bug)[:FIRST_SEEDS]) for bug in COMMON])
    assert [bite.bug for bite in bites if bite.seed is None] == []


def test_each_planted_bug_has_been_caught() -> None:
    """What survives all seeds means that a fault or a promise is missing."""
    assert sorted([*CAUGHT_BY, *UNCAUGHT]) == sorted(PLANTED)
    assert max(CAUGHT_BY.values()) < SEEDS_MAX
