"""The live table, with the followed lines below it. Law: draws what it is given; it asks for nothing and keeps no job."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dstackd.demo.following import FollowedLine
from dstackd.demo.queue_view import JobView
from dstackd.demo.screen import Screen, Watch, phase_text, stamped
from dstackd.demo.story import Told

_TAIL_MAX: Final = 12
_TAIL_MIN: Final = 3
_FRAME_ROWS: Final = 7
"""Of the terminal's height: the table's frame, the empty line, the line of the clock."""

_WIDE: Final = 100
_MACHINE_CHARS: Final = 19
"""Of `i-0123456789abcdef0`."""
_MACHINE_CHARS_NARROW: Final = 10


class LiveScreen:
    """A table that is drawn again as the jobs move; what the demo itself does stays above it."""

    def __init__(self, console: Console, watch: Watch) -> None:
        self._console = console
        self._watch = watch
        self._jobs: Sequence[JobView] = ()
        self._tail: deque[Text] = deque(maxlen=_TAIL_MAX)
        # Drawn from here only: a thread of rich's would read what is being changed.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, get_renderable=self._drawn
        )

    def say(self, text: str) -> None:
        """See `Screen`."""
        self._console.print(stamped(self._watch.seconds(), text), soft_wrap=True)

    def tell(self, told: Sequence[Told]) -> None:
        """Nothing: the table shows it."""

    def log(self, lines: Sequence[FollowedLine]) -> None:
        """See `Screen`."""
        for line in lines:
            text = Text.assemble((f"{line.job:>8} │ ", "dim"), line.text, no_wrap=True)
            self._tail.append(text)

    def jobs(self, jobs: Sequence[JobView]) -> None:
        """See `Screen`."""
        self._jobs = jobs
        self._live.start(refresh=False)
        self._live.refresh()

    def close(self) -> None:
        """See `Screen`."""
        self._live.stop()

    def _drawn(self) -> Group:
        rows = live_rows(self._jobs)
        room = self._console.size.height - len(rows) - _FRAME_ROWS
        tail = list(self._tail)[-max(room, _TAIL_MIN) :]
        ended = sum(job.is_over for job in self._jobs)
        clock = stamped(self._watch.seconds(), f"{ended} of {len(self._jobs)} jobs have ended")
        return Group(_table(rows, width=self._console.size.width), *tail, clock)


Row = tuple[str, str, str, str, str, str, str]
"""Job, phase, attempt, market, machine, log lines, reason."""


def live_rows(jobs: Sequence[JobView]) -> list[Row]:
    """A row for each job; an array is one row that counts its elements."""
    elements: dict[str, list[JobView]] = {}
    for job in jobs:
        if job.array_parent is not None:
            elements.setdefault(job.array_parent, []).append(job)
    tops = [job for job in jobs if job.array_parent is None]
    return [_array_row(job, elements[job.id]) if job.id in elements else _row(job) for job in tops]


def _row(job: JobView) -> Row:
    last = job.last
    return (
        job.name,
        job.phase,
        str(last.number) if last else "",
        last.market if last else "",
        (last.instance_id or "") if last else "",
        str(job.log_lines) if last else "",
        job.message or job.reason,
    )


def _array_row(array: JobView, elements: Sequence[JobView]) -> Row:
    attempts = [job.last for job in elements if job.last is not None]
    machines = sum(attempt.instance_id is not None for attempt in attempts)
    phases = Counter(job.phase for job in elements)
    return (
        f"{array.name} of {len(elements)}",
        array.phase,
        str(max((attempt.number for attempt in attempts), default="")),
        "/".join(sorted({attempt.market for attempt in attempts})),
        f"{machines} machines" if machines else "",
        str(sum(job.log_lines for job in elements)) if attempts else "",
        ", ".join(f"{count} {phase}" for phase, count in phases.items()),
    )


def _table(rows: Sequence[Row], *, width: int) -> Table:
    """Widths that hold the longest of each column from the start: a table that jumps cannot be read."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
    machine = _MACHINE_CHARS if width >= _WIDE else _MACHINE_CHARS_NARROW
    table.add_column("job", no_wrap=True)
    table.add_column("phase", no_wrap=True, min_width=len("terminating"))
    table.add_column("attempt", justify="right", no_wrap=True)
    table.add_column("market", no_wrap=True, min_width=len("on-demand"))
    table.add_column("machine", no_wrap=True, min_width=machine, max_width=machine)
    table.add_column("lines", justify="right", no_wrap=True)
    table.add_column("reason", ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
    for row in rows:
        cells = [Text(cell) for cell in row]
        cells[1] = phase_text(row[1])
        table.add_row(*cells)
    return table


if TYPE_CHECKING:
    _: type[Screen] = LiveScreen
