"""DescribeInstances, TerminateInstances and tags.

Law: every answer is made from `CloudState.visible`, so what EC2 would not show yet or any more is
unknown to all three alike.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import InvalidInstanceIdError
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.instances import Reservation
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.responses.tags import TagResponse

from dstackd.local.corrections import lifecycle
from dstackd.local.corrections.errors import refuse
from dstackd.local.corrections.selection import keep, page, page_size
from dstackd.local.corrections.state import CloudState, Launched, tags_of

_INSTANCE_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")

_FILTERS: Mapping[str, Callable[[Launched], str | None]] = {
    "architecture": lambda one: one.instance.architecture,
    "availability-zone": lambda one: one.zone,
    "client-token": lambda one: one.instance.client_token,
    "iam-instance-profile.arn": lambda one: one.role and one.role.arn,
    "image-id": lambda one: one.instance.image_id,
    "instance-id": lambda one: one.id,
    "instance-lifecycle": lambda one: one.instance.lifecycle,
    "instance-state-code": lambda one: str(one.instance.state_code),
    "instance-state-name": lambda one: one.state,
    "instance-type": lambda one: one.instance.instance_type,
    "launch-index": lambda one: str(one.launch_index),
    "private-ip-address": lambda one: one.instance.private_ip,
    "reservation-id": lambda one: one.reservation.id,
    "spot-instance-request-id": lambda one: one.spot.id if one.spot else None,
    "state-reason-code": lambda one: one.instance.state_reason.code,
    "subnet-id": lambda one: one.instance.subnet_id,
    "vpc-id": lambda one: one.instance.vpc_id,
}


def install(state: CloudState) -> None:
    """Replace the two actions and make tags a look-up by id instead of a scan of all tags."""

    def describe_instances(self: InstanceResponse) -> ActionResult:
        return _describe(self, state)

    def terminate_instances(self: InstanceResponse) -> ActionResult:
        return _terminate(self, state)

    InstanceResponse.describe_instances = describe_instances  # type: ignore[method-assign]
    InstanceResponse.terminate_instances = terminate_instances  # type: ignore[method-assign]
    TaggedEC2Resource.get_tags = _get_tags  # type: ignore[method-assign]
    _install_create_tags(state)


def _describe(response: InstanceResponse, state: CloudState) -> ActionResult:
    """AWS: MaxResults counts instances; moto counts reservations and knows few filters."""
    response.error_on_dryrun()
    ids = response._get_param("InstanceIds", [])
    asked = response._get_param("MaxResults")
    if ids and asked is not None:
        raise refuse(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )
    size = page_size(asked, default=1000, least=5, most=1000)
    filters: Mapping[str, Sequence[str]] = response._filters_from_querystring()
    with state.lock:
        visible = state.visible(response.ec2_backend)
        wanted = _by_id(visible, ids) if ids else visible
        kept = keep(wanted, filters, getters=_FILTERS, tags=tags_of)
        shown, token = page(
            kept,
            key=lambda one: f"{one.sequence:012d}",
            size=len(kept) if ids else size,
            token=response._get_param("NextToken"),
        )
    return ActionResult({"Reservations": _reservations(shown), "NextToken": token})


def _by_id(visible: Iterable[Launched], ids: Sequence[str]) -> list[Launched]:
    known = {one.id: one for one in visible}
    for instance_id in ids:
        if not _INSTANCE_ID.fullmatch(instance_id):
            raise refuse("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
    missing = [instance_id for instance_id in ids if instance_id not in known]
    if missing:
        raise InvalidInstanceIdError(missing)
    return sorted({known[one] for one in ids}, key=lambda one: one.sequence)


def _reservations(shown: Iterable[Launched]) -> list[Reservation]:
    """Group instances by reservation; copies, so moto's own lists keep every instance."""
    copies: dict[str, Reservation] = {}
    for one in shown:
        original = one.reservation
        copy = copies.get(original.id)
        if copy is None:
            copy = copies[original.id] = Reservation(original.id, original.owner_id)
            copy.groups = original.groups
        copy.instances.append(one.instance)
    return list(copies.values())


def _terminate(response: InstanceResponse, state: CloudState) -> ActionResult:
    """AWS: shutting-down first, terminated once the machine is down; one bad id ends nothing.

    moto: terminated at once, always Client.UserInitiatedShutdown.
    """
    ids = response._get_param("InstanceIds", [])
    response.error_on_dryrun()
    if not ids:
        raise refuse("MissingParameter", "The request must contain the parameter InstanceId")
    changes = []
    with state.lock:
        doomed = _by_id(state.visible(response.ec2_backend), ids)
        for one in doomed:
            if one.instance.disable_api_termination:
                raise refuse(
                    "OperationNotPermitted",
                    f"The instance '{one.id}' may not be terminated. Modify its "
                    "'disableApiTermination' instance attribute and try again.",
                )
        changes = [_end(state, one) for one in doomed]
    return ActionResult({"TerminatingInstances": changes})


def _end(state: CloudState, one: Launched) -> dict[str, Any]:
    before = {"Code": one.instance.state_code, "Name": one.state}
    if one.state != "terminated":
        lifecycle.go_down(state, one, reason=lifecycle.USER, ends_as="terminated")
        if state.machines is not None:
            state.machines.end(one)
    return {
        "InstanceId": one.id,
        "CurrentState": {"Code": one.instance.state_code, "Name": one.state},
        "PreviousState": before,
    }


def _get_tags(self: Any) -> list[dict[str, str]]:
    """Measured with moto 5.2.5: a regular expression over all tags of the region, per resource."""
    tags = self.ec2_backend.tags.get(self.id, {})
    return [{"key": key, "value": text, "resource_id": self.id} for key, text in tags.items()]


def _install_create_tags(state: CloudState) -> None:
    """AWS refuses tags for an instance or a spot request that does not exist; moto takes them."""
    original: Callable[[TagResponse], ActionResult] = TagResponse.create_tags

    def create_tags(self: TagResponse) -> ActionResult:
        ids = self._get_param("Resources", [])
        with state.lock:
            known = {one.id: one for one in state.visible(self.ec2_backend)}
            missing = [one for one in ids if one.startswith("i-") and one not in known]
            if missing:
                raise InvalidInstanceIdError(missing)
            if any(one.startswith("sir-") and one not in state.requests for one in ids):
                raise refuse("InvalidSpotInstanceRequestID.NotFound", f"{ids} do not exist")
            answer = original(self)
            for one in ids:
                if one in known and state.machines is not None:
                    state.machines.tags_changed(known[one])
        return answer

    TagResponse.create_tags = create_tags  # type: ignore[method-assign]
