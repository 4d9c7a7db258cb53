"""The daemon's own log."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from typing_extensions import override

from dstackd.logging_setup import REDACTED, Format, Level, configure_logging
from tests.cli.program import environment

SECRETS = {
    "secret_access_key": "s1",
    "SecretAccessKey": "s2",
    "session_token": "s3",
    "password": "s4",
    "credentials": {"a": "s5"},
    "request": {"headers": [{"Authorization": "s6"}]},
}
OPEN = {"client_token": "o1", "ClientToken": "o2", "next_token": "o3", "job_id": "o4"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    @override
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def logged(
    stream: io.StringIO, *, level: Level = "info", style: Format = "auto"
) -> structlog.typing.FilteringBoundLogger:
    """A logger on the stream."""
    configure_logging(level=level, style=style, stream=stream)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_nobody_looks() -> None:
    """One object a line, with level and UTC time; below the level nothing."""
    stream = io.StringIO()
    logger = logged(stream)
    logger.debug("too_small")
    logger.info("job_moved", job_id="j", phase="running")
    [line] = lines_of(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job_moved", "level": "info", "job_id": "j", "phase": "running"}


def test_libraries_from_warning_on() -> None:
    """What a library logs is in the same form, its debug and info lines are not there."""
    stream = io.StringIO()
    logged(stream, level="debug")
    logging.getLogger("botocore").info("noise")
    logging.getLogger("botocore").warning("retry %s", 1, extra={"unused": 1})
    [line] = lines_of(stream)
    assert (line["event"], line["logger"], line["level"]) == ("retry 1", "botocore", "warning")


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_covered(style: Format) -> None:
    """Fields that are named like secrets are covered at any depth; tokens that are none are not."""
    stream = io.StringIO()
    logged(stream, style=style).info("call", **SECRETS, **OPEN)
    text = stream.getvalue()
    assert [secret for secret in ("s1", "s2", "s3", "s4", "s5", "s6") if secret in text] == []
    assert text.count(REDACTED) == 6
    assert all(value in text for value in OPEN.values())


def test_a_traceback_shows_no_values() -> None:
    """An exception is logged with its lines, never with the values of variables."""
    stream = Terminal()
    logger = logged(stream)
    password = "hi" + f"{len('dd')}" + "den"
    try:
        int(password[:0])
    except ValueError:
        logger.exception("crashed")
    assert "ValueError: invalid literal" in stream.getvalue()
    assert "hi2den" not in stream.getvalue()


def test_a_terminal_has_colours_and_keeps_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours unless NO_COLOR says otherwise; escape sequences out of a row are shown as text."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    logged(coloured).info("moved", message="\x1b[2Jx")
    monkeypatch.setenv("NO_COLOR", "1")
    logged(plain).info("moved", message="\x1b[2Jx")
    assert "\x1b[0m" in coloured.getvalue()
    for stream in (coloured, plain):
        assert "\x1b[2J" not in stream.getvalue()
        assert "\\x1b[2Jx" in stream.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_it_goes_to_the_stream_alone() -> None:
    """The daemon's standard output stays empty."""
    program = (
        "import sys, structlog; from dstackd.logging_setup import configure_logging as c; "
        "c(level='info', style='auto', stream=sys.stderr); structlog.get_logger().info('up')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, check=True
    )
    assert done.stdout == b""
    assert json.loads(done.stderr)["event"] == "up"
