"""`dstackd logs`. Law: the job's own bytes and nothing else on standard output and standard error's copy of its stderr; what we say about them is one line each, on standard error."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, connect
from dstackd.cli.failures import say
from dstackd.cli.log_stream import Entry, followed_log, position_of, stored_log
from dstackd.cli.options import config_option, read_attempt
from dstackd.cli.text import count_text, moment_text
from dstackd.cli.waiting import detaching
from dstackd.core.log_verdict import COMPLETE
from dstackd.plain_text import coloured_only, harmless


@click.command(epilog=exit_codes.TABLE)
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job is over.")
@click.option(
    "--attempt",
    callback=read_attempt,
    metavar="N|all",
    help="Only this attempt; without it, all of them in order.",
)
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Begin with the last N lines.")
@click.option("--timestamps", is_flag=True, help="Begin each line with when it was written (UTC).")
@click.option("--exit-code", is_flag=True, help="With -f: exit with the job's own exit code.")
@config_option
@click.pass_context
def logs(
    context: click.Context,
    *,
    job: str,
    follow: bool,
    attempt: str | None,
    tail: int | None,
    timestamps: bool,
    exit_code: bool,
    config: Path | None,
) -> None:
    """Show what a job has written.

    JOB is an id, or the beginning of one.

    Its standard output goes to standard output, its standard error to standard error: byte for byte into a
    file or a pipe. On a terminal colours are kept, and what else could drive it (the cursor, its title, the
    clipboard) is shown as text. Whether a log is complete, and how many lines are not here, is said on
    standard error. Ctrl-C leaves the job running.
    """
    if exit_code and not follow:
        raise click.UsageError("--exit-code needs -f: a job has no exit code before it is over")
    daemon = connect(config)
    found = daemon.get("v1", "jobs", job)
    job_id = str(found["job"]["id"])
    _say_elements(found.get("elements", []))
    entries = _entries(daemon, job_id, follow=follow, attempt=attempt, tail=tail)
    with detaching([job_id]):
        end = Printer(timestamps=timestamps).show_all(entries)
    _say_end(job_id, end, follow=follow)
    if exit_code and end["phase"] in exit_codes.TERMINAL:
        context.exit(exit_codes.exit_code_of(end))


def _entries(
    daemon: Daemon, job_id: str, *, follow: bool, attempt: str | None, tail: int | None
) -> Iterable[Entry]:
    after = None
    if tail is not None:
        last = deque(stored_log(daemon, job_id, attempt=attempt), maxlen=tail + 1)
        end = last.pop()
        yield from last
        if not follow:
            yield end
            return
        after = position_of(last[-1]) if last else _position_behind(daemon, job_id, attempt=attempt)
    if follow:
        yield from followed_log(daemon, job_id, attempt=attempt, after=after)
    else:
        yield from stored_log(daemon, job_id, attempt=attempt)


def _position_behind(daemon: Daemon, job_id: str, *, attempt: str | None) -> str | None:
    """For --tail 0: behind everything there is."""
    last: Entry | None = None
    for entry in stored_log(daemon, job_id, attempt=attempt):
        last = last if "end" in entry else entry
    return None if last is None else position_of(last)


class Printer:
    """Writes entries; says where another attempt begins and where lines are missing."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._attempt: int | None = None

    def show_all(self, entries: Iterable[Entry]) -> Entry:
        """Write the entries up to the end, and return what it says."""
        for entry in entries:
            if "end" in entry:
                end: Entry = entry["end"]
                return end
            self._show(entry)
        raise AssertionError("a log ends with its end")

    def _show(self, entry: Entry) -> None:
        if self._attempt not in {None, entry["attempt"]}:
            say(f"--- attempt {entry['attempt']} ---")
        self._attempt = entry["attempt"]
        if "missing" in entry:
            say(f"--- {count_text(entry['missing'], 'line')} missing ---")
            return
        text = entry["log"]
        if self._timestamps:
            text = f"{moment_text(entry['at_ms'])} {text}"
        if entry["source"] == "dstackd":
            say(f"--- {harmless(text)} ---")
            return
        stream = sys.stderr if entry["source"] == "stderr" else sys.stdout
        if stream.isatty():
            text = coloured_only(text)
        stream.buffer.write(f"{text}\n".encode(errors="replace"))
        stream.flush()


def _say_elements(elements: list[str]) -> None:
    """An array writes nothing itself: who asks for its lines wants those of its elements."""
    if elements:
        span = elements[0] if len(elements) == 1 else f"{elements[0]} to {elements[-1]}"
        say(f"--- an array: the lines are those of its elements, {span} ---")


def _say_end(job_id: str, end: Entry, *, follow: bool) -> None:
    for attempt, verdict in end["verdicts"].items():
        # Who asks for what is there wants to hear of what is not; who follows, of the end.
        if follow or verdict != COMPLETE:
            say(f"--- log of attempt {attempt}: {verdict} ---")
    if follow:
        code = "" if end["exit_code"] is None else f" (exit code {end['exit_code']})"
        why = harmless(": ".join(filter(None, (end["reason"], end["message"]))))
        say(f"{job_id} {end['phase']}{code}: {why}")
