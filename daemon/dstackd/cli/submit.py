"""`dstackd submit`. Law: everything is checked before the first job is sent; ids alone go to standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, connect
from dstackd.cli.failures import Failure, say
from dstackd.cli.options import config_option
from dstackd.cli.spec_options import spec_options
from dstackd.cli.waiting import detaching, wait_for_jobs
from dstackd.cli.written import WithCommand, Written, checked_specs, sent_spec, written_specs
from dstackd.spec.canonical import to_json
from dstackd.spec.model import JobSpec


@click.command(cls=WithCommand, epilog=exit_codes.TABLE)
@click.argument("files", nargs=-1, metavar="[FILE... | -- COMMAND [ARG]...]")
@spec_options
@click.option("--project", metavar="TEXT", help="Column project of the row.")
@click.option("--priority", type=int, metavar="N", help="-1000 to 1000; larger goes first.")
@click.option(
    "--unique-key", metavar="TEXT", help="A job of the project that has it is answered instead."
)
@click.option(
    "--run-at", metavar="TIME", help="Not before: 2027-01-31T06:00:00+01:00 (UTC if no offset)."
)
@click.option("--wait", "wait", is_flag=True, help="Stay until it is over; exit with its code.")
@click.option("--dry-run", is_flag=True, help="Print the spec with every default; submit nothing.")
@config_option
@click.pass_context
def submit(
    context: click.Context,
    /,
    *,
    files: tuple[str, ...],
    project: str | None,
    priority: int | None,
    unique_key: str | None,
    run_at: str | None,
    wait: bool,
    dry_run: bool,
    config: Path | None,
    **options: Any,  # noqa: ANN401 - one for each field of a spec
) -> None:
    """Submit jobs, and print their ids.

    FILE is YAML or JSON with one job or several; - is standard input. Or give a command behind --,
    with options for the rest. Its words are quoted as they are: for a pipe or a variable of the
    machine, write: dstackd submit -- sh -c 'echo $HOME | wc -c'

    Paths of inputs begin in the file's folder, or in the current one.
    """
    written = written_specs(context, files, options)
    specs = checked_specs(written)
    if dry_run:
        for spec in specs:
            click.echo(json.dumps(to_json(spec), indent=2, sort_keys=True))
        return
    if unique_key is not None and len(specs) > 1:
        raise click.UsageError(f"--unique-key is one job's: there are {len(specs)} here")
    daemon = connect(config)
    row = {"project": project, "priority": priority, "unique_key": unique_key, "run_at": run_at}
    given = {name: value for name, value in row.items() if value is not None}
    ids = _send(daemon, written, specs, given)
    if wait:
        with detaching(ids):
            code = wait_for_jobs(daemon, ids, timeout_s=None)
        context.exit(code)


def _send(
    daemon: Daemon,
    written: Sequence[Written],
    specs: Sequence[JobSpec],
    given: Mapping[str, object],
) -> list[str]:
    ids: list[str] = []
    for each, spec in zip(written, specs, strict=True):
        try:
            answer = daemon.post("v1", "jobs", body={"spec": sent_spec(each, spec), **given})
        except Failure:
            if ids:
                say(f"{len(ids)} of {len(specs)} jobs were submitted before this:")
            raise
        ids.append(str(answer["id"]))
        if answer.get("existing"):
            say(f"{ids[-1]} has this key already; nothing was inserted")
        click.echo(ids[-1])
    return ids
