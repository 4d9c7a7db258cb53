"""The daemon's own log: structlog set up once, with the standard library's logging routed in.

Law: only the composition root and the command line import it. A log line is an event with fields;
a field whose name says that it is a secret is never written.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

from dstackd.plain_text import harmless

Format = Literal["auto", "console", "json"]
Level = Literal["debug", "info", "warning", "error"]

REDACTED: Final = "[redacted]"

_SECRET = re.compile(
    r"secret|passw|credential|authorization|signature|cookie|private_?key|access_?key|api_?key"
    r"|(?<!client_)(?<!next_)token"
)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Cover every field, at any depth, whose name looks like that of a secret."""
    return {key: _covered(key, value) for key, value in event.items()}


def _covered(key: object, value: object) -> object:
    if isinstance(key, str) and _SECRET.search(_snake(key)) and value is not None:
        return REDACTED
    if isinstance(value, Mapping):
        return {name: _covered(name, member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_covered("", member) for member in value]
    return value


def _snake(key: str) -> str:
    """AWS writes ClientToken, we write client_token."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()


def configure_logging(*, level: Level, style: Format, stream: TextIO) -> None:
    """Send structlog's events from `level` on, and the libraries' from WARNING on, to `stream`.

    `auto` is console on a terminal and JSON lines otherwise. NO_COLOR takes the colours away.
    """
    console = style == "console" or (style == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    rendering = _console(stream) if console else _json()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )
    _route_libraries(formatter, stream)


def _console(stream: TextIO) -> list[structlog.typing.Processor]:
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    # Its own default prints the values of local variables, secrets among them.
    plain = structlog.dev.plain_traceback
    return [_tame, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _tame(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """On a terminal, text that came from a row must not move the cursor."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = harmless(value)
    return event


def _json() -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


def _number(level: Level) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _route_libraries(formatter: logging.Formatter, stream: TextIO) -> None:
    to_stream = logging.StreamHandler(stream)
    to_stream.setFormatter(formatter)
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(to_stream)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
