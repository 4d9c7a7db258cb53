"""Who is alive, and how AWS answers. Law: writers note facts, readers judge them; nothing here acts.

The same judgement feeds /livez, /healthz, the metrics and systemd's watchdog.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

PASS_MAX_S = 30.0
"""The longest honest pass of a loop that does not say otherwise."""
WEDGED_FACTOR = 3.0
"""A loop is wedged when it has neither finished nor failed a pass for three intervals and its longest honest pass."""


@dataclass(slots=True)
class LoopPulse:
    """One loop's signs of life, in monotonic seconds."""

    name: str
    interval_s: float
    pass_max_s: float
    """The longest that a pass may honestly take: slow answers, repeated calls, large uploads."""
    started_s: float
    passes: int = 0
    failures: int = 0
    last_pass_s: float | None = None
    """End of the last pass, good or bad: the loop turns."""
    last_success_s: float | None = None
    last_error: str = ""
    """Empty after a success."""

    def succeeded(self, now_s: float) -> None:
        """A pass ended well."""
        self.passes += 1
        self.last_pass_s = self.last_success_s = now_s
        self.last_error = ""

    def failed(self, now_s: float, error: str) -> None:
        """A pass ended with an operating error; the loop goes on."""
        self.passes += 1
        self.failures += 1
        self.last_pass_s = now_s
        self.last_error = error

    def is_wedged(self, now_s: float) -> bool:
        """No pass has ended for too long: the loop hangs."""
        last_s = self.started_s if self.last_pass_s is None else self.last_pass_s
        return now_s - last_s > self.interval_s * WEDGED_FACTOR + self.pass_max_s


@dataclass(slots=True)
class Vitals:
    """Every loop's pulse, and what the start-up has found."""

    loops: dict[str, LoopPulse] = field(default_factory=dict)
    schema_current: str = ""
    schema_head: str = ""
    standing_by_for: str = ""
    """The daemon that owns the backend while this one waits for it; empty once it is ours."""
    first_pass_done: bool = False
    """The first snapshot was reconciled: what runs in AWS is known."""
    watch_problem: str = ""
    """Why commits of others are looked for instead of noticed; empty: they are noticed."""
    bucket_rules_problem: str = ""
    """Why the bucket has not the lifecycle rules that it should have; empty while nothing is known against it."""
    orphans_terminated: int = 0
    """Machines of ours that nobody needed, and that were asked to go since the start."""
    spot_requests_cancelled: int = 0
    """Spot requests of ours that waited without a launch, and were cancelled since the start."""

    def add_loop(
        self, name: str, *, interval_s: float, now_s: float, pass_max_s: float = PASS_MAX_S
    ) -> LoopPulse:
        """Register a loop before it starts."""
        self.loops[name] = LoopPulse(name, interval_s, pass_max_s, now_s)
        return self.loops[name]

    def wedged(self, now_s: float) -> tuple[str, ...]:
        """Names of the loops that hang."""
        return tuple(pulse.name for pulse in self.loops.values() if pulse.is_wedged(now_s))


@dataclass(frozen=True, slots=True)
class ApiCalls:
    """How one AWS operation has answered since the start."""

    service: str
    operation: str
    calls: int
    errors: Iterable[tuple[str, int]]
    """(error code, count) of the calls that failed."""
    seconds_total: float
    last_success_at_ms: int | None
    last_error_at_ms: int | None
    last_error_code: str
    paced_seconds_total: float = 0.0
    """What calls have waited at our own gate before they were sent."""
    waiting: int = 0
    """Calls that wait there now."""
