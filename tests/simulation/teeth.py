"""How many seeds a planted bug lives for. Law: a bug is caught by a broken promise, not by a plant that does not fit the product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest import MonkeyPatch  # noqa: PT013 - the class, not a mark of a test

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


def bite(bug: str, seeds: Iterable[int], *, stage: Stage) -> Bite:
    """Run the seeds with the bug, up to the first that breaks a promise."""
    with MonkeyPatch.context() as patch:
        PLANTED[bug](patch)
        for seed in seeds:
            report = run_seed(seed, stage=stage)
            for violation in report.violations:
                if any(f": {name}" in violation for name in _MISFIT):
                    message = f"{bug} does not fit: {violation}"
                    raise AssertionError(message)
                return Bite(bug, seed, violation)
    return Bite(bug, None)
