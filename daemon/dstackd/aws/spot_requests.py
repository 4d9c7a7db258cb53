"""Spot requests that wait. Law: one page loop, one id a cancel; what does not carry exactly our tags is not ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dstackd.aws.api import Api
from dstackd.aws.instances import is_ours, tags_of
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.core.orphan import RequestState, SpotRequest
from dstackd.errors import NotFound
from dstackd.protocol import TAG_BUCKET, TAG_LAUNCH, TAG_OWNER

REQUESTS_A_PAGE = 1000
"""EC2's maximum."""


async def open_requests(ec2: Api, *, bucket: str, owner: str) -> tuple[SpotRequest, ...]:
    """Those in state `open`: waiting to be fulfilled (EC2 User Guide, "Spot request states")."""
    pages = ec2.pages(
        "DescribeSpotInstanceRequests",
        MaxResults=REQUESTS_A_PAGE,
        Filters=[
            {"Name": f"tag:{TAG_BUCKET}", "Values": [bucket]},
            {"Name": f"tag:{TAG_OWNER}", "Values": [owner]},
            {"Name": "state", "Values": [RequestState.OPEN.value]},
        ],
    )
    found: list[SpotRequest] = []
    async for page in pages:
        with reading("ec2:DescribeSpotInstanceRequests"):
            found += _owned(page, bucket=bucket, owner=owner)
    return tuple(found)


def _owned(page: Mapping[str, Untyped], *, bucket: str, owner: str) -> Iterator[SpotRequest]:
    for answer in page["SpotInstanceRequests"]:
        tags = tags_of(answer)
        if is_ours(tags, bucket=bucket, owner=owner):
            yield SpotRequest(
                id=answer["SpotInstanceRequestId"],
                state=RequestState(answer["State"]),
                launch_id=tags.get(TAG_LAUNCH, ""),
                created_at_ms=int(answer["CreateTime"].timestamp() * 1000),
                status_code=answer.get("Status", {}).get("Code", ""),
            )


async def cancel_requests(ec2: Api, request_ids: Sequence[str]) -> None:
    """One by one: they are few, and an id that EC2 does not know would keep the whole list from being cancelled."""
    for request_id in request_ids:
        try:
            await ec2.call("CancelSpotInstanceRequests", SpotInstanceRequestIds=[request_id])
        except NotFound:
            continue
