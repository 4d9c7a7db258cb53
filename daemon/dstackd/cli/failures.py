"""How a command ends when it cannot do what it was asked.

Law: one class, with a message that says what to do and an exit code of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from dstackd.cli import exit_codes
from dstackd.errors import ConfigError


class Failure(click.ClickException):
    """Ends the command with `message` on standard error and `exit_code`."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance


def say(message: str) -> None:
    """Talk to the person: standard error, so that standard output stays what was asked for."""
    click.echo(message, err=True)


@contextmanager
def config_errors() -> Iterator[None]:
    """A wrong configuration ends the command with exit code 78, also out of a group of tasks."""
    try:
        yield
    except ConfigError as error:
        raise _config_failure([error]) from None
    except ExceptionGroup as group:
        wrong, rest = group.split(ConfigError)
        if wrong is None or rest is not None:
            raise
        raise _config_failure(_leaves(wrong)) from None


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _config_failure(errors: Iterable[Exception]) -> Failure:
    return Failure("\n".join(map(str, errors)), exit_code=exit_codes.CONFIG)
