"""From a pipe's bytes to lines of text. Law: pure, the time is an argument; no byte of the job's output is
dropped but line ends, and states of a progress bar that the next one took the place of.

A line ends with LF or CR LF. A CR elsewhere is a bar that is drawn anew (`carriage.shown`): while it moves,
its state is a line of its own about once a second, and its last state always is one.
"""

from __future__ import annotations

from dstackd import protocol
from dstackd.runner.carriage import kept, shown
from dstackd.runner.cutting import Cut, character_start

MESSAGE_BYTES_MAX = 262_144 - protocol.LOG_EVENT_OVERHEAD_BYTES
"""A whole event, in accounts where CloudWatch still has the limit of 256 KB."""

STATE_S = 1.0
"""Between two states of a bar that moves."""


class LineSplitter:
    """Cuts one source's bytes into lines; what has no line end yet waits for more.

    A line that has not ended after `line_bytes_max + reserve_bytes` bytes is cut where `cut` says, so that
    the memory is bounded; lines that end within that come whole.
    """

    def __init__(
        self,
        *,
        line_bytes_max: int = protocol.LOG_LINE_BYTES_MAX,
        reserve_bytes: int = 0,
        cut: Cut = character_start,
    ) -> None:
        self._line_bytes_max = line_bytes_max
        self._reserve_bytes = reserve_bytes
        self._cut = cut
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._is_bar = False
        self._state: bytes | None = None
        """Of the bar that is being drawn: the one that became a line last."""
        self._state_at_s = float("-inf")

    def feed(self, chunk: bytes, *, now_s: float) -> list[bytes]:
        """The lines that are complete now, without their ends. `now_s` never goes back."""
        if b"\n" not in chunk:
            self._hold(chunk)
            return self._overlong() + self.look(now_s=now_s)
        is_bar = self._is_bar or b"\r" in chunk
        *lines, rest = b"".join([*self._parts, chunk]).split(b"\n")
        if is_bar:
            lines = [line for one in lines for line in self._finished(one)]
        self._parts, self._size_bytes, self._is_bar = [], 0, False
        self._hold(rest)
        return lines + self._overlong() + self.look(now_s=now_s)

    def look(self, *, now_s: float) -> list[bytes]:
        """The state of a bar that has moved, if it is time for one; call it when nothing comes, too."""
        if not self._is_bar or now_s < self._state_at_s + STATE_S:
            return []
        line = kept(b"".join(self._parts))
        self._parts, self._size_bytes = [line], len(line)
        state = shown(line)
        if not state.strip() or state == self._state:
            return []
        self._state, self._state_at_s = state, now_s
        return [state]

    def finish(self) -> list[bytes]:
        """The last line, if it had no end."""
        rest, self._parts, self._size_bytes, self._is_bar = b"".join(self._parts), [], 0, False
        return self._finished(rest) if rest else []

    def _hold(self, chunk: bytes) -> None:
        if chunk:
            self._parts.append(chunk)
            self._size_bytes += len(chunk)
            self._is_bar = self._is_bar or b"\r" in chunk

    def _finished(self, line: bytes) -> list[bytes]:
        """The line as it stands at its end; nothing where the bar's last state was a line already."""
        state, self._state = self._state, None
        end = shown(line) if b"\r" in line else line
        return [] if end == state else [end]

    def _overlong(self) -> list[bytes]:
        if self._size_bytes <= self._line_bytes_max + self._reserve_bytes:
            return []
        rest = b"".join(self._parts)
        if self._is_bar:
            rest = kept(rest)
        pieces = []
        while len(rest) > self._line_bytes_max + self._reserve_bytes:
            at = self._cut(rest, self._line_bytes_max)
            pieces.append(rest[:at].lstrip(b"\r"))
            rest = rest[at:]
        self._parts, self._size_bytes = [rest], len(rest)
        return pieces


def fitting_texts(text: str) -> list[str]:
    """The text in pieces of which each fits into one event, whatever JSON makes of it."""
    # JSON writes a control character as six bytes; only a text this long can be too long.
    if len(text) * 6 < MESSAGE_BYTES_MAX // 2:
        return [text]
    message = protocol.encode_log_line(protocol.LogLine(n=10**12, source="dstackd", text=text))
    size_bytes = len(text.encode("utf-8", "replace"))
    fits = len(message.encode("utf-8", "replace")) <= MESSAGE_BYTES_MAX
    if fits and size_bytes <= protocol.LOG_LINE_BYTES_MAX:
        return [text]
    middle = len(text) // 2
    return fitting_texts(text[:middle]) + fitting_texts(text[middle:])
