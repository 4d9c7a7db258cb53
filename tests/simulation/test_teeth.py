"""Bugs that somebody could make are planted, and a seed catches each: a promise that nothing can break would check nothing.

Here are those that a seed catches within seconds; `make simulate TEETH=1` searches for all that are planted.
"""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.pool import Pool

CAUGHT_BY = {
    "token_not_derived": 0,
    "new_machines_judged_at_once": 2,
    "terminated_before_the_seal": 0,
    "retries_miscounted": 1,
    "reports_removed_first": 0,
    "failures_taken_for_success": 0,
    "doubled_lines_kept": 0,
    "sweep_without_overlap": 2,
    "queued_before_the_last_word": 0,
    "unknown_taken_for_absent": 0,
    "over_before_gone": 0,
    "silence_taken_for_refusal": 0,
    "exit_code_forgotten": 0,
    "machines_paid_twice": 2,
    "log_always_complete": 0,
    "rest_of_a_launch_forgotten": 0,
}
"""Where the search begins: a change of the product moves all worlds a little, and then it takes longer."""
SEEDS_MAX = 10


@pytest.mark.timeout(300)
def test_planted_bugs_are_caught(pool: Pool) -> None:
    """Within a few seeds, none of which breaks a promise without it (`test_seeds`)."""
    assert len(CAUGHT_BY) >= 15
    bites = pool.bite([(bug, [seed, *range(SEEDS_MAX)]) for bug, seed in CAUGHT_BY.items()])
    assert [bite.bug for bite in bites if bite.seed is None] == []


def test_each_hint_is_for_a_bug() -> None:
    """One that was renamed or removed leaves none behind."""
    assert set(CAUGHT_BY) <= set(PLANTED)
