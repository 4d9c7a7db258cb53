"""Effects as values. Law: `decide` returns them, only the shell carries them out, and each may be repeated harmlessly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestStop:
    """Ask the runner to stop the job: signal, grace, flush, seal."""

    instance_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """TerminateInstances."""

    instance_id: str


Action = RequestStop | Terminate
