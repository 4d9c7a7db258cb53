"""The machine's words to the daemon, in order. Law: the event is in the key; the object is empty.

A report never blocks the job: a thread of its own repeats each write until it worked, so a bucket
that refuses for a minute delays the reports and loses none.
"""

from __future__ import annotations

import queue
import threading

from dstackd import protocol
from dstackd.runner.errors import RunnerError
from dstackd.runner.journal import Journal
from dstackd.runner.pace import backoff_s
from dstackd.runner.s3 import Bucket
from dstackd.runner.unexpected import Unexpected

PUT_PATIENCE_S = 10.0


def fitting(text: str) -> str:
    """Free text as a field: short enough, and UTF-8 even if it holds a file's raw name."""
    return protocol.short_message(text.encode("utf-8", "backslashreplace").decode())


class Reporter:
    """Numbers events and writes them into the inbox."""

    def __init__(self, bucket: Bucket, *, instance_id: str, journal: Journal) -> None:
        self._bucket = bucket
        self._instance_id = instance_id
        self._journal = journal
        self._job_id = "-"
        self._attempt = 0
        self._seq = 0
        self._lock = threading.Lock()
        self._keys: queue.Queue[str | None] = queue.Queue()
        self._closed = threading.Event()
        self._unexpected = Unexpected("inbox", journal.say)
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_well(self) -> bool:
        """Whether reports are being written."""
        return self._thread.is_alive()

    def know_job(self, job_id: str, attempt: int) -> None:
        """Later events carry this job."""
        self._job_id, self._attempt = job_id, attempt

    def report(self, kind: str, *fields: str) -> None:
        """Queue an event; returns at once."""
        with self._lock:
            self._seq += 1
            event = protocol.InboxEvent(
                instance_id=self._instance_id,
                seq=self._seq,
                kind=kind,
                job_id=self._job_id,
                attempt=self._attempt,
                fields=fields,
            )
            self._keys.put(protocol.encode_inbox_key(event))
        self._journal.say(f"{kind} {' '.join(fields)}".strip())

    def close(self, *, patience_s: float) -> bool:
        """Wait until everything is written, at most `patience_s`; whether it is."""
        self._keys.put(None)
        self._thread.join(patience_s)
        self._closed.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            key = self._keys.get()
            if key is None or not self._write(key):
                return

    def _write(self, key: str) -> bool:
        tries = 0
        while not self._closed.is_set():
            if self._write_once(key):
                return True
            self._closed.wait(backoff_s(tries))
            tries += 1
        return False

    def _write_once(self, key: str) -> bool:
        try:
            self._bucket.put(key, b"", patience_s=PUT_PATIENCE_S)
        except RunnerError as error:
            self._journal.say(f"inbox: {error}")
            return False
        except Exception as error:  # noqa: BLE001 - the report is still to be written
            self._unexpected.met(error)
            return False
        return True
