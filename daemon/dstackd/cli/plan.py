"""`dstackd plan`. Law: shows what the daemon would ask EC2 for, and changes nothing; --json is what the daemon says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import connect
from dstackd.cli.failures import say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.spec_options import spec_options
from dstackd.cli.text import count_text, moment_text, need_text, table, terminal_width
from dstackd.cli.written import WithCommand, checked_specs, sent_spec, written_specs
from dstackd.plain_text import harmless

Row = Mapping[str, Any]

_HEADER: Final = ("#", "TYPE", "MARKET", "ZONE", "VCPU", "MEMORY", "GPU", "USD/H", "STATE")
_SPARE: Final = ("GPU", "MEMORY", "VCPU")
_NUMBERED_MAX: Final = 200
"""The daemon sends so many, and behind them the first open one, wherever it stands."""
_RIGHT: Final = ("#", "VCPU", "MEMORY", "USD/H")


@click.command(
    cls=WithCommand,
    epilog=f"{exit_codes.TABLE}\n\nHere {exit_codes.REFUSED} is also: nothing fits, or all that fits is blocked.",
)
@click.argument("files", nargs=-1, metavar="[FILE... | -- COMMAND [ARG]...]")
@spec_options
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@json_option
@config_option
@click.pass_context
def plan(
    context: click.Context,
    /,
    *,
    files: tuple[str, ...],
    limit: int,
    as_json: bool,
    config: Path | None,
    **options: Any,  # noqa: ANN401 - one for each field of a spec
) -> None:
    """Show what jobs would be launched on, for how much, and what is blocked.

    Takes what submit takes; nothing is submitted, and nothing launched. The offerings of each job
    are in the order in which EC2 would be asked for them. ~ marks a price that is an estimate.

    Exits with 0 when each job would be launched now, and with 1 when nothing fits one of them or
    all that fits is blocked.
    """
    written = written_specs(context, files, options)
    specs = checked_specs(written)
    daemon = connect(config)
    plans = [
        daemon.post("v1", "plan", body={"spec": sent_spec(each, spec)})
        for each, spec in zip(written, specs, strict=True)
    ]
    if as_json:
        click.echo(json.dumps(plans, indent=2))
    else:
        for at, (each, answer) in enumerate(zip(written, plans, strict=True)):
            if len(plans) > 1:
                click.echo(("\n" if at else "") + harmless(each.where))
            _show(answer, limit=limit)
    if any(answer["first"] is None for answer in plans):
        context.exit(exit_codes.REFUSED)


def _show(answer: Row, *, limit: int) -> None:
    offerings, first = answer["offerings"], answer["first"]
    rows = [_cells(at, row, is_first=at == first) for at, row in enumerate(offerings)]
    # The one that would be asked for is shown however far behind it is.
    shown = rows[:limit] + ([rows[first]] if first is not None and first >= limit else [])
    if shown:
        lines = table(_HEADER, shown, width=terminal_width(), spare=_SPARE, right=_RIGHT)
        click.echo("\n".join(lines))
    say("\n".join(harmless(line) for line in _verdict(answer, shown=len(shown))))


def _cells(at: int, row: Row, *, is_first: bool) -> list[object]:
    gpu, blocked = row["gpu"], row["blocked"]
    state = "would be asked first" if is_first else "open"
    if blocked is not None:
        state = f"until {moment_text(blocked['until_ms'])}: {blocked['reason']}"
    return [
        at + 1 if at < _NUMBERED_MAX else "…",
        row["instance_type"],
        row["market"],
        row["zone"],
        row["vcpus"],
        f"{row['memory_gib']:g} GiB",
        "-" if gpu is None else f"{gpu['count']} {gpu['name']}".rstrip(),
        price_text(row["price_usd_h"], estimated=row["estimated"]),
        state,
    ]


def price_text(usd_h: float, *, estimated: bool) -> str:
    """`0.0350`, or `~0.0384` for an estimate."""
    return f"{'~' if estimated else ''}{usd_h:.4f}"


def _verdict(answer: Row, *, shown: int) -> Iterator[str]:
    offerings, first, total = answer["offerings"], answer["first"], answer["total"]
    if needs := answer.get("needs"):
        yield f"first it needs {'; '.join(map(need_text, needs))}"
    if shown < total:
        more = f"; more: -n {len(offerings)}" if shown < len(offerings) else ""
        yield f"{shown} of {count_text(total, 'offering')} shown{more}"
    if first is None:
        yield f"nothing would be launched now: {answer['why_none']}"
        return
    row = offerings[first]
    price = price_text(row["price_usd_h"], estimated=row["estimated"])
    what = f"{row['instance_type']} ({row['market']}) in {row['zone']}"
    yield f"EC2 would be asked for {what}, {price} USD an hour"
