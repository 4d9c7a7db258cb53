"""The tables at the end. Law: pure; from what was seen to what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from dstackd.demo.evidence import Calls, Evidence
from dstackd.demo.expectations import Expectation
from dstackd.demo.queue_view import JobView
from dstackd.demo.screen import phase_text

_ABOUT_WIDTH: Final = 10
_WIDE: Final = 90
"""Columns; on a narrower screen the tables stand closer."""


def tables(seen: Evidence, *, width: int) -> Group:
    """Every job, then every AWS operation, for a screen of so many columns."""
    gap = 1 if width >= _WIDE else 0
    return Group("", _jobs(seen, gap=gap), "", _calls(seen.calls, gap=gap), "")


def marks(*, encoding: str) -> tuple[str, str]:
    """What stands before an expectation that held, and before one that did not."""
    try:
        "✓✗".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return "ok  ", "FAIL"
    return "✓", "✗"


def verdicts(expectations: Sequence[Expectation], *, encoding: str) -> list[RenderableType]:
    """A line for each expectation."""
    held, broken = marks(encoding=encoding)
    return [
        Text.assemble(
            (held if one.held else broken, "bold green" if one.held else "bold red"),
            f" {one.about.ljust(_ABOUT_WIDTH)} ",
            (one.text, "" if one.held else "red"),
        )
        for one in expectations
    ]


def _table(*columns: tuple[str, str], left: int, gap: int) -> Table:
    """Columns with what stands below them; the first `left` hold words, the others figures."""
    table = Table(
        box=box.SIMPLE, show_edge=False, pad_edge=False, show_footer=True, padding=(0, gap, 0, 0)
    )
    for at, (column, footer) in enumerate(columns):
        justify: JustifyMethod = "left" if at < left else "right"
        table.add_column(column, footer, justify=justify, no_wrap=True)
    return table


def _jobs(seen: Evidence, *, gap: int) -> Table:
    tops = [job for job in seen.jobs if job.array_parent is None]
    lines = sum(job.log_lines for job in seen.jobs)
    size_bytes = sum(job.artifact_bytes for job in seen.jobs)
    attempts = sum(len(job.attempts) for job in seen.jobs)
    table = _table(
        *(("job", "together"), ("phase", ""), ("market", ""), ("attempts", str(attempts))),
        *(("exit\ncode", ""), ("log\nlines", str(lines)), ("artifact\nbytes", f"{size_bytes:,}")),
        *(("seconds", ""), ("estimated\ncost, USD", f"{sum(job.cost_usd for job in tops):.6f}")),
        left=3,
        gap=gap,
    )
    for job in _with_elements_behind(seen.jobs):
        table.add_row(*_job_cells(job))
    return table


def _with_elements_behind(jobs: Sequence[JobView]) -> list[JobView]:
    """An array's elements follow it, wherever they stand in the queue."""
    tops = [job for job in jobs if job.array_parent is None]
    return [
        one for top in tops for one in (top, *(job for job in jobs if job.array_parent == top.id))
    ]


def _job_cells(job: JobView) -> list[str | Text]:
    name = Text(job.name) if job.array_parent is None else Text(f"  {job.name}", "dim")
    ran = bool(job.attempts)
    seconds = (job.finished_at_ms or job.submitted_at_ms) - job.submitted_at_ms
    return [
        name,
        phase_text(job.phase),
        "/".join(dict.fromkeys(attempt.market for attempt in job.attempts)),
        str(len(job.attempts)) if ran else "",
        "" if job.exit_code is None else str(job.exit_code),
        str(job.log_lines) if ran else "",
        f"{job.artifact_bytes:,}" if job.artifact_bytes else "",
        f"{seconds / 1000:.1f}" if job.finished_at_ms else "",
        f"{job.cost_usd:.6f}" if job.cost_usd else "",
    ]


def _calls(calls: Calls, *, gap: int) -> Table:
    daemon, machines = (str(sum(side.values())) for side in (calls.daemon, calls.machines))
    table = _table(
        *(("AWS calls", "together"), ("by the daemon", daemon), ("by machines", machines)),
        left=1,
        gap=gap,
    )
    for name in sorted(calls.daemon.keys() | calls.machines.keys()):
        by_each = (side.get(name) for side in (calls.daemon, calls.machines))
        table.add_row(name, *("" if count is None else str(count) for count in by_each))
    return table
