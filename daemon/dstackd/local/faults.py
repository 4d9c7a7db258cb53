"""The knobs of the local cloud: what can be made scarce, slow or late.

Law: plain values, no behaviour beyond checking them. The defaults are AWS's documented behaviour
with no delay anywhere; every knob can be turned while the cloud runs (`POST /local/faults`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Faults:
    """Seconds unless the name says otherwise."""

    capacity: Mapping[str, int] = field(default_factory=dict)
    """`type|zone|market` (each may hold `*` and `?`) -> instances that may be alive at once.

    The market is `spot` or `on-demand`. Every pattern that matches an offering limits it.
    """
    boot_delay_s: float = 0.0
    """How long an instance stays `pending` before its machine starts."""
    terminate_grace_s: float = 1.0
    """From SIGTERM to SIGKILL, on TerminateInstances and on `shutdown`."""
    not_found_s: float = 0.0
    """How long a new instance is unknown to Describe and Terminate (EC2 is eventually consistent)."""
    terminated_visible_s: float = 3600.0
    """How long a terminated instance is still described (AWS: about an hour)."""
    closed_request_visible_s: float = 14_400.0
    """How long an ended spot request is still described (AWS: four hours)."""
    left_open_requests: int = 0
    """How many of the next spot launches that find no capacity leave an `open` spot request behind."""
    ingestion_lag_s: float = 0.0
    """From PutLogEvents to the moment FilterLogEvents returns the events."""
    log_scan_events: int = 0
    """Events examined for one page of FilterLogEvents; 0 = no limit. Small = empty pages."""

    def merged(self, changes: Mapping[str, Any]) -> "Faults":
        """Return a copy with some knobs changed. ValueError names an unknown knob or a bad value."""
        known = {knob.name for knob in fields(self)}
        unknown = set(changes) - known
        if unknown:
            raise ValueError(f"unknown knobs {sorted(unknown)}; known: {sorted(known)}")
        for name, value in changes.items():
            _check(name, value)
        return replace(self, **changes)


def _check(name: str, value: object) -> None:
    if name == "capacity":
        if not isinstance(value, Mapping) or not all(
            isinstance(key, str) and key.count("|") == 2 and isinstance(limit, int)  # noqa: PLR2004
            for key, limit in value.items()
        ):
            raise ValueError("capacity maps 'type|zone|market' to a whole number")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{name} is a number that is not negative, not {value!r}")
