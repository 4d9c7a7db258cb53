"""How many seeds a planted bug lives for. Law: a bug is caught by a broken promise, not by a plant that does not fit the product.

A promise that a seed breaks without any bug proves nothing: the seeds are those that `test_seeds` and `make simulate` find whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest import MonkeyPatch  # noqa: PT013 - the class, not a mark of a test

from tests.simulation.caught_by import CAUGHT_BY
from tests.simulation.planted import PLANTED
from tests.simulation.seed import run_seed
from tests.simulation.stage import Stage

SEEDS_MAX = 200
_MISFIT = ("TypeError", "AttributeError", "NameError", "ImportError")


@dataclass(frozen=True, slots=True)
class Bite:
    """What became of a planted bug; `seed` None: it survived."""

    bug: str
    seed: int | None
    violation: str = ""
    tried: int = 0
    """Seeds, the last one among them."""


def bite(bug: str, seeds: Iterable[int], *, stage: Stage) -> Bite:
    """Run the seeds with the bug, up to the first that breaks a promise."""
    with MonkeyPatch.context() as patch:
        PLANTED[bug](patch)
        tried = 0
        for tried, seed in enumerate(seeds, start=1):
            report = run_seed(seed, stage=stage)
            for violation in report.violations:
                if any(f": {name}" in violation for name in _MISFIT):
                    message = f"{bug} does not fit: {violation}"
                    raise AssertionError(message)
                return Bite(bug, seed, violation, tried)
    return Bite(bug, None, tried=tried)


def search_order(bug: str) -> list[int]:
    """All seeds below SEEDS_MAX, the one that caught the bug last time before the others."""
    return list(dict.fromkeys([CAUGHT_BY.get(bug, 0), *range(SEEDS_MAX)]))


def table_line(found: Bite) -> str:
    """As `caught_by` has it."""
    return f'    "{found.bug}": {found.seed},'
