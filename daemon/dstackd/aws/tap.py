"""A tap on a client's event system. Law: no call leaves that is not in the table, each attempt is counted, and what changes
something leaves only with a permit of that moment.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from botocore.exceptions import ClientError  # type: ignore[import-untyped] # ships no types

from dstackd.aws.error_table import rule_for
from dstackd.aws.operations import OPERATIONS, changes_something
from dstackd.aws.pacing import Pacing
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.translation import UNREADABLE, date_of, error_of, translate
from dstackd.aws.untyped import Untyped
from dstackd.errors import require
from dstackd.ports import Clock

log = structlog.get_logger(__name__)

NOTABLE_MS = 10_000
"""EC2 refuses a signature that is five minutes off, S3 one of fifteen: the operator should know before."""
_SENT_S = "dstackd_sent_s"
_ASKED_BY_BOTOCORE = ("s3", "HeadBucket")
"""After a redirect that does not say where to: botocore would ask for the bucket's region, which the policy does not allow. With
no answer it raises the redirect itself, which is what the operator has to hear.
"""


Permit = Callable[[], None]
"""Asked before each HTTP request that changes something: it raises when this daemon may not send it. The SDK repeats a call by
itself, so that the beginning of a call would be too early.
"""


class Tap:
    """The hooks of one client. Botocore calls them with keywords only, and more of them with each release."""

    def __init__(
        self,
        service: str,
        *,
        recorder: CallRecorder,
        clock: Clock,
        permit: Permit,
        pacing: Pacing | None = None,
    ) -> None:
        self._service = service
        self._permit = permit
        self._pacing = pacing
        self._recorder = recorder
        self._clock = clock

    def attach(self, events: Untyped) -> None:
        """Register on the emitter of one client, for all of its operations."""
        events.register_first("before-call", self._check)
        if self._pacing is not None:
            # With the service's name it runs before the signature, which must not age while it waits.
            events.register_first(f"request-created.{self._service}", self._repeat)
        events.register_first("request-created", self._sent)
        events.register_last("response-received", self._answered)

    def _check(self, *, model: Untyped, **_: Untyped) -> None:
        if (self._service, model.name) == _ASKED_BY_BOTOCORE:
            raise ClientError({"ResponseMetadata": {"HTTPHeaders": {}}}, model.name)
        known = (self._service, model.name) in OPERATIONS
        require(known, f"{self._service}:{model.name} is not in the table of operations")

    async def _repeat(self, *, request: Untyped, **_: Untyped) -> None:
        """The SDK sends a call once more after an error: that takes from AWS's buckets like any other."""
        if self._pacing is not None and _SENT_S in request.context:
            await self._pacing.repeat()

    def _sent(self, *, event_name: str, request: Untyped, **_: Untyped) -> None:
        if changes_something(event_name.rpartition(".")[2]):
            self._permit()
        request.context[_SENT_S] = self._clock.monotonic_s()

    def _answered(
        self,
        *,
        event_name: str,
        context: Untyped,
        parsed_response: Untyped,
        exception: Exception | None,
        **_: Untyped,
    ) -> None:
        operation = event_name.rpartition(".")[2]
        name = f"{self._service}:{operation}"
        now_s = self._clock.monotonic_s()
        seconds = now_s - context.get(_SENT_S, now_s)
        if exception is not None:
            failure = translate(exception, name)
            self._recorder.record(name, seconds=seconds, code=failure.code, error=type(failure))
            return
        code, message, status = error_of(parsed_response)
        if code != UNREADABLE:  # that may be a proxy's, whose clock is nobody's
            self._learn_time(parsed_response, seconds)
        if not code:
            self._recorder.record(name, seconds=seconds)
            return
        rule = rule_for(code, message=message, operation=operation, http_status=status)
        self._recorder.record(name, seconds=seconds, code=code, error=rule.error)
        if self._pacing is not None:
            self._pacing.refused(operation, code, message, sent_s=now_s - seconds)

    def _learn_time(self, parsed_response: Untyped, took_s: float) -> None:
        """Signatures, machines' reports and EC2's launch times go by AWS's clock; so do we."""
        told_ms = date_of(parsed_response)
        moved_ms = 0 if told_ms is None else self._clock.learn(told_ms, took_s=took_s)
        if abs(moved_ms) > NOTABLE_MS:
            log.warning("wall_clock_wrong", behind_s=round(moved_ms / 1000))
