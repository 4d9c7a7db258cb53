"""The phases as a Mermaid diagram. Law: drawn from TRANSITIONS; a test keeps the one in daemon/README.md equal to it."""

from __future__ import annotations

from dstackd.core.phase import TERMINAL, TRANSITIONS


def phase_diagram() -> str:
    """The text between the fences of a `mermaid` block."""
    lines = ["stateDiagram-v2", "    [*] --> submitted"]
    for phase, followers in TRANSITIONS.items():
        order = list(TRANSITIONS)
        lines += [f"    {phase} --> {next_}" for next_ in sorted(followers, key=order.index)]
    lines += [f"    {phase} --> [*]" for phase in TRANSITIONS if phase in TERMINAL]
    return "\n".join(lines)
