"""`dstackd reap`. Law: shows every machine of the bucket; what goes has been looked at twice, and is the daemon's to terminate."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, connect
from dstackd.cli.failures import say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import (
    cost_text,
    count_text,
    duration_text,
    moment_text,
    table,
    terminal_width,
)
from dstackd.plain_text import harmless

Row = Mapping[str, Any]

_HEADER: Final = ("MACHINE", "IS", "TYPE", "MARKET", "ZONE", "AGE", "COST", "FOR")
_SPARE: Final = ("ZONE", "MARKET", "TYPE")
_RIGHT: Final = ("AGE", "COST")
_LOOKS: Final = 3
_BETWEEN_LOOKS_S: Final = 6.0
"""The daemon takes looks that are 5 s apart for two."""
_EPILOG: Final = f"""\b
Exit codes:
  0    there is nothing to reap, or all of it was asked to go
  {exit_codes.REFUSED}    there is something to reap (--dry-run, or you said no), or it needs another look
  {exit_codes.USAGE}    not on a terminal, and without --yes
  {exit_codes.UNREACHABLE}   no daemon answers, or it cannot ask EC2 now"""


@click.command(epilog=_EPILOG)
@click.option("--dry-run", is_flag=True, help="Show what would go, and terminate nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@config_option
@click.pass_context
def reap(
    context: click.Context, *, dry_run: bool, yes: bool, as_json: bool, config: Path | None
) -> None:
    """List the machines of the bucket, and terminate those that nobody needs.

    The daemon does so by itself, within minutes; this is to see what it sees, and to have it do so
    now. A machine that no live attempt has is an orphan; it goes once two looks have said so.
    Machines of another installation in the same bucket are shown and never touched.
    """
    daemon = connect(config)
    view = daemon.get("v1", "machines", "reap")
    if as_json and dry_run:
        click.echo(json.dumps(view, indent=2))
    elif not as_json:
        _show(view)
    if dry_run or not view["to_reap"]:
        if as_json and not dry_run:
            click.echo(json.dumps(_nothing(), indent=2))
        context.exit(exit_codes.REFUSED if view["to_reap"] else 0)
    if not yes and not _agreed(view["to_reap"]):
        say("nothing was terminated")
        context.exit(exit_codes.REFUSED)
    done = _reap(daemon)
    if as_json:
        click.echo(json.dumps(done, indent=2))
    for line in _told(done):
        say(line)
    left = done["marked"] or done["marked_requests"]
    context.exit(exit_codes.REFUSED if left else 0)


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("this terminates machines: say --yes, or --dry-run to look only")
    return click.confirm(f"Terminate what is still unneeded at a second look ({count})?", err=True)


def _nothing() -> dict[str, list[str]]:
    return {"terminated": [], "marked": [], "cancelled": [], "marked_requests": []}


def _reap(daemon: Daemon) -> dict[str, list[str]]:
    """As many looks as it takes, at most _LOOKS: the first may be the one that marks."""
    done = _nothing()
    for look in range(_LOOKS):
        if look:
            say(f"looked once; again in {_BETWEEN_LOOKS_S:.0f} s")
            time.sleep(_BETWEEN_LOOKS_S)
        answer = daemon.post("v1", "machines", "reap")
        for name in ("terminated", "cancelled"):
            done[name] += answer[name]
        done |= {name: answer[name] for name in ("marked", "marked_requests")}
        if not done["marked"] and not done["marked_requests"]:
            break
    return done


def _told(done: Mapping[str, list[str]]) -> Iterator[str]:
    for name, what in (
        ("terminated", "asked to terminate"),
        ("cancelled", "cancelled"),
        ("marked", "looked at once, still there"),
        ("marked_requests", "looked at once, still open"),
    ):
        for each in done[name]:
            yield harmless(f"{each}: {what}")
    if not any(done.values()):
        yield "nothing to reap any more"


def _show(view: Row) -> None:
    machines, now_s = view["machines"], view["taken_at_ms"] / 1000
    if machines:
        rows = [_cells(each, now_s=now_s) for each in machines]
        lines = table(_HEADER, rows, width=terminal_width(), spare=_SPARE, right=_RIGHT)
        click.echo("\n".join(lines))
    for each in view["spot_requests"]:
        since = _since(each["marked_since_ms"])
        click.echo(harmless(f"spot request {each['id']} is open without a launch; {since}"))
    say(_verdict(view))


def _cells(row: Row, *, now_s: float) -> list[object]:
    cost_usd = row["cost_usd"]
    return [
        row["instance_id"],
        row["standing"],
        row["instance_type"],
        row["market"],
        row["zone"],
        duration_text(now_s - row["launched_at_ms"] / 1000),
        "?" if cost_usd is None else cost_text(cost_usd),
        _for(row),
    ]


def _for(row: Row) -> str:
    """Who needs it, until when; or since when nobody does."""
    standing = row["standing"]
    if standing == "foreign":
        return f"owner {row['owner']}" if row["owner"] else "no owner's tag"
    if standing in {"orphan", "confirmed"}:
        return f"nobody; {_since(row['since_ms'])}"
    if standing in {"leaving", "stuck"} and row["since_ms"] is not None:
        return f"nobody since {_time(row['since_ms'])}"
    if row["job_id"] is not None:
        return f"job {row['job_id']}/{row['attempt']}"
    if row["idle_until_ms"] is not None:
        return f"a next job, until {_time(row['idle_until_ms'])}"
    return str(row["why"])


def _since(marked_ms: int | None) -> str:
    return "not looked at before" if marked_ms is None else f"marked at {_time(marked_ms)}"


def _time(at_ms: int) -> str:
    """`14:05:10Z`."""
    return moment_text(at_ms)[11:19] + "Z"


def _verdict(view: Row) -> str:
    machines = view["machines"]
    ours = sum(each["standing"] != "foreign" for each in machines)
    stuck = sum(each["standing"] == "stuck" for each in machines)
    shown = [count_text(ours, "machine") + " of ours"]
    if ours < len(machines):
        shown.append(f"{len(machines) - ours} of other installations (never touched)")
    if stuck:
        shown.append(f"{stuck} that will not go: EC2 is asked again each minute")
    count = view["to_reap"]
    return f"{', '.join(shown)}; {f'{count} to reap' if count else 'nothing to reap'}"
