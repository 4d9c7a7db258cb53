"""Lifecycle rules of a bucket, given back as they were written.

Law: moto's own record stays filled, it decides whether there are rules; what is answered is the XML that was put.
Measured with moto 5.2.5: ObjectSizeGreaterThan, ObjectSizeLessThan, NewerNoncurrentVersions of an expiration and every element
that it does not know are lost, TransitionDefaultMinimumObjectSize is always the default, and rules with the old Prefix may stand
beside rules with a Filter.
Sources: API reference of both actions; S3's message for the mixture is "Filter element can only be used in Lifecycle V2."
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from moto.s3.exceptions import S3ClientError
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response

_RULES_LIMIT = 1000
_SMALLEST = "x-amz-transition-default-minimum-object-size"
_DEFAULT = "all_storage_classes_128K"


@dataclass(frozen=True, slots=True)
class _Written:
    body: bytes
    smallest: str


def install() -> None:
    """Replace moto's two actions."""
    written: WeakKeyDictionary[FakeBucket, _Written] = WeakKeyDictionary()
    put: Callable[..., Any] = S3Response._bucket_response_put
    get: Callable[..., Any] = S3Response.get_bucket_lifecycle

    def put_and_keep(self: Any, request: Any, bucket_name: str, querystring: Any) -> Any:
        if "lifecycle" not in querystring:
            return put(self, request, bucket_name, querystring)
        body = bytes(self.body)
        _check(body)
        answer = put(self, request, bucket_name, querystring)
        smallest = request.headers.get(_SMALLEST, _DEFAULT)
        written[self.backend.get_bucket(bucket_name)] = _Written(body, smallest)
        return answer

    def give_back(self: Any) -> Any:
        answer = get(self)  # an error where there are none
        found = written.get(self.backend.get_bucket(self.bucket_name))
        if found is None:
            return answer
        return 200, {"Content-Type": "application/xml", _SMALLEST: found.smallest}, found.body

    S3Response._bucket_response_put = put_and_keep  # type: ignore[method-assign]
    S3Response.get_bucket_lifecycle = give_back  # type: ignore[method-assign]


def _check(body: bytes) -> None:
    rules = [each for each in _root(body) if _name(each) == "Rule"]
    if len(rules) > _RULES_LIMIT:
        raise S3ClientError("MalformedXML", f"at most {_RULES_LIMIT} rules are allowed")
    old = [rule for rule in rules if "Prefix" in {_name(child) for child in rule}]
    if old and len(old) < len(rules):
        raise S3ClientError("InvalidRequest", "Filter element can only be used in Lifecycle V2.")
    ids = [child.text for rule in rules for child in rule if _name(child) == "ID"]
    if len(ids) != len(set(ids)):
        raise S3ClientError("InvalidArgument", "Rule ID must be unique.")


def _root(body: bytes) -> ET.Element:
    return ET.fromstring(body)  # noqa: S314 - of the programs on this machine


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
