"""What a launch would ask for, shown before it is one. Law: values only; nothing here asks or launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dstackd.core.launching import Block
from dstackd.core.offering import Offering
from dstackd.core.shortage import shortage_text

ROWS_MAX = 200


@dataclass(frozen=True, slots=True)
class PlanRow:
    """An offering, and what keeps it from being asked for now."""

    offering: Offering
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class PlanView:
    """Offerings in the order in which they would be asked for: the first ones, and the first open one in any case."""

    rows: tuple[PlanRow, ...]
    first: int | None
    """Position in `rows` of the one that would be asked for now; None: `why_none` says why."""
    total: int
    """How many fit, shown or not."""
    why_none: str = ""


def plan_view(
    offerings: Sequence[Offering],
    *,
    closed: Callable[[Offering], Block | None],
    why_none: str = "",
    rows_max: int = ROWS_MAX,
) -> PlanView:
    """`why_none`: why nothing fits, where `offerings` is empty."""
    rows = [PlanRow(offering, closed(offering)) for offering in offerings]
    first = next((at for at, row in enumerate(rows) if row.block is None), None)
    shown = rows[:rows_max]
    if first is not None and first >= rows_max:
        shown.append(rows[first])
        first = rows_max
    blocked = [(row.offering, row.block) for row in rows if row.block is not None]
    if first is None and blocked:
        why_none = shortage_text(blocked)
    return PlanView(tuple(shown), first, len(rows), why_none)
