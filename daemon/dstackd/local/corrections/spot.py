"""DescribeSpotInstanceRequests, CancelSpotInstanceRequests and a reclaim.

Law: records exist for instances that RunInstances launched with InstanceMarketOptions spot.
RequestSpotInstances and fleets are left as moto has them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses.spot_instances import SpotInstances

from dstackd.local.corrections import lifecycle
from dstackd.local.corrections.errors import refuse
from dstackd.local.corrections.selection import keep, page, page_size
from dstackd.local.corrections.state import CloudState, Launched, SpotRequest

_Record = tuple[Launched, SpotRequest]

_FILTERS: Mapping[str, Callable[[_Record], str | None]] = {
    "instance-id": lambda record: record[0].id,
    "launched-availability-zone": lambda record: record[1].zone,
    "launch.instance-type": lambda record: record[0].instance.instance_type,
    "spot-instance-request-id": lambda record: record[1].id,
    "state": lambda record: record[1].state,
    "status-code": lambda record: record[1].code,
    "type": lambda _record: "one-time",
}
# AWS, "Spot Instance request status": the texts shown with the codes.
_MESSAGES = {
    "fulfilled": "Your Spot request is fulfilled.",
    "instance-terminated-by-user": "Spot Instance terminated due to user-initiated termination.",
    "instance-terminated-no-capacity": (
        "Your Spot instance was terminated because there is no Spot capacity available."
    ),
    "request-canceled-and-instance-running": (
        "Your Spot request is canceled, but your instance is still running."
    ),
}


def install(state: CloudState) -> None:
    """Replace moto's two actions."""

    def describe_spot_instance_requests(self: SpotInstances) -> ActionResult:
        return _describe(self, state)

    def cancel_spot_instance_requests(self: SpotInstances) -> ActionResult:
        return _cancel(self, state)

    SpotInstances.describe_spot_instance_requests = (  # type: ignore[method-assign]
        describe_spot_instance_requests
    )
    SpotInstances.cancel_spot_instance_requests = (  # type: ignore[method-assign]
        cancel_spot_instance_requests
    )


def _describe(response: SpotInstances, state: CloudState) -> ActionResult:
    """AWS: filters, pages and ids; moto knows only requests of RequestSpotInstances."""
    response.error_on_dryrun()
    ids = response._get_param("SpotInstanceRequestIds", [])
    size = page_size(response._get_param("MaxResults"), default=1000, least=5, most=1000)
    filters: Mapping[str, Sequence[str]] = response._filters_from_querystring()
    with state.lock:
        records = _visible(state, response.ec2_backend)
        wanted = [_get(records, one) for one in ids] if ids else list(records.values())
        kept = keep(wanted, filters, getters=_FILTERS, tags=_tags)
        shown, token = page(
            kept,
            key=lambda record: f"{record[0].sequence:012d}",
            size=size,
            token=response._get_param("NextToken"),
        )
        answer = [_description(record) for record in shown]
    return ActionResult({"SpotInstanceRequests": answer, "NextToken": token})


def _cancel(response: SpotInstances, state: CloudState) -> ActionResult:
    """AWS: the instance goes on running. moto forgets the record."""
    ids = response._get_param("SpotInstanceRequestIds", [])
    response.error_on_dryrun()
    with state.lock:
        records = _visible(state, response.ec2_backend)
        requests = [_get(records, one)[1] for one in ids]
        for request in requests:
            if request.state == "active":
                request.state = "cancelled"
                request.code = "request-canceled-and-instance-running"
                request.updated_at = request.ended_at = state.now()
        answer = [{"SpotInstanceRequestId": one.id, "State": one.state} for one in requests]
    return ActionResult({"CancelledSpotInstanceRequests": answer})


def _visible(state: CloudState, backend: Any) -> dict[str, _Record]:
    """Return what Describe may show; requests that ended hours ago are forgotten here."""
    now = state.now()
    gone = now - state.faults.closed_request_visible_s
    known = now - state.faults.not_found_s
    records: dict[str, _Record] = {}
    for request_id, launched in list(state.requests.items()):
        request = launched.spot
        if request is None or (request.ended_at or now) < gone:
            del state.requests[request_id]
        elif launched.backend is backend and request.created_at <= known:
            records[request_id] = (launched, request)
    return records


def reclaim(state: CloudState, launched: Launched) -> None:
    """EC2 takes a spot instance back: the notice begins, the instance still runs.

    AWS, "Spot Instance request status": when the interruption behaviour is `terminate`, the status
    is set to instance-terminated-no-capacity at once. ValueError for an on-demand instance.
    """
    with state.lock:
        if launched.spot is None:
            raise ValueError(f"{launched.id} is not a spot instance")
        lifecycle.close(state, launched.spot, code="instance-terminated-no-capacity")


def _get(records: Mapping[str, _Record], request_id: str) -> _Record:
    record = records.get(request_id)
    if record is None:
        raise refuse(
            "InvalidSpotInstanceRequestID.NotFound",
            f"The spot instance request ID '{request_id}' does not exist",
        )
    return record


def _tags(record: _Record) -> Mapping[str, str]:
    launched, request = record
    return dict(launched.backend.tags.get(request.id, {}))


def _description(record: _Record) -> dict[str, Any]:
    launched, request = record
    description: dict[str, Any] = {
        "SpotInstanceRequestId": request.id,
        "InstanceId": launched.id,
        "InstanceInterruptionBehavior": "terminate",
        "CreateTime": datetime.fromtimestamp(request.created_at, tz=UTC),
        "LaunchedAvailabilityZone": request.zone,
        "LaunchSpecification": {
            "ImageId": launched.instance.image_id,
            "InstanceType": launched.instance.instance_type,
            "SubnetId": launched.instance.subnet_id,
        },
        "ProductDescription": "Linux/UNIX",
        "State": request.state,
        "Status": {
            "Code": request.code,
            "Message": _MESSAGES.get(request.code, request.code),
            "UpdateTime": datetime.fromtimestamp(request.updated_at, tz=UTC),
        },
        "Tags": [{"Key": key, "Value": text} for key, text in _tags(record).items()],
        "Type": "one-time",
    }
    if request.max_price:
        description["SpotPrice"] = request.max_price
    return description
