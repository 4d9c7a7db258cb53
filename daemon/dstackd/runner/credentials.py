"""The instance role's credentials. Law: they come from the metadata service and stay in memory."""

from __future__ import annotations

import calendar
import threading
import time

from dstackd import protocol
from dstackd.runner.errors import Unreachable
from dstackd.runner.imds import Imds
from dstackd.runner.sigv4 import Credentials
from dstackd.runner.wall_clock import WallClock

ROLE_PATH = "meta-data/iam/security-credentials/"
RENEW_BEFORE_S = 300.0
"""AWS has new ones ready at least five minutes before the old ones end ("IAM roles for EC2")."""
RENEW_AGAIN_S = 30.0


class InstanceCredentials:
    """The current credentials. May be used from several threads."""

    def __init__(self, imds: Imds) -> None:
        self._imds = imds
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._renew_at = 0.0
        self._end_at = 0.0
        self.clock = WallClock()
        """Shared by all who call AWS with these."""

    def current(self) -> Credentials:
        """Credentials that are valid now. Raises Unreachable."""
        with self._lock:
            if self._current is None or self.clock.now() >= self._renew_at:
                self._renew()
            if self._current is None:
                raise Unreachable("no role credentials")
            return self._current

    def distrust(self) -> None:
        """AWS refused them: ask the metadata service before the next use."""
        with self._lock:
            self._renew_at = 0.0

    def _renew(self) -> None:
        now = self.clock.now()
        try:
            role = self._imds.require(ROLE_PATH).split()[0]
            value = protocol.load_json(self._imds.require(ROLE_PATH + role))
            expires_at = parse_utc(value["Expiration"])
            fresh = Credentials(value["AccessKeyId"], value["SecretAccessKey"], value["Token"])
        except (Unreachable, ValueError, TypeError, LookupError) as error:
            if self._current is None or now >= self._end_at:
                raise Unreachable(f"no role credentials: {error}") from error
            self._renew_at = now + RENEW_AGAIN_S
            return
        self._current = fresh
        self._end_at = expires_at
        # The service may still give the old ones; do not ask it for each request until it has new.
        self._renew_at = max(expires_at - RENEW_BEFORE_S, now + RENEW_AGAIN_S)


def parse_utc(text: str) -> float:
    """Seconds since the epoch of AWS's `2026-01-31T23:59:59Z`. Raises ValueError."""
    return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
