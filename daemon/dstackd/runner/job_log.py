"""The job's output on its way to the spool. Law: never waits for the network; every line is numbered, or
counted as over the quota, or counted as lost.

Lines of the job and of ours (source `dstackd`) are numbered together, from 1 and without gaps: only what is
in the spool has a number. Where lines are left out, a line of ours says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dstackd.runner.cutting import SECRET_BYTES_MAX, Mask, cut_for
from dstackd.runner.lines import LineSplitter, fitting_texts
from dstackd.runner.records import Encoder
from dstackd.runner.spool import Spool

STDOUT, STDERR = "stdout", "stderr"
OURS = "dstackd"
"""Source of lines that the job did not write."""

_SURELY_FITS_CHARS = 20_000


class JobLog:
    """Takes both sources' bytes. `mask` is applied to each line before it is cut or kept; `quota_bytes` is what
    CloudWatch may be sent, as it counts (message and 26 bytes for each line). `now`: seconds since the epoch.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        mask: Mask | None = None,
        quota_bytes: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._mask = mask
        self._quota_bytes = quota_bytes
        self._now = now
        reserve_bytes = SECRET_BYTES_MAX if mask else 0
        self._splitters = {
            source: LineSplitter(reserve_bytes=reserve_bytes, cut=cut_for(mask))
            for source in (STDOUT, STDERR)
        }
        self._encoder = Encoder()
        self._lock = threading.Lock()
        self._at_ms = 0
        self._sent_bytes = 0
        self._unsaid_lost_lines = 0
        self.arrived = threading.Event()
        self.closed = threading.Event()
        self.size_bytes = 0
        """UTF-8 bytes of the texts of all lines, without line ends."""
        self.over_quota_lines = 0
        self.lost_lines = 0
        """Lines that the disk did not take, or the memory."""

    @property
    def lines(self) -> int:
        """How many lines have a number: what CloudWatch is to get."""
        return self._encoder.last_n

    def feed(self, source: str, chunk: bytes) -> None:
        """Bytes from a pipe; ignored once closed. What cannot be taken is counted as lost, and raised."""
        with self._lock:
            if not self.closed.is_set():
                try:
                    lines = self._splitters[source].feed(chunk, now_s=time.monotonic())
                    self._keep(source, lines)
                except Exception:
                    self.lost_lines += chunk.count(b"\n")
                    raise

    def look(self) -> None:
        """Show what bars have come to; to be called about once a second."""
        with self._lock:
            for source, splitter in self._splitters.items():
                self._keep(source, splitter.look(now_s=time.monotonic()))

    def say(self, text: str) -> None:
        """A line of ours; not the quota's matter, and masked: it may hold what a program said."""
        masked = text if self._mask is None else self._mask(text)
        with self._lock:
            if not self.closed.is_set():
                self._append(OURS, [masked], room_bytes=None)

    def close(self) -> None:
        """No more output: the last unfinished lines count now."""
        with self._lock:
            if self.closed.is_set():
                return
            for source, splitter in self._splitters.items():
                self._keep(source, splitter.finish())
            self.closed.set()
        self.arrived.set()

    def release(self) -> None:
        """Close the files, once the log is closed and nobody reads any more."""
        self._spool.close()

    def next_record(self) -> bytes | None:
        """The next record for CloudWatch (`records`); None when there is none now."""
        return self._spool.read()

    def done_fields(self) -> tuple[str, str, str, str]:
        """The first fields of `protocol.DONE`."""
        counts = (self.lines, self.size_bytes, self.over_quota_lines, self.lost_lines)
        lines, size_bytes, over, lost = (str(count) for count in counts)
        return lines, size_bytes, over, lost

    def _keep(self, source: str, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        texts = self._texts(lines)
        self.size_bytes += sum(map(_size_bytes, texts))
        if self.over_quota_lines:
            self.over_quota_lines += len(texts)
            return
        if self._unsaid_lost_lines:
            self._say_lost()
        room_bytes = None if self._quota_bytes is None else self._quota_bytes - self._sent_bytes
        taken = self._append(source, texts, room_bytes=room_bytes)
        if taken < len(texts):
            self.over_quota_lines = len(texts) - taken
            text = (
                f"the quota of {self._quota_bytes} bytes for this log is used up: "
                "what follows is counted and not kept"
            )
            self._append(OURS, [text], room_bytes=None)

    def _texts(self, lines: Sequence[bytes]) -> list[str]:
        """As text, hexadecimal escapes for what is not UTF-8; masked; cut where too long for one event."""
        joined = b"\n".join(lines)
        try:
            text = joined.decode()
        except UnicodeDecodeError:
            text = joined.decode("utf-8", "backslashreplace")
        texts = text.split("\n")
        if self._mask is not None and self._mask(text) != text:
            texts = [self._mask(one) for one in texts]
        if len(text) <= _SURELY_FITS_CHARS or max(map(len, texts)) <= _SURELY_FITS_CHARS:
            return texts
        return [piece for one in texts for piece in fitting_texts(one)]

    def _append(self, source: str, texts: Sequence[str], *, room_bytes: int | None) -> int:
        """Spool what fits; how many of the texts, lost ones included."""
        # The wall clock may be set back; CloudWatch wants a batch in time order.
        self._at_ms = max(self._at_ms, int(self._now() * 1000))
        before = self._encoder.last_n
        records, taken, size_bytes = self._encoder.records(
            texts, source=source, at_ms=self._at_ms, room_bytes=room_bytes
        )
        if not records:
            return taken
        if self._spool.append(records):
            self._sent_bytes += size_bytes
            self.arrived.set()
        else:
            self._encoder.last_n = before
            if source != OURS:
                self.lost_lines += taken
                self._unsaid_lost_lines += taken
        return taken

    def _say_lost(self) -> None:
        count, before = self._unsaid_lost_lines, self._encoder.last_n
        text = f"{count} line{'s'[: count > 1]} lost here: the machine's disk did not take them"
        self._append(OURS, [text], room_bytes=None)
        if self._encoder.last_n > before:
            self._unsaid_lost_lines = 0


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
