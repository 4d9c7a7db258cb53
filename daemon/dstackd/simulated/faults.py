"""What can go wrong in the simulated cloud. Law: knobs that a test turns and the cloud reads; the defaults are a good day."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from dstackd.errors import CloudUnavailable, Throttled, Unauthorized

SCRIPT_VARIABLE = "SIMULATED"
"""A job's environment variable with its script: the fields of `Script` as JSON, or a list of these, one an attempt."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the commands of one attempt do, and what befalls their machine. Times in seconds after the start of the commands."""

    run_s: float = 20.0
    exit_code: int = 0
    lines: int = 3
    files: int = 1
    """Artifacts that are sealed."""
    seal_s: float = 1.0
    never_boots: bool = False
    """The instance runs, its runner never reports."""
    fails_at: str = ""
    """The runner reports FAILED at this stage instead of starting the commands."""
    fails_final: bool = False
    """With `fails_at`: it says that no other machine could start them either."""
    hangs_after_s: float | None = None
    """The machine falls silent and goes on costing."""
    dies_after_s: float | None = None
    """The host fails: EC2 terminates the instance, without a word from the runner."""
    reclaim_after_s: float | None = None
    """EC2 gives notice that it takes the spot machine back."""
    rebalance_after_s: float | None = None
    """EC2 recommends to rebalance, and does nothing else."""
    silence_after_s: float | None = None
    """The machine has not reached its bucket for too long, and stops the job itself; its words arrive later."""
    lingers: bool = False
    """The machine does not end itself after its last word."""
    deaf: bool = False
    """The runner ignores the daemon's stop and the spot notice."""


def script_of(env: Mapping[str, str], attempt: int) -> Script:
    """The script in a job's environment; the last one stands for all later attempts."""
    value = json.loads(env.get(SCRIPT_VARIABLE, "{}"))
    scripts = value if isinstance(value, list) else [value]
    return Script(**scripts[min(attempt, len(scripts)) - 1])


@dataclass(slots=True)
class Faults:
    """Knobs. Counters are by operation, such as `RunInstances`: how many of the next calls go wrong."""

    capacity: dict[str, int] = field(default_factory=dict)
    """`type|zone|market`, each may hold `*` and `?` -> instances that may be alive at once."""
    quota_vcpus: int | None = None
    """vCPUs of the account's machines of one market together; None: no limit. A launch that goes beyond gets nothing."""
    throttle: Counter[str] = field(default_factory=Counter)
    """Not done: Throttled."""
    deny: Counter[str] = field(default_factory=Counter)
    """Not done: Unauthorized."""
    lose_call: Counter[str] = field(default_factory=Counter)
    """Not done, but the caller cannot know: CloudUnavailable."""
    lose_answer: Counter[str] = field(default_factory=Counter)
    """Done, but the caller cannot know: CloudUnavailable."""
    invisible_s: float = 0.0
    """How long a new instance is unknown to snapshots and to terminate."""
    untagged_s: float = 0.0
    """How long a new instance cannot be found by its tags: sweeps do not show it, and a request by its id is heard."""
    pending_s: float = 8.0
    boot_s: float = 30.0
    """From the launch to the runner's first word."""
    start_s: float = 2.0
    """From the first word to the commands."""
    take_s: float = 2.0
    """From the claim of an idle machine to its first word about the job."""
    shutdown_s: float = 20.0
    """How long an instance is `shutting-down`."""
    terminated_visible_s: float = 3600.0
    notice_s: float = 120.0
    """From the spot notice to the end."""
    left_open: int = 0
    """How many of the next shortages on the spot market leave a spot request behind that waits."""
    fulfilled_after_s: float | None = None
    """When such a request becomes a machine that no launch knows; None: it waits for ever."""
    machine_skew_s: float = 0.0
    """How far machines' clocks are off at most, ahead of the true time or behind it."""
    log_lag_s: float = 1.0
    """From a line to the moment a sweep shows it."""
    log_page_events: int = 100
    """Events of one page, which is one call."""
    late_share: float = 0.0
    """Share of the log events that show `late_s` later than the others."""
    late_s: float = 90.0
    doubled_share: float = 0.0
    """Share of the log events that are there twice."""
    lost_share: float = 0.0
    """Share of the log events that never arrive."""

    def room(self, instance_type: str, zone: str, market: str, alive: Counter[str]) -> int | None:
        """How many more instances fit; None: no limit. `alive` counts them by `type|zone|market`."""
        key = f"{instance_type}|{zone}|{market}"
        rooms = [
            limit - sum(count for name, count in alive.items() if fnmatchcase(name, pattern))
            for pattern, limit in self.capacity.items()
            if fnmatchcase(key, pattern)
        ]
        return max(min(rooms), 0) if rooms else None

    @contextmanager
    def on(self, operation: str) -> Iterator[None]:
        """Around the work of one call. Raises what the knobs say, before the work or after it."""
        if _take(self.throttle, operation):
            raise Throttled("RequestLimitExceeded", "Request limit exceeded.", operation=operation)
        if _take(self.deny, operation):
            raise Unauthorized("UnauthorizedOperation", "not allowed", operation=operation)
        if _take(self.lose_call, operation):
            raise CloudUnavailable("ConnectTimeout", "no answer", operation=operation)
        yield
        if _take(self.lose_answer, operation):
            raise CloudUnavailable("ReadTimeout", "no answer", operation=operation)


def _take(counter: Counter[str], operation: str) -> bool:
    if counter[operation] <= 0:
        return False
    counter[operation] -= 1
    return True
