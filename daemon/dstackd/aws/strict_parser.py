"""The parsers of answers, behind which nothing odd passes. Law: an answer is what was asked for, or ResponseParserError.

Botocore's own read leniently: a proxy's page with status 200 is "no instances" to them, and a figure that is none is a ValueError,
which would end the daemon. An answer that cannot be read says nothing: it must never look like an empty one.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from botocore.parsers import ResponseParserError  # type: ignore[import-untyped] # ships no types

from dstackd.aws.lean_parser import LeanParserFactory
from dstackd.aws.translation import ERROR_FROM, MESSAGE_CHARS_MAX, named
from dstackd.aws.untyped import Untyped

_HEAD_BYTES = 4096
_NAMED_AFTER_OPERATION = frozenset({"ec2", "query"})
_S3_ROOTS: Mapping[str, str] = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CopyObject": "CopyObjectResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "ListObjectsV2": "ListBucketResult",
    "UploadPartCopy": "CopyPartResult",
}
"""S3 API reference, "Response Syntax" of each."""


class StrictParserFactory:
    """Takes the place of botocore's `response_parser_factory` in a session."""

    def __init__(self) -> None:
        self._lean = LeanParserFactory()

    def create_parser(self, protocol_name: str) -> Untyped:
        """A parser with botocore's `parse`."""
        return _StrictParser(self._lean.create_parser(protocol_name), protocol_name)


class _StrictParser:
    def __init__(self, parser: Untyped, protocol_name: str) -> None:
        self._parser = parser
        self._protocol = protocol_name

    async def parse(self, response: dict[str, Any], shape: Untyped) -> Untyped:
        try:
            if response["status_code"] < ERROR_FROM:
                self._refuse_another_root(response)
            answer = await self._parser.parse(response, shape)
        except ResponseParserError:
            raise
        except Exception as error:  # botocore raises what its conversions raise
            raise ResponseParserError(f"the answer cannot be read: {named(error)}") from error
        if "Error" in answer:  # not in the fields of an error's own shape, which are read apart
            answer["Error"] = _plain_error(answer["Error"])
        return answer

    def _refuse_another_root(self, response: Mapping[str, Any]) -> None:
        operation = response.get("context", {}).get("operation_name", "")
        if self._protocol in _NAMED_AFTER_OPERATION:
            expected = f"{operation}Response" if operation else ""
        else:
            expected = _S3_ROOTS.get(operation, "")
        if not expected:
            return
        found = _root_of(response["body"])
        if found != expected:
            raise ResponseParserError(f"the answer to {operation} is <{found}>, not <{expected}>")


def _root_of(body: bytes) -> str:
    """The name of the first element, without its namespace; empty where there is none."""
    parser: Untyped = ET.XMLPullParser(["start"])
    try:
        parser.feed(body.lstrip()[:_HEAD_BYTES])
    except ET.ParseError:
        return ""
    for _, element in parser.read_events():
        return str(element.tag).rpartition("}")[2]
    return ""


def _plain_error(error: object) -> dict[str, Any]:
    """An error with a code and a message that are text, of a bearable length."""
    found = error if isinstance(error, dict) else {}
    plain = {
        name: str(found.get(name) or "")[:MESSAGE_CHARS_MAX].replace("\0", "\ufffd")
        for name in ("Code", "Message")
    }
    return {**found, **plain}
