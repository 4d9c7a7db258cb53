"""A parser for DescribeInstances that reads what a snapshot needs. Law: same answer shape as botocore's, fewer fields.

Botocore's own takes 350-500 ms of one uninterrupted step for a page of 1,000 instances (measured,
botocore 1.43.117, 2.9 MB); here it is 90-150 ms in many steps, the event loop running in between, the
longest of them 20-60 ms. Everything else, errors included, goes to botocore's parser.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import datetime
from typing import Any

from aiobotocore.parsers import (  # type: ignore[import-untyped] # aiobotocore ships no types
    AioResponseParserFactory,
)
from anyio.lowlevel import checkpoint

from dstackd.aws.untyped import Untyped

_CHUNK_BYTES = 65_536
_INSTANCES_A_STEP = 50
_HTTP_OK = 200
_FIELDS = {
    "instanceId": "InstanceId",
    "instanceType": "InstanceType",
    "instanceLifecycle": "InstanceLifecycle",
    "spotInstanceRequestId": "SpotInstanceRequestId",
    "privateIpAddress": "PrivateIpAddress",
}


class LeanParserFactory:
    """Takes the place of botocore's `response_parser_factory` in a session."""

    def __init__(self) -> None:
        self._stock = AioResponseParserFactory()

    def create_parser(self, protocol_name: str) -> Untyped:
        """A parser with botocore's `parse`."""
        stock = self._stock.create_parser(protocol_name)
        return _LeanParser(stock) if protocol_name == "ec2" else stock


class _LeanParser:
    def __init__(self, stock: Untyped) -> None:
        self._stock = stock

    async def parse(self, response: dict[str, Any], shape: Untyped) -> Untyped:
        wanted = shape is not None and shape.name == "DescribeInstancesResult"
        if not wanted or response["status_code"] != _HTTP_OK:
            return await self._stock.parse(response, shape)
        try:
            root = await _tree(response["body"])
        except ET.ParseError:
            return await self._stock.parse(response, shape)  # botocore raises its own error
        answer = await _answer(root)
        answer["ResponseMetadata"] = {
            "HTTPStatusCode": response["status_code"],
            "HTTPHeaders": dict(response["headers"]),
        }
        return answer


async def _tree(body: bytes) -> ET.Element:
    parser = ET.XMLParser()  # noqa: S314 - as above
    for start in range(0, len(body), _CHUNK_BYTES):
        parser.feed(body[start : start + _CHUNK_BYTES])
        await checkpoint()
    root: ET.Element = parser.close()
    return root


async def _answer(root: ET.Element) -> dict[str, Any]:
    space = root.tag[: root.tag.find("}") + 1]
    instances: list[dict[str, Any]] = []
    for element in root.iterfind(
        f"{space}reservationSet/{space}item/{space}instancesSet/{space}item"
    ):
        instances.append(_instance(element, space))
        if len(instances) % _INSTANCES_A_STEP == 0:
            await checkpoint()
    token = root.findtext(f"{space}nextToken")
    answer: dict[str, Any] = {"Reservations": [{"Instances": instances}]}
    return answer | ({"NextToken": token} if token else {})


def _instance(element: ET.Element, space: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: text
        for tag, name in _FIELDS.items()
        if (text := element.findtext(f"{space}{tag}")) is not None
    }
    found["AmiLaunchIndex"] = int(element.findtext(f"{space}amiLaunchIndex") or 0)
    found["LaunchTime"] = datetime.fromisoformat(element.findtext(f"{space}launchTime") or "")
    found["State"] = {"Name": element.findtext(f"{space}instanceState/{space}name")}
    found["Placement"] = {
        "AvailabilityZone": element.findtext(f"{space}placement/{space}availabilityZone") or ""
    }
    found["StateReason"] = {"Code": element.findtext(f"{space}stateReason/{space}code") or ""}
    found["Tags"] = [
        {"Key": tag.findtext(f"{space}key"), "Value": tag.findtext(f"{space}value") or ""}
        for tag in element.iterfind(f"{space}tagSet/{space}item")
    ]
    return found
