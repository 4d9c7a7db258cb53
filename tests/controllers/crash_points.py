"""Every moment at which a daemon can die on a path. Law: a point is an effect of the undisturbed life, by its number from 1; a
path is lived once for each.

The daemon dies right behind the effect, stays away for a while, and a new one goes on with what was written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dstackd.core.limits import Limits
from tests.controllers.fuse import Fuse
from tests.controllers.installation import Installation
from tests.controllers.scenarios import SCENARIOS
from tests.controllers.sharing_scenarios import SHARING


class Path(Protocol):
    """What befalls a job or two, and how they have to end."""

    @property
    def limits(self) -> Limits:
        """Of its daemons."""
        ...

    @property
    def away_s(self) -> float:
        """How long no daemon is there after the death."""
        ...

    async def live(self, world: Installation, fuse: Fuse, *, away_s: float, order: int) -> int:
        """From the first row to the last leftover, with one death at most, behind which nobody is there for `away_s` and
        the loops run in that order. Returns the first point that is this path's own.
        """
        ...

    def check(self, world: Installation, *, died: bool) -> None:
        """Whether every promise holds."""
        ...


PATHS: Mapping[str, Path] = {**SCENARIOS, **SHARING}


async def points_of(path: Path, world: Installation) -> range:
    """Live it undisturbed, and count."""
    fuse = _begin(path, world, Fuse(), seed=0)
    first = await path.live(world, fuse, away_s=0.0, order=0)
    path.check(world, died=False)
    return range(first, len(fuse.effects) + 1)


async def die_at(path: Path, point: int, world: Installation) -> None:
    """Live it with a death there; AssertionError says what came of it. The loops of the daemon that follows run in an order of
    their own.
    """
    fuse = _begin(path, world, Fuse(point), seed=point)
    try:
        await path.live(world, fuse, away_s=path.away_s, order=point)
        path.check(world, died=True)
        assert len(fuse.effects) >= point, "no daemon has died"
    except AssertionError as error:
        error.add_note(f"died behind effect {point}: {fuse.effects[:point][-3:]}")
        raise


def _begin(path: Path, world: Installation, fuse: Fuse, *, seed: int) -> Fuse:
    (world.inputs_root / "code").mkdir(parents=True, exist_ok=True)
    world.limits = path.limits
    world.start_over(seed=seed, wrap=fuse.around)
    return fuse
