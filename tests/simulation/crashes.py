"""Every crash point of a path. Law: all of them, also behind one that breaks a promise."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tests.controllers.crash_points import Path, die_at, points_of
from tests.controllers.installation import Installation, an_installation
from tests.simulation.stage import Stage


@dataclass(frozen=True, slots=True)
class Enumerated:
    """What came of a path."""

    name: str
    points: int = 0
    broken: tuple[str, ...] = ()
    """A sentence for each point at which a promise was; or one for the path, when it was even without a death."""
    seconds: float = 0.0


def enumerate_path(name: str, path: Path, *, stage: Stage) -> Enumerated:
    """Live it undisturbed, then once for each of its points."""
    began_s = time.monotonic()
    points, broken = asyncio.run(_live_all(path, stage))
    return Enumerated(name, points, broken, time.monotonic() - began_s)


async def _live_all(path: Path, stage: Stage) -> tuple[int, tuple[str, ...]]:
    with stage.folder() as folder:
        async with an_installation(folder, template=stage.template, inline=True) as world:
            try:
                points = await points_of(path, world)
            except AssertionError as error:
                return 0, (f"without a death: {error}",)
            told = [await _die(path, point, world) for point in points]
            return len(points), tuple(filter(None, told))


async def _die(path: Path, point: int, world: Installation) -> str:
    try:
        await die_at(path, point, world)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other points are looked at
        return f"{'; '.join(error.__notes__)}: {type(error).__name__} {error}"
    return ""
