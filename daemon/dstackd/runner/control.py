"""What reaches the machine from outside while it works. Law: watching never fails the job; each watch
has a thread of its own, so a bucket that does not answer cannot hide a spot notice.

AWS says to look every 5 seconds at `spot/instance-action`, 404 when there is none ("Spot Instance
interruption notices"); a notice that is taken back afterwards changes nothing here any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dstackd import protocol
from dstackd.launch_document import LaunchDocument
from dstackd.runner.errors import RunnerError
from dstackd.runner.imds import Imds
from dstackd.runner.inbox import Reporter
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.notice import REBALANCE_PATH, SPOT_PATH, read_notice, read_rebalance
from dstackd.runner.s3 import Bucket
from dstackd.runner.stopping import INTERRUPTED, SILENCE, STOPPED, StopSwitch
from dstackd.runner.unexpected import Unexpected
from dstackd.runner.watchdog import SLACK_S, Watchdog

CALL_PATIENCE_S = 2.0
JOURNAL_S = 5.0
SEALING_SHARE = 0.5
"""Of a spot notice: the rest after the job's grace is for its logs and artifacts."""


def do_nothing() -> None:
    """For whoever keeps nothing up to date while the job runs."""


def all_is_well() -> bool:
    """For whoever has no threads that may die."""
    return True


class Watch:
    """Looks for the spot notice and the daemon's word, gives the heartbeat, and notices silence."""

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
        on_warning: Callable[[], None] = do_nothing,
        is_well: Callable[[], bool] = all_is_well,
        watchdog: Watchdog | None = None,
        job_id: str = "",
        attempt: int = 0,
    ) -> None:
        """`on_warning`: called when EC2 expects to reclaim the machine, and when it has announced it; may take
        its time, and raise. `is_well`: False when a thread that the job needs has died; there is no heartbeat then.
        `job_id`, `attempt`: whose stop is heard; without them, whoever's.
        """
        self._instance_id = instance_id
        self._stop_grace_s = stop_grace_s
        self._imds = imds
        self._bucket = bucket
        self._switch = switch
        self._reporter = reporter
        self._journal = journal
        self._journal_stream = journal_stream
        self._on_warning = on_warning
        self._is_well = is_well
        self._watchdog = watchdog
        self._job_id = job_id
        self._attempt = attempt
        self._silence_timeout_s = 0.0
        self._heard_at = time.monotonic()
        self._over = threading.Event()

    def start(self, document: LaunchDocument) -> None:
        """Begin all watches; they end with the machine. The document itself was the last thing heard."""
        self._silence_timeout_s = document.silence_timeout_s
        self._heard_at = time.monotonic()
        self._every(document.watch_s, self._look_for_notice, name="spot")
        self._every(document.watch_s, self._look_for_rebalance, name="rebalance")
        self._every(document.watch_s, self._look_for_word, name="control")
        self._every(document.watch_s, self._notice_silence, name="silence")
        self._every(document.heartbeat_s, self._beat, name="heartbeat")
        self._every(JOURNAL_S, self._ship_journal, name="journal")

    def stop(self) -> None:
        self._over.set()

    def _every(self, interval_s: float, look: Callable[[], bool], *, name: str) -> None:
        """Call `look` at once and then every `interval_s`, until it says that it has seen all."""
        unexpected = Unexpected(name, self._journal.say)

        def run() -> None:
            while True:
                self._expect(name, within_s=interval_s + SLACK_S)
                try:
                    if look():
                        break
                except (RunnerError, ValueError, KeyError, TypeError) as error:
                    self._journal.say(f"{name}: {error!r}")
                except Exception as error:  # noqa: BLE001 - whoever does not look sees no notice
                    unexpected.met(error)
                if self._over.wait(interval_s):
                    break
            if self._watchdog is not None:
                self._watchdog.forget(name)

        threading.Thread(target=run, name=name, daemon=True).start()

    def _expect(self, name: str, *, within_s: float) -> None:
        if self._watchdog is not None:
            self._watchdog.expect(name, within_s=within_s)

    def _look_for_notice(self) -> bool:
        text = self._imds.get(SPOT_PATH)
        if text is None:
            return False
        notice = read_notice(text, now=time.time())
        self._reporter.report(protocol.NOTICE, notice.action, notice.at)
        self._switch.order(
            INTERRUPTED,
            grace_s=min(self._stop_grace_s, notice.left_s * SEALING_SHARE),
            deadline_s=time.monotonic() + notice.left_s,
        )
        # Beside the job's grace: most of what there is to save may be there already.
        self._warn("notice")
        return True

    def _look_for_rebalance(self) -> bool:
        """The job goes on: EC2 only expects to reclaim the machine, and may never do it. When it comes with the notice,
        as it may, there is nothing to use the time for any more.
        """
        text = self._imds.get(REBALANCE_PATH)
        if text is None:
            return False
        self._reporter.report(protocol.REBALANCE, read_rebalance(text))
        if self._switch.current() is None:
            self._warn("rebalance")
        return True

    def _warn(self, what: str) -> None:
        def use_the_time() -> None:
            try:
                self._on_warning()
            except Exception as error:  # noqa: BLE001 - it was of use, not needed
                self._journal.say(f"on {what}: {error!r}")

        try:
            threading.Thread(target=use_the_time, name=f"on {what}", daemon=True).start()
        except RuntimeError as error:  # no room for a thread; what was seen has been told
            self._journal.say(f"on {what}: {error!r}")

    def _look_for_word(self) -> bool:
        key = protocol.control_key(self._instance_id)
        content = self._bucket.get(key, patience_s=CALL_PATIENCE_S)
        self._heard_at = time.monotonic()
        if content is None:
            return False
        if not self._is_meant(content):
            return False
        self._journal.say(f"control: {content[:500]!r}")
        self._switch.order(STOPPED, grace_s=self._stop_grace_s)
        return True

    def _is_meant(self, content: bytes) -> bool:
        """The machine may run another job by the time when a word about the one before comes."""
        if not self._job_id:
            word = protocol.load_json(content)
            return isinstance(word, dict) and word.get("stop") is not None
        return protocol.hears_stop(content, job_id=self._job_id, attempt=self._attempt)

    def _beat(self) -> bool:
        """Its sign says that the job is looked after, not only that a thread can write."""
        if not self._is_well():
            self._journal.say("heartbeat: not given, a thread of the runner has died")
            return False
        key = protocol.heartbeat_key(self._instance_id)
        self._bucket.put(key, b"", patience_s=CALL_PATIENCE_S)
        self._heard_at = time.monotonic()
        return False

    def _notice_silence(self) -> bool:
        """Nobody could stop the job, and nobody may be there to end the machine: it ends both itself."""
        if time.monotonic() - self._heard_at < self._silence_timeout_s:
            return False
        self._journal.say(f"silence: no call was answered for {self._silence_timeout_s:.0f} s")
        self._switch.order(SILENCE, grace_s=self._stop_grace_s)
        return True

    def _ship_journal(self) -> bool:
        self._journal.ship(self._journal_stream)
        return False
