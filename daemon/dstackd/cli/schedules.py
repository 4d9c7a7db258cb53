"""`dstackd schedules`. Law: one line a schedule; --json is what the daemon says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli.api import connect
from dstackd.cli.failures import say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import moment_text, table, terminal_width
from dstackd.plain_text import harmless

_HEADER: Final = ("NAME", "CRON", "TIMEZONE", "NEXT", "LAST", "LAST JOB", "PHASE", "NOTE")
_SPARE: Final = ("PHASE", "LAST", "TIMEZONE", "CRON")


@click.command()
@json_option
@config_option
def schedules(*, as_json: bool, config: Path | None) -> None:
    """List the schedules: when each runs next, and its last job.

    They are rows of the table schedule, written by SQL. All jobs of one: its jobs have a unique_key
    that begins with schedule/NAME/.
    """
    rows = connect(config).get("v1", "schedules")["schedules"]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        cells = [_cells(row) for row in rows]
        lines = table(_HEADER, cells, width=terminal_width(), spare=_SPARE)
        click.echo("\n".join(harmless(line) for line in lines))
    else:
        say("no schedules yet: they are rows of the table schedule")


def _cells(row: dict[str, Any]) -> list[object]:
    next_ms, last_ms = row["next_run_at_ms"], row["last_run_at_ms"]
    return [
        row["name"],
        row["cron"],
        row["timezone"],
        moment_text(next_ms) if next_ms is not None else _why_none(row),
        "-" if last_ms is None else moment_text(last_ms),
        row["last_job_id"] or "-",
        row["last_job_phase"] or "-",
        row["message"].replace("\n", "; ") or "-",
    ]


def _why_none(row: dict[str, Any]) -> str:
    if not row["enabled"]:
        return "off"
    return "never" if row["message"] else "soon"
