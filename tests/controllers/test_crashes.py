"""The daemon dies behind an effect of a path, whichever it is, and the life still ends as it should.

Here it dies behind every effect of the plain path, and behind a part of those of the others: another part in each run, by the
seed that pytest prints (`--randomly-seed=N` takes the same again). `make simulate CRASHES=1` takes all of all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.controllers.crash_points import PATHS, die_at, points_of
from tests.controllers.installation import Installation

STRIDE = 8
"""Of the effects of a path that is not taken whole, one in so many."""
WHOLE = {"plain"}


def sample(name: str, points: Sequence[int]) -> Sequence[int]:
    """Those that this run takes; pytest-randomly has seeded `random` by its own seed and the test's name."""
    return points if name in WHOLE else points[random.randrange(STRIDE) :: STRIDE]


@pytest.mark.parametrize("name", PATHS)
async def test_a_death_behind_any_effect_changes_nothing(name: str, world: Installation) -> None:
    """Whatever the daemon has just done when it dies, however long it is away and in whatever order its loops run: the same
    end, nothing runs twice, and no machine is left.
    """
    path = PATHS[name]
    for point in sample(name, await points_of(path, world)):
        await die_at(path, point, world)
