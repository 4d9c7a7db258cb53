"""What `dstackd plan` is shown."""

from __future__ import annotations

from dataclasses import replace

from dstackd.core.instance import Market
from dstackd.core.launching import Block
from dstackd.core.offering import Offering
from dstackd.core.plan_view import plan_view
from tests.builders import NOW_MS

BASE = Offering("m0.large", "subnet-a", "us-east-1a", Market.SPOT, "x86_64", 0.05)
BLOCK = Block(NOW_MS + 1000, "Code: message", code="Code", since_ms=NOW_MS)
OFFERINGS = [replace(BASE, instance_type=f"m{at}.large") for at in range(10)]


def test_the_first_open_one_is_pointed_at() -> None:
    """Blocked ones stay in the list, with their block."""
    view = plan_view(OFFERINGS, closed=lambda o: BLOCK if o in OFFERINGS[:2] else None)
    assert (view.first, view.total, view.why_none) == (2, 10, "")
    assert [row.block for row in view.rows[:3]] == [BLOCK, BLOCK, None]
    assert [row.offering for row in view.rows] == OFFERINGS


def test_the_first_open_one_is_shown_however_far_behind_it_is() -> None:
    """The list is cut, the answer is not."""
    view = plan_view(OFFERINGS, closed=lambda o: None if o is OFFERINGS[7] else BLOCK, rows_max=3)
    assert (view.first, view.total, len(view.rows)) == (3, 10, 4)
    assert view.rows[3].offering == OFFERINGS[7]


def test_nothing_open_has_a_reason() -> None:
    """Why nothing fits, or what blocks all that fits."""
    assert plan_view([], closed=lambda _: None, why_none="raise it").why_none == "raise it"
    view = plan_view(OFFERINGS, closed=lambda _: BLOCK)
    assert view.first is None
    assert view.why_none.startswith("all 10 offerings: Code: message; refused since ")
