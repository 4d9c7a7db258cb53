"""`dstackd ps`. Law: one line a job, in what the terminal has; --json has everything."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, connect
from dstackd.cli.failures import say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import (
    coloured,
    cut,
    duration_text,
    moment_text,
    shortened,
    table,
    terminal_width,
)
from dstackd.cli.waiting import Patience

Row = dict[str, Any]

_HEADER: Final = ("ID", "NAME", "PHASE", "ATTEMPT", "MARKET", "TYPE", "AGE", "EXIT", "REASON")
_SPARE: Final = ("TYPE", "MARKET", "ATTEMPT", "AGE")
_RIGHT: Final = ("ATTEMPT", "AGE", "EXIT")
_NAME_WIDTH_MAX: Final = 24
_PAGE_MAX: Final = 500
_WATCH_S: Final = 1.0
_HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also jobs that have ended.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N")
@click.option("-w", "--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@json_option
@config_option
@click.pass_context
def ps(
    context: click.Context,
    *,
    everything: bool,
    limit: int,
    watch: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """List jobs, newest first."""
    daemon = connect(config)
    if watch and (as_json or terminal_width() is None):
        raise click.UsageError("--watch redraws a terminal: use it on one, without --json")
    if watch:
        _watch(context, daemon, everything=everything, limit=limit)
    rows = list_jobs(daemon, everything=everything, limit=limit)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo("\n".join(lines_of(rows, now_s=time.time())))
    else:
        say(
            "no jobs yet" if everything else "no job is waiting or running; all jobs: dstackd ps -a"
        )
    if not as_json:
        for line in idle_lines(daemon.get("v1", "machines")["machines"]):
            say(line)


def list_jobs(daemon: Daemon, *, everything: bool, limit: int) -> list[Row]:
    """At most `limit` rows, newest first, in as many pages as it takes."""
    rows: list[Row] = []
    before: int | None = None
    while len(rows) < limit:
        count = min(limit - len(rows), _PAGE_MAX)
        page = daemon.get("v1", "jobs", all=everything, limit=count, before=before)["jobs"]
        rows += page
        if len(page) < count:
            break
        before = page[-1]["seq"]
    return rows


def lines_of(rows: list[Row], *, now_s: float) -> list[str]:
    """The table, phases in colour where there are colours."""
    width = terminal_width()
    cells = [_cells(row, now_s=now_s) for row in rows]
    lines = table(_HEADER, cells, width=width, spare=_SPARE, right=_RIGHT)
    at = lines[0].find("PHASE")  # a narrow terminal may have cut it off
    return [
        lines[0],
        *(_with_colour(line, row, at) for line, row in zip(lines[1:], rows, strict=True)),
    ]


def idle_lines(machines: list[Row]) -> list[str]:
    """What waits for a job and costs money meanwhile, a line a machine."""
    return [
        f"{each['instance_id']} ({each['instance_type']}, {each['market']}) is idle after job "
        f"{each['idle_job_id']} until {moment_text(each['idle_until_ms'])} at the latest"
        for each in machines
        if each["idle_until_ms"] is not None
    ]


def _cells(row: Row, *, now_s: float) -> list[object]:
    why = ": ".join(filter(None, (row["reason"], row["message"])))
    return [
        row["id"],
        cut(shortened(row["name"] or "-", _NAME_WIDTH_MAX), _NAME_WIDTH_MAX),
        row["phase"],
        row["attempt"] or "-",
        row["market"] or "-",
        row["instance_type"] or "-",
        duration_text(now_s - row["submitted_at_ms"] / 1000),
        "-" if row["exit_code"] is None else row["exit_code"],
        why or "-",
    ]


def _with_colour(line: str, row: Row, at: int) -> str:
    phase = row["phase"]
    end = at + len(phase)
    # A name with wide characters moves the column; then there is no colour.
    if at < 0 or line[at:end] != phase:
        return line
    return line[:at] + coloured(phase, phase) + line[end:]


def _watch(context: click.Context, daemon: Daemon, *, everything: bool, limit: int) -> None:
    rows, patience = list_jobs(daemon, everything=everything, limit=limit), Patience()
    try:
        while True:
            shown = "\n".join(lines_of(rows, now_s=time.time()))
            click.echo(_HOME_AND_CLEAR + shown)
            time.sleep(_WATCH_S)
            rows = patience.call(lambda: list_jobs(daemon, everything=everything, limit=limit))
    except KeyboardInterrupt:
        context.exit(exit_codes.DETACHED)
