"""EC2 in memory. Law: client tokens, capacity and visibility as EC2 documents them; one backend's tags, or a sibling's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from dstackd.core.instance import InstanceState, Market, Snapshot
from dstackd.core.launching import Image, Launched, LaunchRequest
from dstackd.core.offering import InstanceType, Subnet
from dstackd.core.orphan import RequestState, SpotRequest, Stranger
from dstackd.errors import BlockScope, CapacityShortage, InvalidRequest, LaunchOver
from dstackd.ports import Clock, Compute
from dstackd.protocol import TAG_BUCKET, TAG_LAUNCH, TAG_OWNER
from dstackd.simulated import places
from dstackd.simulated.faults import Faults
from dstackd.simulated.gate import Gate
from dstackd.simulated.machine import BY_REQUEST, SimulatedMachine
from dstackd.simulated.timeline import Timeline

SHORTAGE_BLOCK_S = 180.0

Start = Callable[[LaunchRequest, int], SimulatedMachine]


@dataclass(slots=True)
class Account:
    """All machines of the account's region, whoever launched them."""

    machines: dict[str, SimulatedMachine] = field(default_factory=dict)
    launches: dict[tuple[str, str], tuple[LaunchRequest, list[SimulatedMachine]]] = field(
        default_factory=dict
    )
    """By client token and zone: EC2's idempotency is zonal (EC2 API reference, Ensuring idempotency)."""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    """Spot requests that a shortage has left open, by id; those of machines are told by their machines."""


@dataclass(slots=True)
class Waiting:
    """A spot request without a machine."""

    id: str
    request: LaunchRequest
    created_at_ms: int
    state: RequestState = RequestState.OPEN


class SimulatedCompute:
    """Implements `ports.Compute` for one pair of bucket and owner tags."""

    def __init__(
        self,
        account: Account,
        *,
        tags: tuple[str, str],
        start: Start,
        clock: Clock,
        timeline: Timeline,
        gate: Gate,
        faults: Faults,
    ) -> None:
        self._account = account
        self._tags = tags
        self._start = start
        self._clock = clock
        self._timeline = timeline
        self._gate = gate
        self._faults = faults

    async def snapshot(self) -> Snapshot:
        """See `ports.Compute`."""
        taken_at_ms = self._clock.now_ms()
        with self._gate.call("DescribeInstances"):
            return Snapshot(
                taken_at_ms,
                MappingProxyType(
                    {
                        machine.instance_id: machine.described()
                        for machine in self._account.machines.values()
                        if self._is_ours(machine) and self._is_found(machine)
                    }
                ),
            )

    async def reclaimed(self) -> frozenset[str]:
        """See `ports.Compute`."""
        with self._gate.call("DescribeSpotInstanceRequests"):
            return frozenset(
                machine.instance_id
                for machine in self._account.machines.values()
                if machine.reclaimed and self._is_ours(machine)
            )

    async def open_requests(self) -> tuple[SpotRequest, ...]:
        """See `ports.Compute`."""
        with self._gate.call("DescribeSpotInstanceRequests"):
            return tuple(
                SpotRequest(
                    each.id,
                    each.state,
                    dict(each.request.tags).get(TAG_LAUNCH, ""),
                    each.created_at_ms,
                    "capacity-not-available",
                )
                for each in self._account.waiting.values()
                if each.state is RequestState.OPEN and self._has_our_tags(each.request)
            )

    async def cancel_requests(self, request_ids: Sequence[str]) -> None:
        """See `ports.Compute`."""
        with self._gate.call("CancelSpotInstanceRequests"):
            for request_id in request_ids:
                waiting = self._account.waiting.get(request_id)
                if waiting is not None and waiting.state is RequestState.OPEN:
                    waiting.state = RequestState.CANCELLED

    async def strangers(self) -> tuple[Stranger, ...]:
        """See `ports.Compute`."""
        with self._gate.call("DescribeInstances"):
            return tuple(
                Stranger(dict(machine.request.tags).get(TAG_OWNER, ""), machine.described())
                for machine in self._account.machines.values()
                if dict(machine.request.tags).get(TAG_BUCKET) == self._tags[0]
                and not self._is_ours(machine)
                and machine.state is not InstanceState.TERMINATED
                and self._is_found(machine)
            )

    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        """See `ports.Compute`."""
        with self._gate.call("RunInstances"):
            key = (request.client_token, request.zone)
            if key not in self._account.launches:
                self._account.launches[key] = (request, self._start_machines(request))
            known, machines = self._account.launches[key]
            if known != request:
                raise InvalidRequest(
                    "IdempotentParameterMismatch",
                    "the token was used with other parameters",
                    operation="RunInstances",
                )
            if not any(machine.alive for machine in machines):
                raise LaunchOver(
                    "IdempotentInstanceTerminated",
                    "the instances of this token are terminated",
                    operation="RunInstances",
                )
            return tuple(_launched(machine) for machine in machines)

    def _start_machines(self, request: LaunchRequest) -> list[SimulatedMachine]:
        self._check_quota(request)
        alive = Counter(
            f"{machine.request.instance_type}|{machine.request.zone}|{machine.request.market}"
            for machine in self._account.machines.values()
            if machine.alive
        )
        room = self._faults.room(request.instance_type, request.zone, request.market, alive)
        count = request.count if room is None else min(request.count, room)
        if count == 0:
            self._leave_open(request)
            raise CapacityShortage(
                "InsufficientInstanceCapacity",
                f"no {request.instance_type} in {request.zone} now",
                operation="RunInstances",
                scope=BlockScope.OFFERING,
                block_s=SHORTAGE_BLOCK_S,
            )
        machines = [self._start(request, index) for index in range(count)]
        self._account.machines |= {machine.instance_id: machine for machine in machines}
        return machines

    def _check_quota(self, request: LaunchRequest) -> None:
        limit = self._faults.quota_vcpus
        if limit is None:
            return
        vcpus = {each.name: each.cpu for each in places.TYPES}
        used = sum(
            vcpus[machine.request.instance_type]
            for machine in self._account.machines.values()
            if machine.alive and machine.request.market is request.market
        )
        if used + request.count * vcpus[request.instance_type] > limit:
            raise CapacityShortage(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows",
                operation="RunInstances",
                scope=BlockScope.QUOTA,
                block_s=SHORTAGE_BLOCK_S,
                limit_vcpus=limit,
            )

    def _leave_open(self, request: LaunchRequest) -> None:
        faults = self._faults
        if request.market is not Market.SPOT or faults.left_open <= 0:
            return
        faults.left_open -= 1
        number = len(self._account.waiting)
        waiting = Waiting(f"sir-open{number:04d}", request, self._timeline.now_ms)
        self._account.waiting[waiting.id] = waiting
        if faults.fulfilled_after_s is not None:
            self._timeline.after(faults.fulfilled_after_s, lambda: self._fulfil(waiting))

    def _fulfil(self, waiting: Waiting) -> None:
        if waiting.state is RequestState.OPEN:
            waiting.state = RequestState.ACTIVE
            machine = self._start(waiting.request, 0)
            self._account.machines[machine.instance_id] = machine

    async def terminate(self, instance_ids: Sequence[str]) -> None:
        """See `ports.Compute`."""
        with self._gate.call("TerminateInstances"):
            for instance_id in instance_ids:
                machine = self._account.machines.get(instance_id)
                if machine is not None and self._is_visible(machine):
                    machine.go_down(BY_REQUEST)

    async def instance_types(self) -> tuple[InstanceType, ...]:
        """See `ports.Compute`."""
        with self._gate.call("DescribeInstanceTypes"):
            return places.TYPES

    async def subnets(self) -> tuple[Subnet, ...]:
        """See `ports.Compute`."""
        with self._gate.call("DescribeSubnets"):
            return places.SUBNETS

    async def spot_prices(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        """See `ports.Compute`."""
        if not names:
            return {}
        with self._gate.call("DescribeSpotPriceHistory"):
            return {
                (name, zone): price
                for name in names
                for zone in places.ZONES
                if (price := places.spot_price(name, zone)) is not None
            }

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        """See `ports.Compute`."""
        with self._gate.call("DescribeImages"):
            return places.image(architecture, gpu=gpu)

    def _is_ours(self, machine: SimulatedMachine) -> bool:
        return self._has_our_tags(machine.request)

    def _has_our_tags(self, request: LaunchRequest) -> bool:
        tags = dict(request.tags)
        return (tags.get(TAG_BUCKET), tags.get(TAG_OWNER)) == self._tags

    def _is_found(self, machine: SimulatedMachine) -> bool:
        """By its tags."""
        age_s = (self._timeline.now_ms - machine.launched_at_ms) / 1000
        return age_s >= self._faults.untagged_s and self._is_visible(machine)

    def _is_visible(self, machine: SimulatedMachine) -> bool:
        age_s = (self._timeline.now_ms - machine.launched_at_ms) / 1000
        if age_s < self._faults.invisible_s:
            return False
        if machine.state is not InstanceState.TERMINATED or machine.terminated_at_ms is None:
            return True
        gone_s = (self._timeline.now_ms - machine.terminated_at_ms) / 1000
        return gone_s < self._faults.terminated_visible_s


def _launched(machine: SimulatedMachine) -> Launched:
    shown = machine.described()
    return Launched(
        machine.instance_id,
        machine.index,
        machine.launched_at_ms,
        machine.spot_request_id,
        shown.private_ip,
    )


def spot_request_id(request: LaunchRequest, digits: str) -> str:
    """The id of a machine's spot request; empty for what is bought on demand."""
    return f"sir-{digits[:8]}" if request.market is Market.SPOT else ""


if TYPE_CHECKING:
    _: type[Compute] = SimulatedCompute
