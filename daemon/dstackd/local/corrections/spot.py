"""DescribeSpotInstanceRequests, CancelSpotInstanceRequests and a reclaim.

Law: records exist for instances that RunInstances launched with InstanceMarketOptions spot, and for
requests that a launch without capacity has left open (`left_open_requests`).
RequestSpotInstances and fleets are left as moto has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses.spot_instances import SpotInstances

from dstackd.local.corrections import lifecycle
from dstackd.local.corrections.errors import refuse
from dstackd.local.corrections.selection import keep, page, page_size
from dstackd.local.corrections.state import CloudState, Launched, SpotRequest


@dataclass(frozen=True, slots=True)
class _Record:
    """A request, and its instance if it has one."""

    request: SpotRequest
    backend: Any
    sequence: int
    instance_type: str
    launched: Launched | None = None


_FILTERS: Mapping[str, Callable[[_Record], str | None]] = {
    "instance-id": lambda record: record.request.instance_id or None,
    "launched-availability-zone": lambda record: record.request.zone if record.launched else None,
    "launch.instance-type": lambda record: record.instance_type,
    "spot-instance-request-id": lambda record: record.request.id,
    "state": lambda record: record.request.state,
    "status-code": lambda record: record.request.code,
    "type": lambda _record: "one-time",
}
# AWS, "Spot Instance request status": the texts shown with the codes.
_MESSAGES = {
    "canceled-before-fulfillment": "Your Spot request is canceled before it was fulfilled.",
    "capacity-not-available": "There is no Spot capacity available that matches your request.",
    "fulfilled": "Your Spot request is fulfilled.",
    "instance-terminated-by-user": "Spot Instance terminated due to user-initiated termination.",
    "instance-terminated-no-capacity": (
        "Your Spot instance was terminated because there is no Spot capacity available."
    ),
    "request-canceled-and-instance-running": (
        "Your Spot request is canceled, but your instance is still running."
    ),
}


# AWS, "Spot Instance request status": the codes of a cancelled request, by the state that it was in.
_CANCELLED = {
    "active": "request-canceled-and-instance-running",
    "open": "canceled-before-fulfillment",
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
            key=lambda record: f"{record.sequence:012d}",
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
        requests = [_get(records, one).request for one in ids]
        for request in requests:
            if request.state in _CANCELLED:
                request.code = _CANCELLED[request.state]
                request.state = "cancelled"
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
            kind = str(launched.instance.instance_type)
            records[request_id] = _Record(request, backend, launched.sequence, kind, launched)
    for request_id, waiting in list(state.waiting.items()):
        if (waiting.request.ended_at or now) < gone:
            del state.waiting[request_id]
        elif waiting.backend is backend and waiting.request.created_at <= known:
            records[request_id] = _Record(
                waiting.request, backend, waiting.sequence, waiting.instance_type
            )
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
    return dict(record.backend.tags.get(record.request.id, {}))


def _description(record: _Record) -> dict[str, Any]:
    request = record.request
    description: dict[str, Any] = {
        "SpotInstanceRequestId": request.id,
        "InstanceInterruptionBehavior": "terminate",
        "CreateTime": datetime.fromtimestamp(request.created_at, tz=UTC),
        "ProductDescription": "Linux/UNIX",
        "State": request.state,
        "Status": {
            "Code": request.code,
            "Message": _MESSAGES.get(request.code, request.code),
            "UpdateTime": datetime.fromtimestamp(request.updated_at, tz=UTC),
        },
        "Tags": [{"Key": key, "Value": text} for key, text in _tags(record).items()],
        "Type": "one-time",
        "LaunchSpecification": {"InstanceType": record.instance_type},
    }
    if record.launched is not None:
        instance = record.launched.instance
        description["InstanceId"] = record.launched.id
        description["LaunchedAvailabilityZone"] = request.zone
        description["LaunchSpecification"] |= {
            "ImageId": instance.image_id,
            "SubnetId": instance.subnet_id,
        }
    if request.max_price:
        description["SpotPrice"] = request.max_price
    return description
