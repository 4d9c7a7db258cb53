"""How long a machine may exist when nobody is there to end it. Law: pure, and never less than what the daemon itself would wait.

The machine keeps it without the daemon (`protocol.TAG_LIFETIME`; its init counts, not the runner). A daemon that is alive acts at
one of its own bounds before, so this one ends only machines that were forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dstackd.core.limits import Limits
from dstackd.spec.model import JobSpec


def lifetime_s(specs: Iterable[JobSpec], *, limits: Limits) -> int:
    """Whole seconds from a machine's first minute to its end, for machines that each run one of the jobs; at least 1.

    A job without `max_duration`, and one whose machine may take further jobs (`reuse`; the daemon gives it none that would not
    fit), leave only the configured bound.
    """
    longest_s = max((_longest_s(spec, limits=limits) for spec in specs), default=0.0)
    return max(1, math.ceil(min(longest_s, math.floor(limits.machine_lifetime_s))))


def _longest_s(spec: JobSpec, *, limits: Limits) -> float:
    if spec.max_duration_s is None or spec.reuse_s is not None:
        return math.inf
    return bounds_s(spec.max_duration_s, spec, limits=limits)


def bounds_s(max_duration_s: float, spec: JobSpec, *, limits: Limits) -> float:
    """Seconds from a launch to the last word if each of the daemon's waits lasts to its bound."""
    return (
        limits.boot_timeout_s
        + limits.prepare_timeout_s
        + max_duration_s
        + spec.stop_grace_s
        + limits.duration_margin_s
        + limits.seal_timeout_s
    )
