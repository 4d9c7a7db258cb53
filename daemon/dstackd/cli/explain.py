"""`dstackd explain`. Law: why a job is where it is, in the words of the daemon; --json is what the daemon says."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli.api import connect
from dstackd.cli.explained_attempts import attempt_lines, history_lines
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import (
    bold,
    coloured,
    count_text,
    cut,
    duration_text,
    moment_text,
    table,
    terminal_width,
)
from dstackd.plain_text import harmless

Row = Mapping[str, Any]

_WIDTH_MAX: Final = 100
_INDENT: Final = "  "
_NAME_WIDTH_MAX: Final = 24


@click.command()
@click.argument("job")
@click.option("--history", is_flag=True, help="Also every event with what was known then.")
@json_option
@config_option
def explain(*, job: str, history: bool, as_json: bool, config: Path | None) -> None:
    """Say why a job is where it is, and what comes next.

    JOB is an id, or the beginning of one. Says what the job waits for and since when, what would
    start it now, which bound ends the wait at the latest, what each attempt did, and what would help.
    """
    answer = connect(config).get("v1", "jobs", job, "explain")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo("\n".join(lines_of(answer, history=history)))


def lines_of(answer: Row, *, history: bool = False) -> Iterator[str]:
    """The whole explanation."""
    on_terminal = terminal_width()
    width = None if on_terminal is None else min(on_terminal, _WIDTH_MAX)
    yield from _head(answer, width)
    now_ms = answer["now_ms"]
    yield from _section("Waits for", _waits(answer["waits_for"], now_ms, width))
    yield from _section("Next", _steps(answer["next_steps"], now_ms, width))
    if answer["queue"] is not None:
        yield from _queue(answer["queue"], now_ms, width)
    yield from _section("Retries", _bullets(answer["retries"], width))
    yield from _section("What would help", _bullets(answer["advice"], width))
    for attempt in answer["attempts"]:
        title = f"Attempt {attempt['number']}"
        yield from _section(title, _indented(attempt_lines(attempt, now_ms=now_ms), width))
    if history:
        lines = history_lines(answer["events"], answer["job"]["submitted_at_ms"])
        yield from _section("History", _indented(lines, width))


def _head(answer: Row, width: int | None) -> Iterator[str]:
    job, phase = answer["job"], answer["phase"]
    name = f" ({cut(job['name'], _NAME_WIDTH_MAX)})" if job["name"] else ""
    since = duration_text((answer["now_ms"] - answer["since_ms"]) / 1000)
    is_over = job["finished_at_ms"] is not None
    when = f"since {_at(answer['since_ms'], answer['now_ms'])}, {since}" + " ago" * is_over
    for line in _wrapped(f"{job['id']}{name} is {phase} {when}", width, first="", rest=_INDENT):
        # Wrapped without the colours, which take no columns.
        painted = line.replace(f" is {phase} ", f" is {coloured(phase, phase)} ", 1)
        yield painted.replace(job["id"], bold(job["id"]), 1)
    if is_over and (answer["reason"] or answer["message"]):
        why = ": ".join(filter(None, (answer["reason"], answer["message"])))
        yield from _wrapped(why, width, first=_INDENT, rest=_INDENT)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Nothing when there is nothing in it."""
    shown = list(lines)
    if shown:
        yield ""
        yield bold(title)
        yield from shown


def _waits(waits: Iterable[Row], now_ms: int, width: int | None) -> Iterator[str]:
    for each in waits:
        since = ""
        if each["since_ms"] is not None:
            lasted = duration_text((now_ms - each["since_ms"]) / 1000)
            since = f"since {_at(each['since_ms'], now_ms)} ({lasted})"
        head = " ".join(filter(None, (each["reason"], since)))
        yield from _bullet(f"{head}: {each['text']}" if head else each["text"], width)


def _steps(steps: Iterable[Row], now_ms: int, width: int | None) -> Iterator[str]:
    for each in steps:
        when = ""
        if each["at_ms"] is not None:
            left = duration_text(max(each["at_ms"] - now_ms, 0) / 1000)
            when = f"{_at(each['at_ms'], now_ms)}, in {left}: "
        bound = ""
        if each["bound"]:
            bound = f" ({each['bound']}: {each['value_s']:g} s)"
        yield from _bullet(f"{when}{each['text']}{bound}", width)


def _queue(queue: Row, now_ms: int, width: int | None) -> Iterator[str]:
    yield from _section("What fits", _offerings(queue, now_ms, width))
    yield from _section("Bounds", _bounds(queue["bounds"], width))
    yield from _section("Its turn", _turn(queue, width))
    yield from _section("Idle machines", _idle(queue["idle"], now_ms, width))


def _offerings(queue: Row, now_ms: int, width: int | None) -> Iterator[str]:
    total, shown = queue["offerings_total"], queue["offerings"]
    if not total:
        return
    inner = None if width is None else width - len(_INDENT)
    rows = [
        (
            each["instance_type"],
            each["market"],
            each["zone"],
            f"{each['price_usd_h']:.4f}",
            "open"
            if each["closed_until_ms"] is None
            else f"until {_at(each['closed_until_ms'], now_ms)}: {each['why']}",
        )
        for each in shown
    ]
    header = ("TYPE", "MARKET", "ZONE", "USD/H", "STATE")
    yield from (f"{_INDENT}{line}" for line in table(header, rows, width=inner, right=("USD/H",)))
    more = f"{queue['open_total']} of {count_text(total, 'offering')} open now"
    dear = queue["too_dear"]
    if dear:
        more += f"; {dear} ruled out by a budget or a bound on vCPUs"
    if queue["would_get"]:
        verb = "it would get" if queue["open_total"] else "first in line is"
        more += f"; {verb} {queue['would_get']}"
    yield from _wrapped(more, width, first=_INDENT, rest=_INDENT)


def _bounds(bounds: Iterable[Row], width: int | None) -> Iterator[str]:
    for each in bounds:
        full = each["used"] + each["wanted"] > each["limit"] + 1e-9
        verdict = "holds it" if full else "has room"
        yield from _bullet(
            f"{each['key']} = {_amount(each['limit'], each['unit'])}: {_used(each)}; {verdict}",
            width,
        )


def _used(each: Row) -> str:
    unit = each["unit"]
    wanted = _amount(each["wanted"], unit)
    if unit != "USD":
        return f"{each['used']:g} in use, the job takes {each['wanted']:g}"
    spent = _amount(each["used"] - each["reserved"], unit)
    reserved = f" and {_amount(each['reserved'], unit)} reserved" if each["reserved"] else ""
    return f"{spent} spent{reserved}, the job may cost {wanted}"


def _amount(number: float, unit: str) -> str:
    return f"{number:.4g} {unit}" if unit == "USD" else f"{number:g} {unit}"


def _turn(queue: Row, width: int | None) -> Iterator[str]:
    ahead = queue["ahead"]
    least = "" if queue["ahead_complete"] else "at least "
    count = sum(each["count"] for each in ahead)
    if not count and not least:
        yield from _bullet("no job comes before it", width)
        return
    yield from _bullet(f"{least}{count_text(count, 'job')} before it that could start, too", width)
    for each in ahead:
        yield from _wrapped(f"{each['count']} {each['why']}", width, first="    ", rest="      ")


def _idle(idle: Iterable[Row], now_ms: int, width: int | None) -> Iterator[str]:
    for each in idle:
        why = f"not for it: {each['why_not']}" if each["why_not"] else "fits"
        until = f"until {_at(each['until_ms'], now_ms)}"
        yield from _bullet(
            f"{each['instance_id']} ({each['instance_type']}, {until}): {why}", width
        )


def _bullets(texts: Iterable[str], width: int | None) -> Iterator[str]:
    for text in texts:
        yield from _bullet(text, width)


def _bullet(text: str, width: int | None) -> Iterator[str]:
    yield from _wrapped(text, width, first="  - ", rest="    ")


def _indented(lines: Iterable[str], width: int | None) -> Iterator[str]:
    for line in lines:
        rest = " " * (len(line) - len(line.lstrip()) + 4)
        yield from _wrapped(line, width, first=_INDENT, rest=rest)


def _wrapped(text: str, width: int | None, *, first: str, rest: str) -> Iterator[str]:
    """Whole on anything but a terminal, so that a line can be searched for."""
    text = harmless(text)
    if width is None:
        yield first + text
        return
    lead = text[: len(text) - len(text.lstrip())]
    yield from textwrap.wrap(
        text.lstrip(),
        max(width, 40),
        initial_indent=first + lead,
        subsequent_indent=rest,
        break_on_hyphens=False,
    ) or [first]


def _at(at_ms: int, now_ms: int) -> str:
    """`14:05:10Z`, rounded up as the daemon's own words are, with the day when it is another one than today."""
    moment, today = moment_text(-(-at_ms // 1000) * 1000), moment_text(now_ms)
    return f"{moment[11:19]}Z" if moment[:10] == today[:10] else f"{moment[:10]} {moment[11:19]}Z"
