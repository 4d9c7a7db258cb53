"""The simulated cloud as a whole. Law: wires the parts of one account together and decides nothing."""

from __future__ import annotations

from dstackd.core.launching import LaunchRequest
from dstackd.ports import Clock
from dstackd.protocol import TAG_BUCKET
from dstackd.simulated.clock import Chance
from dstackd.simulated.compute import Account, SimulatedCompute, spot_request_id
from dstackd.simulated.faults import Faults
from dstackd.simulated.gate import Gate
from dstackd.simulated.machine import SimulatedMachine, Surroundings
from dstackd.simulated.storage import SimulatedBucket, SimulatedLogs
from dstackd.simulated.timeline import Timeline


class SimulatedCloud:
    """`compute`, `bucket` and `logs` of one backend, `faults` to turn, `calls` to count.

    `clock` may be any Clock; only its monotonic side moves the world.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 0,
        bucket_name: str = "simulated-bucket",
        owner: str = "simulated-owner",
        faults: Faults | None = None,
    ) -> None:
        self.bucket_name = bucket_name
        self.owner = owner
        self.faults = faults or Faults()
        self._clock = clock
        self._chance = Chance(f"cloud-{seed}")
        self._timeline = Timeline(clock)
        self._gate = Gate(self._timeline, self.faults)
        self._account = Account()
        self._buckets: dict[str, SimulatedBucket] = {}
        self._logs: dict[str, SimulatedLogs] = {}
        self.compute = self.compute_of(bucket_name)
        self.bucket = self.bucket_of(bucket_name)
        self.logs = self.logs_of(bucket_name)

    @property
    def calls(self) -> dict[str, int]:
        """How many calls came, by operation."""
        return self._gate.calls

    @property
    def machines(self) -> tuple[SimulatedMachine, ...]:
        """Every machine that was ever launched in the account, in order, as of now."""
        self.catch_up()
        return tuple(self._account.machines.values())

    def catch_up(self) -> None:
        """Let everything happen that is due. Every call does so by itself."""
        self._timeline.catch_up()

    def compute_of(self, bucket_name: str, owner: str | None = None) -> SimulatedCompute:
        """The same account's EC2 as another backend, or another installation, sees it."""
        return SimulatedCompute(
            self._account,
            tags=(bucket_name, owner or self.owner),
            start=self._start,
            clock=self._clock,
            timeline=self._timeline,
            gate=self._gate,
            faults=self.faults,
        )

    def bucket_of(self, bucket_name: str) -> SimulatedBucket:
        """The bucket of this name; it comes to be when it is first asked for."""
        if bucket_name not in self._buckets:
            self._buckets[bucket_name] = SimulatedBucket(self._timeline, self._gate)
        return self._buckets[bucket_name]

    def logs_of(self, bucket_name: str) -> SimulatedLogs:
        """The jobs' log group of this bucket; it comes to be when it is first asked for."""
        if bucket_name not in self._logs:
            self._logs[bucket_name] = SimulatedLogs(
                self._timeline, self._gate, faults=self.faults, chance=self._chance
            )
        return self._logs[bucket_name]

    def _start(self, request: LaunchRequest, index: int) -> SimulatedMachine:
        bucket_name = dict(request.tags).get(TAG_BUCKET, "")
        digits = self._chance.digits()
        return SimulatedMachine(
            request,
            instance_id=f"i-{digits[:17]}",
            index=index,
            spot_request_id=spot_request_id(request, digits[17:]),
            around=Surroundings(
                self._timeline,
                self.faults,
                self.bucket_of(bucket_name),
                self.logs_of(bucket_name),
            ),
        )
