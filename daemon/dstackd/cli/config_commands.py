"""`dstackd config check` and `show`. Law: reads, and changes nothing; a secret's value is never shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dstackd.cli.failures import config_errors, say
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import table

if TYPE_CHECKING:
    from dstackd.config import Loaded


@click.group()
def config() -> None:
    """Look at the configuration of the daemon."""


@config.command()
@config_option
def check(config: Path | None) -> None:
    """Check the configuration: exit code 0, or 78 and a line for each problem."""
    loaded = _load(config)
    say(f"{loaded.source or 'the environment alone'}: good")


@config.command()
@json_option
@config_option
def show(*, as_json: bool, config: Path | None) -> None:
    """Show every value that the daemon would use, and where it comes from."""
    loaded = _load(config)
    values = loaded.settings.model_dump(mode="json")
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    rows = [
        (key, json.dumps(value, ensure_ascii=False), _origin(key, loaded))
        for key, value in _flat("", values)
    ]
    click.echo("\n".join(table(("KEY", "VALUE", "FROM"), rows)))


def _load(given: Path | None) -> Loaded:
    from dstackd.config import load

    with config_errors():
        return load(given)


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat += _flat(f"{key}.", value)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for at, each in enumerate(value):
                flat += _flat(f"{key}[{at}].", each)
        else:
            flat.append((key, value))
    return flat


def _origin(key: str, loaded: Loaded) -> str:
    variable = next(
        (variable for known, variable in loaded.variables.items() if _below(key, known)), None
    )
    if variable is not None:
        return f"${variable}"
    return str(loaded.source) if any(_below(key, each) for each in loaded.written) else "default"


def _below(key: str, known: str) -> bool:
    return key == known or key.startswith((f"{known}.", f"{known}["))
