"""The fake AWS as a benchmark holds it. Law: starts the process, speaks through its own door, ends it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from tests.benchmarks.launch.environment import ROOT, environment

END_S = 10.0


@dataclass(frozen=True, slots=True)
class CallSeen:
    """One call as the fake counted it. Seconds of the system's monotonic clock."""

    name: str
    subject: str
    """Of RunInstances `type/subnet/market`, of S3 the key, else empty."""
    arrived_s: float
    answered_s: float
    """0 while it has no answer."""
    code: str
    count: int
    """MaxCount of RunInstances."""


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """One instance that was ever launched."""

    instance_id: str
    instance_type: str
    market: str
    state: str
    job_id: str
    """Empty until its runner has read its job."""
    attempt: int


class FakeCloud:
    """A running fake AWS; a context manager."""

    def __init__(self, **plan: object) -> None:
        """`plan`: fields of `plan.Plan`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.launch.fake_aws"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
            text=True,
        )
        assert self._process.stdout is not None
        self.endpoint_url = self._process.stdout.readline().strip()
        self.plan(**plan)

    def plan(self, **changes: object) -> None:
        """Change what happens from now on."""
        self._ask("plan", changes)

    def fresh(self) -> None:
        """Full buckets; calls are counted from here."""
        self._ask("fresh")

    def calls(self, name: str = "") -> list[CallSeen]:
        """Calls since `fresh`, in the order of arrival; `name` such as `ec2:RunInstances`."""
        return [CallSeen(*one) for one in self._ask("calls") if name in {"", one[0]}]

    def machines(self) -> list[MachineSeen]:
        """Every instance ever launched."""
        return [MachineSeen(*one) for one in self._ask("machines")]

    def held(self) -> int:
        """How many calls wait to be let go."""
        return int(self._ask("held"))

    def let_go(self, *, arrive: bool) -> None:
        """Hold no more; what was held is done and answered, or was never received."""
        self._ask("let_go", {"arrive": arrive})

    def plant(self, count: int, tags: dict[str, str]) -> None:
        """Running machines with these tags, in launches of 100 named `launch-0000` and so on."""
        self._ask("plant", {"count": count, "tags": tags})

    def _ask(self, door: str, asked: object = None) -> Any:  # noqa: ANN401 - JSON
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.endpoint_url}/_fake/{door}", data=json.dumps(asked or {}).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
            return json.loads(answer.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def by_name(calls: Iterable[CallSeen]) -> Counter[str]:
    """How many calls of each operation."""
    return Counter(call.name for call in calls)
