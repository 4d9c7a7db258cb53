"""From a pipe's bytes to lines of text. Law: pure; no byte of the job's output is dropped but line
ends.
"""

from __future__ import annotations

from dstackd import protocol

MESSAGE_BYTES_MAX = 262_144 - protocol.LOG_EVENT_OVERHEAD_BYTES
"""A whole event, in accounts where CloudWatch still has the limit of 256 KB."""

_CONTINUATION_BYTES_MAX = 3


class LineSplitter:
    """Cuts one source's bytes into lines; what has no line end yet waits for more."""

    def __init__(self, *, line_bytes_max: int = protocol.LOG_LINE_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends (LF or CR LF)."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        lines = [piece for line in whole for piece in self._cut(_without_return(line))]
        if len(self._rest) > self._line_bytes_max:
            *pieces, self._rest = self._cut(self._rest)
            lines.extend(pieces)
        return lines

    def finish(self) -> list[bytes]:
        """The last line, if it had no end."""
        rest, self._rest = self._rest, b""
        return self._cut(rest) if rest else []

    def _cut(self, line: bytes) -> list[bytes]:
        pieces = []
        while len(line) > self._line_bytes_max:
            at = _character_start(line, self._line_bytes_max)
            pieces.append(line[:at])
            line = line[at:]
        return [*pieces, line]


def _without_return(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


def _character_start(line: bytes, at: int) -> int:
    """The nearest place at or before `at` that is not inside a UTF-8 character."""
    for back in range(min(_CONTINUATION_BYTES_MAX, at - 1) + 1):
        if line[at - back] & 0xC0 != 0x80:  # noqa: PLR2004 - a continuation byte is 10xxxxxx
            return at - back
    return at


def texts_of(line: bytes, *, source: str) -> list[str]:
    """The line as text, hexadecimal escapes for what is not UTF-8; more than one where escapes make the
    message too long for one event.
    """
    return _fit(line.decode("utf-8", "backslashreplace"), source=source)


def _fit(text: str, *, source: str) -> list[str]:
    # JSON writes a control character as six bytes; only a text this long can be too long.
    if len(text) * 6 < MESSAGE_BYTES_MAX // 2:
        return [text]
    message = protocol.encode_log_line(protocol.LogLine(n=10**12, source=source, text=text))
    if len(message.encode()) <= MESSAGE_BYTES_MAX:
        return [text]
    middle = len(text) // 2
    return _fit(text[:middle], source=source) + _fit(text[middle:], source=source)
