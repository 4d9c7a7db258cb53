"""Specs as a person writes them: files, standard input, or a command behind `--`. Law: all is read and checked before any is sent."""

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
from dstackd.cli.failures import Failure
from dstackd.cli.overriding import override
from dstackd.cli.spec_options import spec_of_options, was_given
from dstackd.plain_text import harmless
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


class WithCommand(click.Command):
    """Keeps what stands behind `--` apart, which click would mix with the files."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if _SEPARATOR in args:
            at = args.index(_SEPARATOR)
            args, ctx.meta[_COMMAND] = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)


def written_specs(
    context: click.Context, files: Sequence[str], options: dict[str, Any]
) -> list[Written]:
    """The specs in the files, or the one of the command behind `--` and its options. Raises click's errors."""
    command: list[str] = context.meta.get(_COMMAND, [])
    described = [name for name, value in options.items() if was_given(value)]
    if command and files:
        raise click.UsageError("give files, or a command behind --, not both")
    if command:
        return [Written("", spec_of_options(command, options), Path.cwd())]
    if not files:
        raise click.UsageError(
            f"there is nothing to {context.info_name}: give a FILE, or -- COMMAND"
        )
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


def checked_specs(written: Sequence[Written]) -> list[JobSpec]:
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


def _with_absolute_sources(spec: JobSpec, folder: Path) -> JobSpec:
    """An `s3://` address begins nowhere on this host, and stays as it is."""
    inputs = (
        each if each.is_s3 else replace(each, source=os.path.normpath(folder / each.source))
        for each in spec.inputs
    )
    return replace(spec, inputs=tuple(inputs))


def sent_spec(written: Written, spec: JobSpec) -> dict[object, object]:
    """The spec as it was written (its defaults are the daemon's) but for the sources."""
    inputs = [{"source": each.source, "target": each.target} for each in spec.inputs]
    return {**written.spec, "inputs": inputs} if inputs else written.spec
