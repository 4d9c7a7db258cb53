"""RunInstances: counts, capacity, idempotency, spot requests, profiles, and what is refused.

Law: decides how many instances a call may launch and hands that number to moto's own
implementation; what moto gets wrong about the result is repaired before the answer is written.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import random_spot_request_id

from dstackd.local.corrections.errors import refuse
from dstackd.local.corrections.launch_checks import asked_profile, refuse_bad_launch
from dstackd.local.corrections.state import CloudState, Launched, SpotRequest, Waiting

_TOKEN_LIMIT = 64

_run_in_moto: Callable[[InstanceResponse], ActionResult] = InstanceResponse.run_instances


@dataclass(frozen=True, slots=True)
class _Request:
    """What a RunInstances call asks for, as far as the corrections care."""

    instance_type: str
    zone: str
    market: str
    least: int
    most: int
    token: str | None
    frozen: str
    """Every parameter but the token, for comparing two calls with the same token."""


@dataclass(frozen=True, slots=True)
class _Past:
    request: _Request
    reservation: Any
    instances: tuple[Launched, ...]


class Launches:
    """RunInstances of one cloud. Tokens are remembered as long as it runs."""

    def __init__(self, state: CloudState) -> None:
        self._state = state
        # Idempotency is zonal when a subnet or a zone is given (AWS, "Ensuring idempotency").
        self._past: dict[tuple[str, str, str], _Past] = {}

    def install(self) -> None:
        """Replace moto's RunInstances."""
        launches = self

        def run_instances(self: InstanceResponse) -> ActionResult:
            return launches.run(self)

        InstanceResponse.run_instances = run_instances  # type: ignore[method-assign]

    def run(self, response: InstanceResponse) -> ActionResult:
        """Launch, or answer a repeated token with the first call's reservation."""
        request = _read(response)
        refuse_bad_launch(response, self._state, zone=request.zone)
        profile = asked_profile(response)
        response.error_on_dryrun()
        with self._state.lock:
            key = (
                f"{response.current_account}/{response.region}",
                request.zone,
                request.token or "",
            )
            past = self._past.get(key) if request.token else None
            if past is not None:
                return _repeat(past, request)
            try:
                count = self._count(request, response.ec2_backend)
            except EC2ClientError:
                self._leave_open(response, request)
                raise
            reservation = _launch_in_moto(response, count)
            launched = self._record(response, request, reservation, profile)
            if request.token:
                self._past[key] = _Past(request, reservation, tuple(launched))
            for one in launched:
                if self._state.machines is not None:
                    self._state.machines.boot(one)
        return ActionResult(reservation)

    def _count(self, request: _Request, backend: Any) -> int:
        """AWS: the largest number between MinCount and MaxCount that there is capacity for.

        moto launches MinCount and knows no capacity.
        """
        room = request.most
        for pattern, limit in self._state.faults.capacity.items():
            if _matches(pattern, request.instance_type, request.zone, request.market):
                alive = [
                    one
                    for one in self._state.instances.values()
                    if one.backend is backend
                    and one.state not in {"terminated", "stopped"}
                    and _matches(pattern, one.instance.instance_type, one.zone, one.market)
                ]
                room = min(room, limit - len(alive))
        if room < request.least:
            raise _no_capacity(request)
        return room

    def _leave_open(self, response: InstanceResponse, request: _Request) -> None:
        """As the knob says: the call fails, and a request of it waits all the same, with the tags of the call."""
        state = self._state
        if request.market != "spot" or state.faults.left_open_requests < 1:
            return
        left = state.faults.left_open_requests - 1
        state.faults = replace(state.faults, left_open_requests=left)
        now = state.now()
        waiting = SpotRequest(
            id=random_spot_request_id(),
            instance_id="",
            zone=request.zone,
            max_price="",
            created_at=now,
            updated_at=now,
            state="open",
            code="capacity-not-available",
        )
        backend = response.ec2_backend
        state.waiting[waiting.id] = Waiting(
            waiting, backend, next(state.sequence), request.instance_type
        )
        tags = response._parse_tag_specification().get("spot-instances-request", {})
        if tags:
            backend.create_tags([waiting.id], tags)

    def _record(
        self, response: InstanceResponse, request: _Request, reservation: Any, profile: Any
    ) -> list[Launched]:
        now = self._state.now()
        launched = []
        for index, instance in enumerate(reservation.instances):
            one = Launched(
                instance=instance,
                backend=response.ec2_backend,
                reservation=reservation,
                sequence=next(self._state.sequence),
                launched_at=now,
                launch_index=index,
                role=profile,
            )
            instance._state.name, instance._state.code = "pending", 0
            instance.ami_launch_index = index
            if profile is not None:
                # moto: the first instance only, and with the id of an association.
                instance.iam_instance_profile = {"Arn": profile.arn, "Id": profile.id}
            if request.market == "spot":
                one.spot = _spot_request(response, one, now)
                self._state.requests[one.spot.id] = one
            self._state.instances[one.id] = one
            launched.append(one)
        return launched


def _read(response: InstanceResponse) -> _Request:
    parameters = _plain(response.params)
    token = parameters.pop("ClientToken", None)
    parameters.pop("DryRun", None)
    least, most = int(parameters["MinCount"]), int(parameters["MaxCount"])
    if not 1 <= least <= most:
        raise refuse("InvalidParameterValue", f"minCount {least} and maxCount {most} do not fit")
    if token is not None and (len(token) > _TOKEN_LIMIT or not token.isascii()):
        raise refuse("InvalidParameterValue", "A client token is at most 64 ASCII characters")
    return _Request(
        instance_type=parameters.get("InstanceType", "m1.small"),
        zone=_zone(response, parameters),
        market=(parameters.get("InstanceMarketOptions") or {}).get("MarketType", "on-demand"),
        least=least,
        most=most,
        token=token,
        frozen=json.dumps(parameters, sort_keys=True, default=str),
    )


def _plain(value: Any) -> Any:
    """Turn moto's case-insensitive dictionaries into ordinary ones, all the way down."""
    if hasattr(value, "original_dict"):
        value = value.original_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _zone(response: InstanceResponse, parameters: Mapping[str, Any]) -> str:
    interfaces = parameters.get("NetworkInterfaces") or [{}]
    subnet = parameters.get("SubnetId") or interfaces[0].get("SubnetId")
    if subnet:
        return str(response.ec2_backend.get_subnet(subnet).availability_zone)
    placement = parameters.get("Placement") or {}
    return str(placement.get("AvailabilityZone") or f"{response.region}a")


def _repeat(past: _Past, request: _Request) -> ActionResult:
    if past.request.frozen != request.frozen:
        raise refuse(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in "
            "previous request(s).",
        )
    if all(one.state == "terminated" for one in past.instances):
        raise refuse(
            "IdempotentInstanceTerminated",
            "The client token was used by a previous request whose instances have been terminated.",
        )
    return ActionResult(past.reservation)


def _launch_in_moto(response: InstanceResponse, count: int) -> Any:
    """Let moto make `count` instances; the profile is left out, it is attached to all later."""
    response.params["MinCount"] = count
    if response._get_param("IamInstanceProfile") is not None:
        del response.params["IamInstanceProfile"]
    return _run_in_moto(response).result


def _spot_request(response: InstanceResponse, launched: Launched, now: float) -> SpotRequest:
    """AWS: a spot launch makes a request record per instance, tagged in the same call.

    moto only sets the lifecycle and drops the tags.
    """
    request = SpotRequest(
        id=random_spot_request_id(),
        instance_id=launched.id,
        zone=launched.zone,
        max_price=response._get_param("InstanceMarketOptions.SpotOptions.MaxPrice") or "",
        created_at=now,
        updated_at=now,
    )
    launched.instance.lifecycle = "spot"
    launched.instance.spot_instance_request_id = request.id
    tags = response._parse_tag_specification().get("spot-instances-request", {})
    if tags:
        response.ec2_backend.create_tags([request.id], tags)
    return request


def _matches(pattern: str, instance_type: str, zone: str, market: str) -> bool:
    return all(
        fnmatchcase(value, part)
        for value, part in zip((instance_type, zone, market), pattern.split("|"), strict=True)
    )


def _no_capacity(request: _Request) -> Exception:
    if request.market == "spot":
        message = "There is no Spot capacity available that matches your request."
    else:
        message = (
            f"We currently do not have sufficient {request.instance_type} capacity in the "
            f"Availability Zone you requested ({request.zone}). Our system will be working on "
            "provisioning additional capacity."
        )
    return refuse("InsufficientInstanceCapacity", message)
