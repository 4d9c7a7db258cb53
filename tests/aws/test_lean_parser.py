"""The lean parser against botocore's own."""

from __future__ import annotations

from typing import Any

import anyio
import botocore.session  # type: ignore[import-untyped] # ships no types
import pytest
from aiobotocore.parsers import (  # type: ignore[import-untyped] # ships no types
    AioResponseParserFactory,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped] # ships no types

from dstackd.aws.instances import owned
from dstackd.aws.lean_parser import LeanParserFactory
from dstackd.aws.untyped import Untyped
from dstackd.core.instance import Instance, InstanceState, Market

INSTANCE = """<item><instanceId>i-{n}</instanceId><imageId>ami-1</imageId>
<instanceState><code>48</code><name>terminated</name></instanceState><amiLaunchIndex>{n}</amiLaunchIndex>
<instanceType>m5.large</instanceType><launchTime>2026-01-02T03:04:05.000Z</launchTime>
<placement><availabilityZone>eu-west-1a</availabilityZone><tenancy>default</tenancy></placement>
<privateIpAddress>10.0.0.{n}</privateIpAddress>
<stateReason><code>Server.SpotInstanceTermination</code><message>gone</message></stateReason>
<instanceLifecycle>spot</instanceLifecycle><spotInstanceRequestId>sir-{n}</spotInstanceRequestId>
<tagSet><item><key>dstack_bucket</key><value>proj</value></item>
<item><key>dstackd:owner</key><value>me &amp; you</value></item>
<item><key>dstackd:launch</key><value>l-1</value></item><item><key>empty</key><value/></item></tagSet>
<networkInterfaceSet><item><privateIpAddress>10.9.9.9</privateIpAddress></item></networkInterfaceSet>
</item>"""
BARE = """<item><instanceId>i-bare</instanceId><instanceState><name>running</name></instanceState>
<instanceType>m5.large</instanceType><launchTime>2026-01-02T03:04:05Z</launchTime></item>"""
PAGE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    "<requestId>r</requestId><reservationSet><item><reservationId>r-1</reservationId><instancesSet>"
    + "".join(INSTANCE.format(n=n) for n in range(60))
    + "</instancesSet></item><item><instancesSet>"
    + BARE
    + "</instancesSet></item></reservationSet>{token}</DescribeInstancesResponse>"
)


def parsed(
    factory: Untyped, body: str, *, status: int = 200, service: str = "ec2"
) -> dict[str, Any]:
    """What a parser makes of an answer to DescribeInstances, or to ListObjectsV2."""
    operation, protocol = {
        "ec2": ("DescribeInstances", "ec2"),
        "s3": ("ListObjectsV2", "rest-xml"),
    }[service]
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model(operation).output_shape
    response = {"body": body.encode(), "headers": {}, "status_code": status}

    async def parse() -> dict[str, Any]:
        found: dict[str, Any] = await factory.create_parser(protocol).parse(response, shape)
        return found

    return anyio.run(parse)


@pytest.mark.parametrize("token", ["", "<nextToken>abc</nextToken>"])
def test_a_page_is_read_as_botocore_reads_it(token: str) -> None:
    """Both parsers lead to the same instances and the same page token."""
    body = PAGE.replace("{token}", token)
    lean, stock = parsed(LeanParserFactory(), body), parsed(AioResponseParserFactory(), body)
    assert lean.get("NextToken") == stock.get("NextToken")
    pages = [tuple(owned(page, bucket="proj", owner="me & you")) for page in (lean, stock)]
    assert pages[0] == pages[1]
    assert len(pages[0]) == 60
    assert pages[0][7] == Instance(
        instance_id="i-7",
        state=InstanceState.TERMINATED,
        launch_id="l-1",
        launch_index=7,
        instance_type="m5.large",
        zone="eu-west-1a",
        market=Market.SPOT,
        launched_at_ms=1_767_323_045_000,
        spot_request_id="sir-7",
        private_ip="10.0.0.7",
        state_reason="Server.SpotInstanceTermination",
    )
    bare = [
        one
        for page in (lean, stock)
        for reservation in page["Reservations"]
        for one in reservation["Instances"]
        if one["InstanceId"] == "i-bare"
    ]
    assert [one.get("Tags", []) for one in bare] == [[], []]


OBJECT = (
    "<Contents><Key>dstackd%2Fheartbeats/i-{n}%21</Key><LastModified>2026-01-02T03:04:{n:02}.000Z"
    "</LastModified><ETag>&quot;d41d8&quot;</ETag><Size>{n}</Size><StorageClass>STANDARD"
    "</StorageClass></Contents>"
)
LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix/>'
    "<KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>{encoding}{token}{objects}</ListBucketResult>"
)


@pytest.mark.parametrize("count", [0, 1, 55])
@pytest.mark.parametrize("encoding", ["", "<EncodingType>url</EncodingType>"])
@pytest.mark.parametrize("token", ["", "<NextContinuationToken>a&amp;b</NextContinuationToken>"])
def test_a_listing_is_read_as_botocore_reads_it(count: int, encoding: str, token: str) -> None:
    """Keys, sizes, times, the page token, and whether keys are escaped, which botocore undoes afterwards."""
    objects = "".join(OBJECT.format(n=n) for n in range(count))
    body = LISTING.format(count=count, encoding=encoding, token=token, objects=objects)
    lean, stock = (
        parsed(factory, body, service="s3")
        for factory in (LeanParserFactory(), AioResponseParserFactory())
    )
    for name in ("NextContinuationToken", "EncodingType"):
        assert lean.get(name) == stock.get(name)
    heads = [
        [(each["Key"], each["Size"], each["LastModified"]) for each in page.get("Contents", ())]
        for page in (lean, stock)
    ]
    assert heads[0] == heads[1]
    assert len(heads[0]) == count


def test_an_error_is_read_by_botocore() -> None:
    """Error answers and answers that are no XML keep botocore's behaviour."""
    error = (
        "<Response><Errors><Error><Code>X</Code><Message>m</Message></Error></Errors></Response>"
    )
    assert parsed(LeanParserFactory(), error, status=503)["Error"]["Code"] == "X"
    with pytest.raises(ResponseParserError):
        parsed(LeanParserFactory(), "<html><body>proxy")
