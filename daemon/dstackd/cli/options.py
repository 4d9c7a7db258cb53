"""Options that several commands have, and how their values are read. Law: a wrong value is a usage error that says what to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """`--config FILE`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration (else $DSTACKD_CONFIG, ./dstackd.toml, /etc/dstackd/dstackd.toml).",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )


def read_duration(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """A click callback: `90`, `1.5`, `5m`, `2h30m` as seconds."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    from dstackd.spec.reading import RefusedError
    from dstackd.spec.units import duration_s

    try:
        return float(duration_s(low_s=0)(value))
    except RefusedError as error:
        raise click.BadParameter(f"{error.problem}; {error.fix}") from None


def read_attempt(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """A click callback: a number from 1, or `all`."""
    if value is None or value == "all" or (value.isascii() and value.isdecimal() and int(value)):
        return value
    raise click.BadParameter(f'"{value}" is not an attempt; write a number from 1, or all')
