"""From the spool to CloudWatch. Law: a batch is repeated until it was taken; only AWS's word that it
will never be taken, or the end of the patience, gives it up, and both are said.
"""

from __future__ import annotations

import os
import shutil
import threading
import time

from dstackd.runner import flush
from dstackd.runner.aws import AwsApi
from dstackd.runner.batches import Batch, Batcher
from dstackd.runner.cutting import Mask
from dstackd.runner.errors import AwsError, RunnerError
from dstackd.runner.job_log import JobLog
from dstackd.runner.journal import Journal
from dstackd.runner.lines import STATE_S
from dstackd.runner.logs import LogStream
from dstackd.runner.pace import backoff_s
from dstackd.runner.spool import Spool
from dstackd.runner.unexpected import Unexpected

PUT_PATIENCE_S = 5.0
"""Short: the loop here repeats, and looks whether it should stop."""
_HOPELESS = frozenset(
    {"InvalidParameterException", "SerializationException", "ValidationException"}
)


class Shipper:
    """Sends what `log` has spooled, every `flush_s` while there is something."""

    def __init__(
        self, log: JobLog, batcher: Batcher, stream: LogStream, *, flush_s: float, journal: Journal
    ) -> None:
        self._log = log
        self._batcher = batcher
        self._stream = stream
        self._flush_s = flush_s
        self._journal = journal
        self._gave_up = threading.Event()
        self._made = False
        self._unexpected = Unexpected("logs", journal.say)
        self._has_ended = False
        self._sent_at_s = float("-inf")
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self.sent_lines = 0

    def start(self) -> None:
        self._thread.start()

    @property
    def is_well(self) -> bool:
        """Whether it sends, or has come to the end of the log or of its patience."""
        return self._has_ended or self._gave_up.is_set() or self._thread.is_alive()

    def finish(self, *, patience_s: float) -> bool:
        """Wait, after the log was closed, until all is sent; whether it is."""
        self._thread.join(patience_s)
        self._gave_up.set()
        if self._thread.is_alive():
            self._thread.join(PUT_PATIENCE_S)
        if not self._thread.is_alive():
            self._log.release()
        return self.sent_lines == self._log.lines

    def _run(self) -> None:
        while not self._gave_up.is_set():
            try:
                self._has_ended = self._round()
            except Exception as error:  # noqa: BLE001 - the lines are on the disk, and the next try may send them
                self._gave_up.wait(self._unexpected.met(error))
                self._log.arrived.set()
            if self._has_ended:
                return

    def _round(self) -> bool:
        """Wait for lines and send them; whether they were the last."""
        self._log.arrived.wait(STATE_S)
        self._log.look()
        if not self._log.arrived.is_set():
            return False
        # Whatever arrives in this pause goes along; a first line does not wait at all.
        self._log.closed.wait(max(0.0, self._sent_at_s + self._flush_s - time.monotonic()))
        # Cleared before it is asked: a close in between is seen here or wakes the next round.
        self._log.arrived.clear()
        last = self._log.closed.is_set()
        self._sent_at_s = time.monotonic()
        self._send_all()
        self._unexpected.passed()
        return last

    def _send_all(self) -> None:
        while not self._gave_up.is_set():
            batch = self._batcher.take()
            if not batch.events:
                return
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        tries = 0
        while not self._gave_up.is_set() and not self._is_settled(batch):
            self._gave_up.wait(backoff_s(tries))
            tries += 1

    def _is_settled(self, batch: Batch) -> bool:
        """Try once: True when it was taken, or never will be."""
        try:
            self._put(batch)
        except RunnerError as error:
            self._journal.say(f"logs: {batch.events} lines: {error}")
            return isinstance(error, AwsError) and error.code in _HOPELESS
        except Exception as error:  # noqa: BLE001 - the batch is still to be sent
            self._unexpected.met(error)
            return False
        self.sent_lines += batch.events
        return True

    def _put(self, batch: Batch) -> None:
        if not self._made:
            self._stream.create(patience_s=PUT_PATIENCE_S)
            self._made = True
        try:
            refused = self._stream.put_encoded(batch.body, patience_s=PUT_PATIENCE_S)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                self._made = False
            raise
        if refused:
            self._journal.say(f"logs: refused by CloudWatch: {refused}")


def start_log(
    folder: str,
    *,
    logs: AwsApi,
    group: str,
    stream: str,
    flush_s: float,
    journal: Journal,
    mask: Mask | None = None,
    quota_bytes: int | None = None,
) -> tuple[JobLog, Shipper]:
    """An attempt's log, spooled in `folder`, which is emptied, and its way to CloudWatch, which has begun."""
    shutil.rmtree(folder, ignore_errors=True)
    spool = Spool(os.path.join(folder, flush.SEGMENTS))
    log = JobLog(spool, mask=mask, quota_bytes=quota_bytes, now=logs.clock.now)
    flush.remember(folder, group=group, stream=stream)
    shipper = Shipper(
        log,
        Batcher(log.next_record),
        LogStream(logs, group=group, stream=stream),
        flush_s=flush_s,
        journal=journal,
    )
    shipper.start()
    return log, shipper
