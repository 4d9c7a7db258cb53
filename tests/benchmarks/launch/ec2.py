"""EC2's query API as far as a launch needs it. Law: an answer is a function of the account and the request; time is told.

As AWS documents it: client tokens are zonal and compare every parameter, MinCount..MaxCount, pages of
instances, tags from the launch, terminated instances stay visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from tests.benchmarks.launch import ec2_xml as xml
from tests.benchmarks.launch.instance_types import kinds
from tests.benchmarks.launch.plan import ZONES, Plan
from tests.benchmarks.launch.token_buckets import BROAD, Throttles

Parameters = Mapping[str, str]
PAGE_MAX = 1000
TYPES_A_PAGE = 100
BY_REQUEST = "Client.UserInitiatedShutdown"
BY_ITSELF = "Client.InstanceInitiatedShutdown"
_SHORTAGE = (500, "InsufficientInstanceCapacity")


class Refusal(Exception):
    """An error answer of EC2."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Machine:
    """One instance. `number` counts all instances from 0."""

    number: int
    reservation_id: str
    launch_index: int
    instance_type: str
    image_id: str
    zone: str
    subnet_id: str
    client_token: str
    tags: dict[str, str]
    launched_at_ms: float
    spot: bool = False
    state: str = "pending"
    state_reason: str = ""
    job_id: str = ""
    attempt: int = 0
    _rendered: str = ""

    @property
    def instance_id(self) -> str:
        """As EC2 numbers them."""
        return f"i-{self.number:017x}"

    @property
    def spot_request_id(self) -> str:
        """Empty on demand."""
        return f"sir-{self.number:08x}" if self.spot else ""

    def enter(self, state: str, reason: str = "") -> None:
        """Change state; an instance that is going never comes back."""
        if self.state in {"shutting-down", "terminated"} and state != "terminated":
            return
        self.state = state
        self.state_reason = self.state_reason or reason
        self._rendered = ""

    def xml(self) -> str:
        """Rendered once a state."""
        if not self._rendered:
            self._rendered = xml.instance(self)
        return self._rendered


@dataclass(slots=True)
class _Launch:
    parameters: Parameters
    machines: list[Machine] = field(default_factory=list)


class Ec2:
    """One account's region. `launched` is told of new machines, `leaving` of those that were asked to go."""

    def __init__(
        self,
        plan: Plan,
        *,
        launched: Callable[[list[Machine]], None],
        leaving: Callable[[Machine], None],
    ) -> None:
        self.machines: list[Machine] = []
        self._plan = plan
        self._launched = launched
        self._leaving = leaving
        self._launches: dict[tuple[str, str], _Launch] = {}
        self._group_made = False
        self._operations: dict[str, Callable[[Parameters, float], str]] = {
            "RunInstances": self._run_instances,
            "TerminateInstances": self._terminate_instances,
            "DescribeInstances": self._describe_instances,
            "DescribeSpotInstanceRequests": self._describe_spot_requests,
            "DescribeInstanceTypes": self._describe_instance_types,
            "DescribeSubnets": self._describe_subnets,
            "DescribeImages": self._describe_images,
            "DescribeSpotPriceHistory": self._describe_spot_prices,
            "DescribeSecurityGroups": self._describe_security_groups,
            "CreateSecurityGroup": self._create_security_group,
        }

    def admits(self, throttles: Throttles, parameters: Parameters, *, now_s: float) -> bool:
        """Take the tokens of this request; False: RequestLimitExceeded."""
        operation = parameters.get("Action", "")
        resources = {
            "RunInstances": int(parameters.get("MaxCount", "1")),
            "TerminateInstances": len(_listed(parameters, "InstanceId")),
        }.get(operation, 0)
        narrow = "MaxResults" in parameters or "Filter.1.Name" in parameters
        return throttles.admit(
            operation, now_s=now_s, resources=resources, broad=operation in BROAD and not narrow
        )

    def answer(self, parameters: Parameters, *, now_ms: float) -> bytes:
        """Do it. Raises Refusal."""
        operation = parameters.get("Action", "")
        if operation not in self._operations:
            raise Refusal(400, "InvalidAction", f"this fake has no {operation}")
        return xml.answer(operation, self._operations[operation](parameters, now_ms))

    def plant(self, count: int, tags: Mapping[str, str], *, now_ms: float) -> None:
        """`count` running machines in launches of 100 that nobody asked for; they do nothing."""
        for start in range(0, count, 100):
            launch = f"launch-{start // 100:04d}"
            own = {**tags, "Name": f"dstackd-{launch}", "dstackd:launch": launch}
            parameters = {
                "InstanceType": "c5.large",
                "ClientToken": launch,
                "ImageId": "ami-1",
                "MaxCount": str(min(100, count - start)),
            }
            for machine in self._make(parameters, own, now_ms=now_ms):
                machine.enter("running")

    def _run_instances(self, parameters: Parameters, now_ms: float) -> str:
        token = (parameters.get("ClientToken", ""), _subnet_of(parameters))
        known = self._launches.get(token) if token[0] else None
        if known is None:
            self._refuse_without_capacity(parameters)
            known = _Launch(parameters, self._make(parameters, _tags(parameters), now_ms=now_ms))
            self._launches[token] = known
            self._launched(known.machines)
        elif known.parameters != parameters:
            raise Refusal(400, "IdempotentParameterMismatch")
        elif all(machine.state == "terminated" for machine in known.machines):
            raise Refusal(400, "IdempotentInstanceTerminated")
        return xml.reservation(known.machines)

    def _refuse_without_capacity(self, parameters: Parameters) -> None:
        spot = _is_spot(parameters)
        if self._plan.no_capacity or (spot and self._plan.no_spot):
            kind, zone = parameters["InstanceType"], _zone_of(parameters)
            message = f"We currently do not have sufficient {kind} capacity in {zone}."
            raise Refusal(*_SHORTAGE, message)

    def _make(
        self, parameters: Parameters, tags: Mapping[str, str], *, now_ms: float
    ) -> list[Machine]:
        first = len(self.machines)
        made = [
            Machine(
                number=first + index,
                reservation_id=f"r-{first:017x}",
                launch_index=index,
                instance_type=parameters["InstanceType"],
                image_id=parameters["ImageId"],
                zone=_zone_of(parameters),
                subnet_id=_subnet_of(parameters),
                client_token=parameters.get("ClientToken", ""),
                tags=dict(tags),
                launched_at_ms=now_ms,
                spot=_is_spot(parameters),
            )
            for index in range(int(parameters.get("MaxCount", "1")))
        ]
        self.machines += made
        return made

    def _terminate_instances(self, parameters: Parameters, _: float) -> str:
        wanted = _listed(parameters, "InstanceId")
        known = {f"i-{number:017x}": number for number in (_number(one) for one in wanted)}
        for one in wanted:
            if one not in known or known[one] >= len(self.machines):
                raise Refusal(
                    400, "InvalidInstanceID.NotFound", f"The instance ID '{one}' does not exist"
                )
        for one in wanted:
            machine = self.machines[known[one]]
            if machine.state not in {"shutting-down", "terminated"}:
                machine.enter("shutting-down", BY_REQUEST)
                self._leaving(machine)
        items = "".join(f"<item><instanceId>{one}</instanceId></item>" for one in wanted)
        return f"<instancesSet>{items}</instancesSet>"

    def _describe_instances(self, parameters: Parameters, _: float) -> str:
        found, token = self._page(parameters)
        reservations = "".join(
            f"<item>{xml.reservation(group)}</item>"
            for _, group in groupby(found, key=lambda machine: machine.reservation_id)
        )
        return f"<reservationSet>{reservations}</reservationSet>{token}"

    def _page(self, parameters: Parameters) -> tuple[list[Machine], str]:
        size = min(int(parameters.get("MaxResults", PAGE_MAX)), PAGE_MAX)
        filters = _filters(parameters)
        found: list[Machine] = []
        start = int(parameters.get("NextToken", "0"))
        for number in range(start, len(self.machines)):
            machine = self.machines[number]
            if not _matches(machine, filters):
                continue
            if len(found) == size:
                return found, f"<nextToken>{number}</nextToken>"
            found.append(machine)
        return found, ""

    def _describe_spot_requests(self, parameters: Parameters, _: float) -> str:
        filters = _filters(parameters)
        codes = filters.pop("status-code", ["fulfilled"])
        found = [
            machine for machine in self.machines if machine.spot and _matches(machine, filters)
        ]
        items = "".join(
            f"<item><spotInstanceRequestId>{machine.spot_request_id}</spotInstanceRequestId>"
            f"<instanceId>{machine.instance_id}</instanceId><state>active</state>"
            f"<status><code>fulfilled</code></status>{xml.tag_set(machine.tags)}</item>"
            for machine in found
            if "fulfilled" in codes
        )
        return f"<spotInstanceRequestSet>{items}</spotInstanceRequestSet>"

    def _describe_instance_types(self, parameters: Parameters, _: float) -> str:
        wanted = _listed(parameters, "InstanceType")
        found = [kind for kind in kinds().values() if not wanted or kind.name in wanted]
        start = int(parameters.get("NextToken", "0"))
        shown = "".join(xml.instance_type(kind) for kind in found[start : start + TYPES_A_PAGE])
        following = start + TYPES_A_PAGE
        token = f"<nextToken>{following}</nextToken>" if following < len(found) else ""
        return f"<instanceTypeSet>{shown}</instanceTypeSet>{token}"

    def _describe_subnets(self, parameters: Parameters, _: float) -> str:
        wanted = _filters(parameters).get("subnet-id", [])
        shown = "".join(
            xml.subnet(position)
            for position in range(len(ZONES))
            if not wanted or xml.subnet_id(position) in wanted
        )
        return f"<subnetSet>{shown}</subnetSet>"

    def _describe_images(self, parameters: Parameters, _: float) -> str:
        architectures = _filters(parameters).get("architecture", ["x86_64"])
        return f"<imagesSet>{''.join(xml.image(one) for one in architectures)}</imagesSet>"

    def _describe_spot_prices(self, parameters: Parameters, now_ms: float) -> str:
        names = _listed(parameters, "InstanceType") or list(kinds())
        quotes = [
            xml.quote(kinds()[name], zone, at_ms=now_ms)
            for name in names
            if name in kinds()
            for zone in ZONES
        ]
        start = int(parameters.get("NextToken") or 0)
        token = f"<nextToken>{start + PAGE_MAX}</nextToken>"
        more = token if start + PAGE_MAX < len(quotes) else "<nextToken/>"
        shown = "".join(quotes[start : start + PAGE_MAX])
        return f"<spotPriceHistorySet>{shown}</spotPriceHistorySet>{more}"

    def _describe_security_groups(self, _: Parameters, __: float) -> str:
        group = (
            f"<item><groupId>sg-0123456789abcdef0</groupId><vpcId>{xml.VPC}</vpcId></item>"
            if self._group_made
            else ""
        )
        return f"<securityGroupInfo>{group}</securityGroupInfo>"

    def _create_security_group(self, _: Parameters, __: float) -> str:
        self._group_made = True
        return "<return>true</return><groupId>sg-0123456789abcdef0</groupId>"


def _number(instance_id: str) -> int:
    try:
        return int(instance_id.removeprefix("i-"), 16)
    except ValueError:
        return -1


def _listed(parameters: Parameters, name: str) -> list[str]:
    return list(_numbered(parameters, name))


def _numbered(parameters: Parameters, name: str, suffix: str = "") -> Iterator[str]:
    number = 1
    while (key := f"{name}.{number}{suffix}") in parameters:
        yield parameters[key]
        number += 1


def _filters(parameters: Parameters) -> dict[str, list[str]]:
    return {
        name: list(_numbered(parameters, f"Filter.{number}.Value"))
        for number, name in enumerate(_numbered(parameters, "Filter", ".Name"), start=1)
    }


def _matches(machine: Machine, filters: Mapping[str, list[str]]) -> bool:
    for name, values in filters.items():
        if name.startswith("tag:"):
            actual = machine.tags.get(name[4:])
        elif name == "instance-state-name":
            actual = machine.state
        elif name == "client-token":
            actual = machine.client_token
        else:
            raise Refusal(400, "InvalidParameterValue", f"this fake has no filter {name}")
        if actual not in values:
            return False
    return True


def _tags(parameters: Parameters) -> dict[str, str]:
    for number, kind in enumerate(
        _numbered(parameters, "TagSpecification", ".ResourceType"), start=1
    ):
        if kind == "instance":
            prefix = f"TagSpecification.{number}.Tag"
            keys = _numbered(parameters, prefix, ".Key")
            return dict(zip(keys, _numbered(parameters, prefix, ".Value"), strict=True))
    return {}


def _is_spot(parameters: Parameters) -> bool:
    return parameters.get("InstanceMarketOptions.MarketType") == "spot"


def _subnet_of(parameters: Parameters) -> str:
    return parameters.get("NetworkInterface.1.SubnetId") or parameters.get(
        "SubnetId", xml.subnet_id(0)
    )


def _zone_of(parameters: Parameters) -> str:
    return ZONES[int(_subnet_of(parameters).removeprefix("subnet-"), 16)]
