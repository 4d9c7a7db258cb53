"""Uploads of files larger than one PUT. Law: at most PARALLEL_MAX parts in memory, whatever the file's size.

A failed upload is left alone: the policy has no s3:AbortMultipartUpload. Its parts cost storage until
the bucket's lifecycle rule for incomplete uploads removes them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from dstackd.aws.api import Api
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.errors import CloudError

PART_BYTES = 8 * 1024 * 1024
PARALLEL_MAX = 4
_PARTS_MAX = 10_000
"""S3's limit (S3 user guide, "Multipart upload limits")."""

Span = tuple[int, int]
"""(start, length) in bytes."""
SendPart = Callable[[int, Span], Awaitable[dict[str, Untyped]]]
"""Sends the part of that number; returns its ETag and checksum as CompleteMultipartUpload wants them."""


async def upload(
    s3: Api, *, bucket: str, key: str, path: Path, size_bytes: int, part_bytes: int
) -> None:
    """Send the first `size_bytes` of the file in parts of `part_bytes`, larger when there would be too many."""
    target = await _begin(s3, bucket=bucket, key=key)
    with path.open("rb") as file:
        send = partial(_send_bytes, s3, target, file.fileno())
        parts = await _Parts(send).send(size_bytes, part_bytes)
    await s3.call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": parts})


async def copy(s3: Api, *, bucket: str, key: str, size_bytes: int, part_bytes: int) -> None:
    """Write the object of `size_bytes` anew from itself, within S3, in parts of `part_bytes`."""
    target = await _begin(s3, bucket=bucket, key=key)
    parts = await _Parts(partial(_send_copy, s3, target)).send(size_bytes, part_bytes)
    await s3.call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": parts})


async def _begin(s3: Api, *, bucket: str, key: str) -> dict[str, str]:
    target = {"Bucket": bucket, "Key": key}
    created = await s3.call("CreateMultipartUpload", **target, ChecksumAlgorithm="CRC32")
    with reading("s3:CreateMultipartUpload"):
        return {**target, "UploadId": str(created["UploadId"])}


async def _send_bytes(
    s3: Api, target: dict[str, str], descriptor: int, number: int, span: Span
) -> dict[str, Untyped]:
    start, length = span
    body = await to_thread.run_sync(os.pread, descriptor, length, start)
    answer = await s3.call(
        "UploadPart", **target, PartNumber=number, Body=body, ChecksumAlgorithm="CRC32"
    )
    with reading("s3:UploadPart"):
        return _part(number, answer)


async def _send_copy(
    s3: Api, target: dict[str, str], number: int, span: Span
) -> dict[str, Untyped]:
    start, length = span
    answer = await s3.call(
        "UploadPartCopy",
        **target,
        PartNumber=number,
        CopySource={"Bucket": target["Bucket"], "Key": target["Key"]},
        CopySourceRange=f"bytes={start}-{start + length - 1}",
    )
    with reading("s3:UploadPartCopy"):
        return _part(number, answer["CopyPartResult"])


def _part(number: int, answer: dict[str, Untyped]) -> dict[str, Untyped]:
    checksum = answer.get("ChecksumCRC32")
    part = {"PartNumber": number, "ETag": answer["ETag"]}
    return part | ({"ChecksumCRC32": checksum} if checksum else {})


class _Parts:
    def __init__(self, send_part: SendPart) -> None:
        self._send_part = send_part
        self._sent: dict[int, dict[str, Untyped]] = {}
        self._errors: list[Exception] = []

    async def send(self, size_bytes: int, part_bytes: int) -> list[dict[str, Untyped]]:
        """What CompleteMultipartUpload wants to know of each part, in order; larger parts when there would be too many."""
        part_bytes = max(part_bytes, -(-size_bytes // _PARTS_MAX))
        spans = enumerate(_spans(size_bytes, part_bytes), start=1)
        async with anyio.create_task_group() as group:
            for _ in range(PARALLEL_MAX):
                group.start_soon(self._send_some, spans)
        if self._errors:
            raise self._errors[0]
        return [self._sent[number] for number in sorted(self._sent)]

    async def _send_some(self, spans: Iterator[tuple[int, Span]]) -> None:
        """Take the next part until there is none; the tasks share `spans`."""
        for number, span in spans:
            if self._errors:
                return
            try:
                self._sent[number] = await self._send_part(number, span)
            except (CloudError, OSError) as error:  # kept, so that the group does not wrap it
                self._errors.append(error)


def _spans(size_bytes: int, part_bytes: int) -> Iterator[Span]:
    for start in range(0, size_bytes, part_bytes):
        yield start, min(part_bytes, size_bytes - start)
