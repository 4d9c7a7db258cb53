"""What the instances do after they were launched. Law: they write into the bucket what the runner writes, and go by themselves.

A machine reads its launch's document by tag and its job by launch index, as the runner does, then
reports booted, started, exited, sealed and done, and ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from dstackd import launch_document, protocol
from dstackd.protocol import InboxEvent
from tests.benchmarks.launch.ec2 import BY_ITSELF, Machine
from tests.benchmarks.launch.plan import Plan
from tests.benchmarks.launch.s3 import S3

_GOLDEN = 0.618034
"""Its multiples modulo 1 spread evenly, however many there are."""
_LAST_WORDS = 3


class Park:
    """Plays every machine of the account on the running event loop."""

    def __init__(self, plan: Plan, s3: S3) -> None:
        self._plan = plan
        self._s3 = s3
        self._documents: dict[str, launch_document.LaunchDocument] = {}

    def launched(self, machines: list[Machine]) -> None:
        """Let them boot."""
        for machine in machines:
            spread_s = self._plan.boot_spread_s * (machine.number * _GOLDEN % 1)
            boot_s = self._plan.boot_s + spread_s
            self._after(boot_s / 2, machine, partial(machine.enter, "running"))
            self._after(boot_s, machine, partial(self._booted, machine))

    def leaving(self, machine: Machine) -> None:
        """Somebody terminated it."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._plan.shutdown_s, machine.enter, "terminated")

    def _after(self, delay_s: float, machine: Machine, act: Callable[[], None]) -> None:
        def unless_gone() -> None:
            if machine.state in {"pending", "running"}:
                act()

        asyncio.get_running_loop().call_later(delay_s, unless_gone)

    def _booted(self, machine: Machine) -> None:
        document = self._document(machine.tags.get(protocol.TAG_LAUNCH, ""))
        if document is None:  # launched by a script, for nobody
            return
        job = launch_document.job_at(document, machine.launch_index)
        machine.job_id, machine.attempt = job.job_id, job.attempt
        self._report(machine, 1, protocol.BOOTED, str(protocol.VERSION))
        self._report(machine, 2, protocol.STARTED)
        self._beat(machine, document.heartbeat_s)
        run_s, step_s = self._plan.run_s, self._plan.seal_s / _LAST_WORDS
        words = (
            partial(self._report, machine, 3, protocol.EXITED, "0", "exit"),
            partial(self._report, machine, 4, protocol.SEALED, "complete", "0", "0", ""),
            partial(self._report, machine, 5, protocol.DONE, "0", "0"),
            partial(self._power_off, machine),
        )
        for position, word in enumerate(words):
            self._after(run_s + position * step_s, machine, word)

    def _document(self, launch_id: str) -> launch_document.LaunchDocument | None:
        if launch_id not in self._documents:
            stored = self._s3.objects.get(protocol.launch_key(launch_id))
            if stored is None:
                return None
            self._documents[launch_id] = launch_document.decode(stored.body)
        return self._documents[launch_id]

    def _report(self, machine: Machine, seq: int, kind: str, *fields: str) -> None:
        event = InboxEvent(machine.instance_id, seq, kind, machine.job_id, machine.attempt, fields)
        self._s3.put(protocol.encode_inbox_key(event), b"")

    def _beat(self, machine: Machine, interval_s: float) -> None:
        self._s3.put(protocol.heartbeat_key(machine.instance_id), b"")
        self._after(interval_s, machine, partial(self._beat, machine, interval_s))

    def _power_off(self, machine: Machine) -> None:
        machine.enter("shutting-down", BY_ITSELF)
        self.leaving(machine)
