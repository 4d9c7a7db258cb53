"""AWS's answers in the daemon: the parsers and what reads their results. A CloudError, botocore's ResponseParserError, or values.

The first byte chooses whose answer it is, the second its status; the rest is the body.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import anyio
import botocore.session  # type: ignore[import-untyped] # ships no types
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped] # as above

from dstackd.aws.bucket import _head
from dstackd.aws.instances import launched, owned
from dstackd.aws.lifecycle import unknown_elements
from dstackd.aws.logs import _event
from dstackd.aws.strict_parser import StrictParserFactory
from dstackd.aws.translation import error_of, reading, refusal
from dstackd.aws.untyped import Untyped
from dstackd.errors import CloudError

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_INSTANCE = (
    "<item><instanceId>i-1</instanceId><instanceState><code>16</code><name>running</name></instanceState>"
    "<amiLaunchIndex>0</amiLaunchIndex><instanceType>m5.large</instanceType>"
    "<launchTime>2026-01-02T03:04:05.000Z</launchTime><instanceLifecycle>spot</instanceLifecycle>"
    "<tagSet><item><key>dstack_bucket</key><value>b</value></item>"
    "<item><key>dstackd:owner</key><value>o</value></item></tagSet></item>"
)
_INSTANCES = f"<instancesSet>{_INSTANCE}</instancesSet>"


def _sample(which: int, body: str, status: int = 0) -> bytes:
    return bytes([which, status]) + body.encode()


SAMPLES = (
    _sample(
        0,
        f"{_XML}<DescribeInstancesResponse><reservationSet><item>{_INSTANCES}</item></reservationSet>"
        "<nextToken>t</nextToken></DescribeInstancesResponse>",
    ),
    _sample(1, f"{_XML}<RunInstancesResponse>{_INSTANCES}</RunInstancesResponse>"),
    _sample(
        2,
        f"{_XML}<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a%2Fb</Key>"
        "<LastModified>2026-01-02T03:04:05.000Z</LastModified><Size>3</Size></Contents>"
        "<NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
    ),
    _sample(
        3,
        '{"events":[{"eventId":"1","logStreamName":"a/1","timestamp":1,"ingestionTime":2,"message":"m"}],'
        '"nextToken":"t"}',
    ),
    _sample(
        4,
        f"{_XML}<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter><Prefix>p</Prefix>"
        "</Filter><Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>",
    ),
    _sample(
        0,
        f"{_XML}<Response><Errors><Error><Code>C</Code><Message>m</Message></Error></Errors></Response>",
        2,
    ),
    _sample(2, f"{_XML}<Error><Code>SlowDown</Code><Message>m</Message></Error>", 3),
    _sample(3, '{"__type":"com.amazonaws.logs#ThrottlingException","message":"m"}', 2),
)
_STATUSES = (200, 301, 400, 503)


def _own(answer: dict[str, Any]) -> None:
    list(owned(answer, bucket="b", owner="o"))


def _heads(answer: dict[str, Any]) -> None:
    with reading("s3:ListObjectsV2"):
        for entry in answer.get("Contents", ()):
            _head(entry)


def _events(answer: dict[str, Any]) -> None:
    with reading("logs:FilterLogEvents"):
        for event in answer["events"]:
            _event(event)


def _rules(answer: dict[str, Any]) -> None:
    with reading("s3:GetBucketLifecycleConfiguration"):
        tuple(answer.get("Rules", ()))


_ASKED: tuple[tuple[str, str, str, Callable[[dict[str, Any]], object]], ...] = (
    ("ec2", "ec2", "DescribeInstances", _own),
    ("ec2", "ec2", "RunInstances", launched),
    ("s3", "rest-xml", "ListObjectsV2", _heads),
    ("logs", "json", "FilterLogEvents", _events),
    ("s3", "rest-xml", "GetBucketLifecycleConfiguration", _rules),
)


@lru_cache
def _shape(service: str, operation: str) -> Untyped:
    model = botocore.session.get_session().get_service_model(service)
    return model.operation_model(operation).output_shape


def run(content: bytes) -> None:
    """See the module."""
    if len(content) < 2:
        return
    service, protocol, operation, read = _ASKED[content[0] % len(_ASKED)]
    status, body = _STATUSES[content[1] % len(_STATUSES)], content[2:]
    response = {
        "status_code": status,
        "headers": {},
        "body": body,
        "context": {"operation_name": operation},
    }
    shape = _shape(service, operation)
    if operation.endswith("LifecycleConfiguration"):
        unknown_elements(body, shape)
    parser = StrictParserFactory().create_parser(protocol)

    async def parse() -> dict[str, Any]:
        answer: dict[str, Any] = await parser.parse(response, shape)
        return answer

    try:
        answer = anyio.run(parse)
        code, message, _ = error_of(answer)
        if status >= 300:
            raise refusal(code, message, operation=operation, http_status=status)
        read(answer)
    except (CloudError, ResponseParserError):
        return
