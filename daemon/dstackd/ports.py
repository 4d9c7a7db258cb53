"""What the controllers ask of the outside world. Law: contracts in prose; implementations in aws/ and simulated/.

There is a port only where the real thing costs money or time. The store has none: SQLite is its own double.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dstackd.core.instance import Snapshot
from dstackd.core.launching import Image, Launched, LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.core.offering import InstanceType, Subnet
from dstackd.core.orphan import SpotRequest, Stranger


class Clock(Protocol):
    """Wall clock, monotonic clock, entropy."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, for AWS as far as its answers told; may step."""
        ...

    def learn(self, told_ms: int, *, took_s: float) -> int:
        """An answer of AWS's has just arrived, `took_s` after it was asked for, and its Date header says `told_ms`. Returns by how many
        milliseconds that has moved `now_ms`.
        """
        ...

    def monotonic_s(self) -> float:
        """Seconds; never steps back."""
        ...

    def jitter(self) -> float:
        """A number in [0, 1)."""
        ...

    def new_id(self) -> str:
        """16 hexadecimal digits that were not given out before."""
        ...


class Compute(Protocol):
    """EC2, as far as this program uses it. Every method may raise any CloudError."""

    async def snapshot(self) -> Snapshot:
        """Every instance that carries this backend's bucket and owner tags, terminated ones included while EC2
        lists them. Complete or an error, never a part. `taken_at_ms` is read before the first page is asked for.
        """
        ...

    async def reclaimed(self) -> frozenset[str]:
        """Ids of our spot instances that EC2 has decided to take back, whether they still run or not.

        For machines that terminate on interruption the spot request's status says so at the start of the two
        minutes of notice (EC2 User Guide, Spot request status).
        """
        ...

    async def open_requests(self) -> tuple[SpotRequest, ...]:
        """Our spot requests that EC2 has not fulfilled and may still fulfil; complete or an error."""
        ...

    async def cancel_requests(self, request_ids: Sequence[str]) -> None:
        """Ask EC2 to fulfil these spot requests no more. Idempotent; instances that they have go on running, and ids that
        EC2 does not know are passed over.
        """
        ...

    async def strangers(self) -> tuple[Stranger, ...]:
        """Machines with this backend's bucket tag and another owner's, or none, that are not terminated."""
        ...

    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        """RunInstances with MinCount=1, MaxCount=count, in the order of the launch index.

        Repeating a request returns the same instances. Raises CapacityShortage when none was launched,
        Throttled when the call was not looked at, CloudUnavailable when the outcome is unknown (repeat the same
        request), LaunchOver when its instances have come and gone, InvalidRequest, Unauthorized.
        """
        ...

    async def terminate(self, instance_ids: Sequence[str]) -> None:
        """Ask EC2 to terminate; returning means asked, not gone. Idempotent; ids that EC2 does not know are passed
        over (which does not mean that they are gone).
        """
        ...

    async def instance_types(self) -> tuple[InstanceType, ...]:
        """Every type of the region."""
        ...

    async def subnets(self) -> tuple[Subnet, ...]:
        """The configured subnet, or the default subnets of the default VPC, one a zone."""
        ...

    async def spot_prices(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        """(type, zone) -> USD an hour now, for Linux."""
        ...

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        """The AMI to boot: the configured one, or the newest of the pinned owner and name."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """One key of a listing."""

    key: str
    size_bytes: int
    modified_at_ms: int


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What S3 says of one object without giving its content."""

    size_bytes: int
    modified_at_ms: int
    sha256: str = ""
    """Of the whole content, in hexadecimal, as S3 has compared it at the write; empty where it has none."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What its writer says of it, by names in lower case without S3's prefix."""


class Bucket(Protocol):
    """S3: strongly consistent reads, writes and lists. Every method may raise any CloudError."""

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        """Write an object. `only_if_new`: PreconditionFailed when the key exists."""
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Write a file of any size (multipart above the single-PUT limit); memory use stays bounded."""
        ...

    async def exists(self, key: str) -> bool:
        """Whether the key is there."""
        ...

    async def facts(self, key: str) -> ObjectFacts:
        """Size, age and checksum; NotFound when it is not there."""
        ...

    async def renew(self, key: str) -> None:
        """Write the object again as it is, so that its age begins anew; NotFound when it is not there."""
        ...

    async def get(self, key: str) -> bytes:
        """The whole object; NotFound when it is not there."""
        ...

    def read(self, key: str) -> AsyncIterator[bytes]:
        """The object in chunks; NotFound when it is not there."""
        ...

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        """Every key below the prefix, all pages, in key order."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; keys that are not there are no error."""
        ...

    async def ensure_rules(self, ours: Sequence[Rule]) -> bool:
        """Have exactly these of the lifecycle rules that are ours (`core.lifecycle`), and those of others as they are;
        whether something had to be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One CloudWatch Logs event."""

    event_id: str
    stream: str
    at_ms: int
    ingested_at_ms: int
    message: str


class LogSource(Protocol):
    """CloudWatch Logs, read side. Every method may raise any CloudError."""

    def sweep(
        self, *, start_ms: int, end_ms: int | None = None, streams: Sequence[str] = ()
    ) -> AsyncIterator[Sequence[LogEvent]]:
        """Pages of the jobs' group, one call each, by the events' times from `start_ms` to `end_ms` (None: to the newest
        when the last page is read), over all streams or at most 100. Events are in the order of their times; they may
        come late and twice; a page may be empty. Ends after the last page; one stream of several that is not there
        yet may end it at once.
        """
        ...
