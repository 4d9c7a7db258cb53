"""The pictures in the documentation are drawn from the code."""

from __future__ import annotations

from pathlib import Path

from dstackd.core.diagram import phase_diagram

ROOT = Path(__file__).resolve().parents[2]


def test_phase_diagram_is_current() -> None:
    """The diagram in daemon/README.md is the transition table, move for move."""
    readme = (ROOT / "daemon" / "README.md").read_text(encoding="utf-8")
    drawn = readme.split("```mermaid\n")[1].split("\n```")[0]

    assert phase_diagram() == drawn
