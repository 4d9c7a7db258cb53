"""One line for each thing that happens, for pipes, files and terminals that cannot redraw. Law: never takes back a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from dstackd.demo.following import FollowedLine
from dstackd.demo.queue_view import JobView
from dstackd.demo.screen import Screen, Watch, phase_text, stamped
from dstackd.demo.story import Told

_WHO_WIDTH: Final = 17
"""Of `squares[0,2,4,6]`, and a space."""
_PHASE_WIDTH: Final = 13


class PlainScreen:
    """Writes lines, each as soon as it is known."""

    def __init__(self, console: Console, watch: Watch, *, every: Mapping[str, int]) -> None:
        """`every`: of a followed job's lines, the first and each n-th are shown."""
        self._console = console
        self._watch = watch
        self._every = every

    def say(self, text: str) -> None:
        """See `Screen`."""
        self._line(stamped(self._watch.seconds(), text))

    def tell(self, told: Sequence[Told]) -> None:
        """See `Screen`."""
        for one in told:
            line = stamped(self._watch.seconds_at(one.at_ms), one.who.ljust(_WHO_WIDTH))
            line.append_text(phase_text(one.phase, width=_PHASE_WIDTH)).append(one.text)
            line.rstrip()
            self._line(line)

    def log(self, lines: Sequence[FollowedLine]) -> None:
        """See `Screen`."""
        for line in lines:
            if line.n == 1 or line.n % self._every.get(line.job, 1) == 0:
                who = line.job.ljust(_WHO_WIDTH)
                self._line(stamped(self._watch.seconds(), f"{who}│ {line.text}"))

    def jobs(self, jobs: Sequence[JobView]) -> None:
        """Nothing: every change has its own line."""

    def close(self) -> None:
        """Nothing is left to do."""

    def _line(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)


if TYPE_CHECKING:
    _: type[Screen] = PlainScreen
