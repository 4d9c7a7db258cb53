"""What reaches the machine from outside while it works. Law: watching never fails the job; each watch
has a thread of its own, so a bucket that does not answer cannot hide a spot notice.

Spot notice: AWS says to look every 5 seconds at `spot/instance-action`, 404 when there is none
("Spot Instance interruption notices").
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from dstackd import protocol
from dstackd.launch_document import LaunchDocument
from dstackd.runner.credentials import parse_utc
from dstackd.runner.errors import RunnerError
from dstackd.runner.imds import Imds
from dstackd.runner.inbox import Reporter
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.s3 import Bucket
from dstackd.runner.stopping import INTERRUPTED, STOPPED, StopSwitch

SPOT_PATH = "meta-data/spot/instance-action"
CALL_PATIENCE_S = 2.0
JOURNAL_S = 5.0
SEALING_SHARE = 0.5
"""Of a spot notice: the rest after the job's grace is for its logs and artifacts."""


class Watch:
    """Looks for the spot notice and the daemon's word, and gives the heartbeat."""

    def __init__(
        self,
        *,
        instance_id: str,
        stop_grace_s: float,
        imds: Imds,
        bucket: Bucket,
        switch: StopSwitch,
        reporter: Reporter,
        journal: Journal,
        journal_stream: LogStream,
    ) -> None:
        self._instance_id = instance_id
        self._stop_grace_s = stop_grace_s
        self._imds = imds
        self._bucket = bucket
        self._switch = switch
        self._reporter = reporter
        self._journal = journal
        self._journal_stream = journal_stream
        self._over = threading.Event()

    def start(self, document: LaunchDocument) -> None:
        """Begin all watches; they end with the machine."""
        self._every(document.watch_s, self._look_for_notice, name="spot")
        self._every(document.watch_s, self._look_for_word, name="control")
        self._every(document.heartbeat_s, self._beat, name="heartbeat")
        self._every(JOURNAL_S, self._ship_journal, name="journal")

    def stop(self) -> None:
        self._over.set()

    def _every(self, interval_s: float, look: Callable[[], bool], *, name: str) -> None:
        """Call `look` at once and then every `interval_s`, until it says that it has seen all."""

        def run() -> None:
            while True:
                try:
                    if look():
                        return
                except (RunnerError, ValueError, KeyError, TypeError) as error:
                    self._journal.say(f"{name}: {error!r}")
                if self._over.wait(interval_s):
                    return

        threading.Thread(target=run, name=name, daemon=True).start()

    def _look_for_notice(self) -> bool:
        text = self._imds.get(SPOT_PATH)
        if text is None:
            return False
        notice = json.loads(text)
        action, at = str(notice["action"]), str(notice["time"])
        left_s = max(0.0, parse_utc(at) - time.time())
        self._reporter.report(protocol.NOTICE, action, at)
        grace_s = min(self._stop_grace_s, left_s * SEALING_SHARE)
        self._switch.order(INTERRUPTED, grace_s=grace_s)
        return True

    def _look_for_word(self) -> bool:
        key = protocol.control_key(self._instance_id)
        content = self._bucket.get(key, patience_s=CALL_PATIENCE_S)
        if content is None:
            return False
        if json.loads(content).get("stop") is None:
            return False
        self._journal.say(f"control: {content[:500]!r}")
        self._switch.order(STOPPED, grace_s=self._stop_grace_s)
        return True

    def _beat(self) -> bool:
        key = protocol.heartbeat_key(self._instance_id)
        self._bucket.put(key, b"", patience_s=CALL_PATIENCE_S)
        return False

    def _ship_journal(self) -> bool:
        self._journal.ship(self._journal_stream)
        return False
