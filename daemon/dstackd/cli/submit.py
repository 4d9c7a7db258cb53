"""`dstackd submit`. Law: everything is checked before the first job is sent; ids alone go to standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, connect
from dstackd.cli.failures import Failure, say
from dstackd.cli.options import config_option
from dstackd.cli.overriding import override
from dstackd.cli.spec_options import spec_of_options, spec_options, was_given
from dstackd.cli.waiting import detaching, wait_for_jobs
from dstackd.plain_text import harmless
from dstackd.spec.canonical import to_json
from dstackd.spec.errors import SpecError
from dstackd.spec.files import load_spec_file
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec

_STANDARD_INPUT: Final = "-"
_SEPARATOR: Final = "--"
_COMMAND: Final = "dstackd.command"


@dataclass(frozen=True, slots=True)
class Written:
    """A spec as somebody wrote it. `where` is for messages; sources are relative to `folder`."""

    where: str
    spec: dict[object, object]
    folder: Path


class SubmitCommand(click.Command):
    """Keeps what stands behind `--` apart, which click would mix with the files."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if _SEPARATOR in args:
            at = args.index(_SEPARATOR)
            args, ctx.meta[_COMMAND] = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)


@click.command(cls=SubmitCommand, epilog=exit_codes.TABLE)
@click.argument("files", nargs=-1, metavar="[FILE... | -- COMMAND [ARG]...]")
@spec_options
@click.option("--project", metavar="TEXT", help="Column project of the row.")
@click.option("--priority", type=int, metavar="N", help="-1000 to 1000; larger goes first.")
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
    command: list[str] = context.meta.get(_COMMAND, [])
    written = _written(files, command, options)
    specs = _checked(written)
    if dry_run:
        for spec in specs:
            click.echo(json.dumps(to_json(spec), indent=2, sort_keys=True))
        return
    daemon = connect(config)
    ids = _send(daemon, written, specs, project=project, priority=priority)
    if wait:
        with detaching(ids):
            code = wait_for_jobs(daemon, ids, timeout_s=None)
        context.exit(code)


def _written(
    files: Sequence[str], command: Sequence[str], options: dict[str, Any]
) -> list[Written]:
    described = [name for name, value in options.items() if was_given(value)]
    if command and files:
        raise click.UsageError("give files, or a command behind --, not both")
    if command:
        return [Written("", spec_of_options(command, options), Path.cwd())]
    if not files:
        raise click.UsageError("there is nothing to submit: give a FILE, or -- COMMAND")
    if described:
        option = described[0].replace("_", "-")
        raise click.UsageError(f"--{option} describes a command behind --; write it into the file")
    return [each for file in files for each in _read(file)]


def _read(file: str) -> list[Written]:
    if file == _STANDARD_INPUT:
        text, where, folder = sys.stdin.read(), "standard input", Path.cwd()
        syntax = "stdin.json" if _is_json(text) else "stdin.yaml"
    else:
        where = syntax = file
        text, folder = _text_of(file), Path(file).absolute().parent
    try:
        jobs = load_spec_file(syntax, text)
    except SpecError as error:
        raise Failure(_sentences(error), exit_code=exit_codes.USAGE) from None
    several = len(jobs) > 1
    return [
        Written(f"{where}: job {number}" if several else where, job, folder)
        for number, job in enumerate(jobs, start=1)
    ]


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    except OSError as error:
        problem = f"{error.strerror}; to run a command, write it behind --"
    raise click.UsageError(f"{file}: {problem}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _checked(written: Sequence[Written]) -> list[JobSpec]:
    """The specs, their sources absolute. Raises Failure with everything that is wrong."""
    specs: list[JobSpec] = []
    problems: list[str] = []
    for each in written:
        try:
            specs.append(_with_absolute_sources(parse_spec(each.spec), each.folder))
        except SpecError as error:
            problems.append(_sentences(error, where=each.where))
    if problems:
        raise Failure("\n".join(problems), exit_code=exit_codes.USAGE)
    return specs


def _sentences(error: SpecError, *, where: str = "") -> str:
    prefix = f"{where}: " if where else ""
    return "\n".join(harmless(f"{prefix}{line}") for line in str(error).splitlines())


def _send(
    daemon: Daemon,
    written: Sequence[Written],
    specs: Sequence[JobSpec],
    *,
    project: str | None,
    priority: int | None,
) -> list[str]:
    row = {"project": project, "priority": priority}
    given = {name: value for name, value in row.items() if value is not None}
    ids: list[str] = []
    for each, spec in zip(written, specs, strict=True):
        try:
            answer = daemon.post("v1", "jobs", body={"spec": _sent(each, spec), **given})
        except Failure:
            if ids:
                say(f"{len(ids)} of {len(specs)} jobs were submitted before this:")
            raise
        ids.append(str(answer["id"]))
        click.echo(ids[-1])
    return ids


def _with_absolute_sources(spec: JobSpec, folder: Path) -> JobSpec:
    inputs = (replace(each, source=os.path.normpath(folder / each.source)) for each in spec.inputs)
    return replace(spec, inputs=tuple(inputs))


def _sent(written: Written, spec: JobSpec) -> dict[object, object]:
    """The spec as it was written (its defaults are the daemon's) but for the sources."""
    inputs = [{"source": each.source, "target": each.target} for each in spec.inputs]
    return {**written.spec, "inputs": inputs} if inputs else written.spec
