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
from dstackd.errors import BlockScope, CapacityShortage, InvalidRequest, LaunchOver
from dstackd.ports import Clock, Compute
from dstackd.protocol import TAG_BUCKET, TAG_OWNER
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
                        if self._is_ours(machine) and self._is_visible(machine)
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
        alive = Counter(
            f"{machine.request.instance_type}|{machine.request.zone}|{machine.request.market}"
            for machine in self._account.machines.values()
            if machine.alive
        )
        room = self._faults.room(request.instance_type, request.zone, request.market, alive)
        count = request.count if room is None else min(request.count, room)
        if count == 0:
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
        tags = dict(machine.request.tags)
        return (tags.get(TAG_BUCKET), tags.get(TAG_OWNER)) == self._tags

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
    return Launched(machine.instance_id, machine.index, machine.spot_request_id, shown.private_ip)


def spot_request_id(request: LaunchRequest, digits: str) -> str:
    """The id of a machine's spot request; empty for what is bought on demand."""
    return f"sir-{digits[:8]}" if request.market is Market.SPOT else ""


if TYPE_CHECKING:
    _: type[Compute] = SimulatedCompute
