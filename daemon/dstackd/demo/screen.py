"""What the demo shows while it runs, and on what. Law: the interface of the two ways to show it, and what they share."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final, Protocol

from rich.console import Console
from rich.text import Text

from dstackd.demo.following import FollowedLine
from dstackd.demo.queue_view import JobView
from dstackd.demo.story import Told

PLAIN_WIDTH: Final = 120

PHASE_STYLE: Final = {
    "submitted": "dim",
    "queued": "yellow",
    "waits": "yellow",
    "launching": "cyan",
    "booting": "cyan",
    "running": "bold blue",
    "sealing": "magenta",
    "terminating": "magenta",
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "bold yellow",
    "rejected": "bold red",
}


class Watch:
    """Seconds since the demo began."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._offset_s = time.time() - self._began_s

    def seconds(self) -> float:
        return time.monotonic() - self._began_s

    def seconds_at(self, at_ms: int) -> float:
        """The same of a time in the table."""
        return max(0.0, at_ms / 1000 - self._offset_s - self._began_s)


class Screen(Protocol):
    """Where the demo shows what happens. Called from one thread."""

    def say(self, text: str) -> None:
        """A line about what the demo itself does."""

    def tell(self, told: Sequence[Told]) -> None:
        """What has happened to jobs since the last call."""

    def log(self, lines: Sequence[FollowedLine]) -> None:
        """Lines of followed jobs that have come since the last call."""

    def jobs(self, jobs: Sequence[JobView]) -> None:
        """How all jobs stand."""

    def close(self) -> None:
        """Nothing more will come; what is on the screen stays readable."""


def make_console() -> Console:
    """Standard output. Colours as NO_COLOR and the terminal say; a wide line where there is no terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PLAIN_WIDTH)


def is_live(console: Console) -> bool:
    """Whether there is a terminal that a table can be drawn on again and again."""
    return sys.stdout.isatty() and not console.is_dumb_terminal


def stamped(seconds: float, text: str, *, style: str = "") -> Text:
    """A line that begins with the time."""
    return Text.assemble((f"{seconds:6.1f} s  ", "dim"), (text, style))


def phase_text(phase: str, *, width: int = 0) -> Text:
    """A phase in its colour."""
    return Text(phase.ljust(width), PHASE_STYLE.get(phase, ""))
