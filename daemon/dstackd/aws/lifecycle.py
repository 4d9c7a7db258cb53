"""The bucket's lifecycle rules: read, merge, write. Law: rules of others are never lost, and a rule that is not understood whole is
never written back.

S3 has no conditional write for them. Two writers at the same moment can lose one's change: the time between our read and our write is
one call, and we write only where ours are not there yet.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from dstackd.aws.api import Api
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.core.lifecycle import Rule, is_current, merge
from dstackd.errors import InvalidRequest, NotFound

log = structlog.get_logger(__name__)

_READ = "GetBucketLifecycleConfiguration"
_UNKNOWN = "DstackdUnknownElements"
_SMALLEST = "TransitionDefaultMinimumObjectSize"
"""Not a rule but an option beside them; a write without it would set it back (S3 API reference)."""
_WRITES_MAX = 2


@dataclass(frozen=True, slots=True)
class _Found:
    rules: tuple[Rule, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    """Elements of the answer that botocore has left out, because its model of S3 is older than they are."""


def watch_answers(client: Untyped) -> None:
    """Have the client note in each answer which elements its parser has passed over."""
    shape = client.meta.service_model.operation_model(_READ).output_shape

    def note(*, response_dict: Untyped, parsed_response: Untyped, **_: Untyped) -> None:
        if response_dict is not None and parsed_response is not None:
            parsed_response[_UNKNOWN] = unknown_elements(response_dict["body"], shape)

    client.meta.events.register(f"response-received.s3.{_READ}", note)


async def ensure(s3: Api, *, bucket: str, ours: Sequence[Rule]) -> bool:
    """See `ports.Bucket.ensure_rules`."""
    for written in range(_WRITES_MAX):
        found = await _read(s3, bucket)
        if is_current(found.rules, ours):
            return written > 0
        if found.unknown:
            raise InvalidRequest(
                "UnknownLifecycleElement",
                f"the bucket's lifecycle rules hold {', '.join(found.unknown)}, which a write would lose",
                operation="s3:PutBucketLifecycleConfiguration",
                advice="use a newer version of this program, or add its rules by hand",
            )
        await _write(s3, bucket, found, ours)
    # Once more is enough: a read may still show what was there before (S3 User Guide, "Setting lifecycle configuration").
    return True


async def _read(s3: Api, bucket: str) -> _Found:
    try:
        answer = await s3.call("GetBucketLifecycleConfiguration", Bucket=bucket)
    except NotFound:
        return _Found()
    with reading(f"s3:{_READ}"):
        options = ((_SMALLEST, str(answer[_SMALLEST])),) if answer.get(_SMALLEST) else ()
        return _Found(tuple(answer.get("Rules", ())), options, tuple(answer[_UNKNOWN]))


async def _write(s3: Api, bucket: str, found: _Found, ours: Sequence[Rule]) -> None:
    rules = merge(found.rules, ours)
    await s3.call(
        "PutBucketLifecycleConfiguration",
        Bucket=bucket,
        LifecycleConfiguration={"Rules": rules},
        **dict(found.options),
    )
    log.info(
        "lifecycle_rules_written", bucket=bucket, ours=len(ours), others=len(rules) - len(ours)
    )


def unknown_elements(body: bytes, shape: Untyped) -> list[str]:
    """Names of elements and attributes in the answer's XML for which the shape (botocore's) has no place."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - from S3, and expat bounds what entities may do
    except (
        ET.ParseError,
        LookupError,
        ValueError,
    ):  # no XML, or in an encoding that there is not: the parser has its own word
        return []
    return sorted(set(_unknown_in(root, shape)))


def _unknown_in(element: ET.Element, shape: Untyped) -> Iterator[str]:
    if shape.type_name == "list":
        yield from _unknown_in(element, shape.member)
        return
    members: dict[str, Any] = _members(shape)
    for child in element:
        name = child.tag.rpartition("}")[2]
        if name in members:
            yield from _unknown_in(child, members[name])
        else:
            yield name


def _members(shape: Untyped) -> dict[str, Any]:
    """The shapes of a structure's elements, by the names that they have in XML."""
    if shape.type_name != "structure":
        return {}
    return {
        member.serialization.get("name", name): member
        for name, member in shape.members.items()
        if "location" not in member.serialization
    }
