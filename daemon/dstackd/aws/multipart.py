"""Uploads of files larger than one PUT. Law: at most PARALLEL_MAX parts in memory, whatever the file's size.

A failed upload is left alone: the policy has no s3:AbortMultipartUpload. Its parts cost storage until
the bucket's lifecycle rule for incomplete uploads removes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
from anyio import to_thread

from dstackd.aws.api import Api
from dstackd.aws.untyped import Untyped
from dstackd.errors import CloudError

PART_BYTES = 8 * 1024 * 1024
PARALLEL_MAX = 4
_PARTS_MAX = 10_000
"""S3's limit (S3 user guide, "Multipart upload limits")."""


async def upload(
    s3: Api, *, bucket: str, key: str, path: Path, size_bytes: int, part_bytes: int
) -> None:
    """Send the first `size_bytes` of the file in parts of `part_bytes`, larger when there would be too many."""
    part_bytes = max(part_bytes, -(-size_bytes // _PARTS_MAX))
    target = {"Bucket": bucket, "Key": key}
    created = await s3.call("CreateMultipartUpload", **target, ChecksumAlgorithm="CRC32")
    target["UploadId"] = created["UploadId"]
    with path.open("rb") as file:
        parts = await _Parts(s3, target, file.fileno()).send(size_bytes, part_bytes)
    await s3.call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": parts})


class _Parts:
    def __init__(self, s3: Api, target: dict[str, str], descriptor: int) -> None:
        self._s3 = s3
        self._target = target
        self._descriptor = descriptor
        self._sent: dict[int, dict[str, Untyped]] = {}
        self._errors: list[Exception] = []

    async def send(self, size_bytes: int, part_bytes: int) -> list[dict[str, Untyped]]:
        """What CompleteMultipartUpload wants to know of each part, in order."""
        spans = enumerate(_spans(size_bytes, part_bytes), start=1)
        async with anyio.create_task_group() as group:
            for _ in range(PARALLEL_MAX):
                group.start_soon(self._send_some, spans)
        if self._errors:
            raise self._errors[0]
        return [self._sent[number] for number in sorted(self._sent)]

    async def _send_some(self, spans: Iterator[tuple[int, tuple[int, int]]]) -> None:
        """Take the next part until there is none; the tasks share `spans`."""
        for number, span in spans:
            if self._errors:
                return
            try:
                self._sent[number] = await self._send_one(number, *span)
            except (CloudError, OSError) as error:  # kept, so that the group does not wrap it
                self._errors.append(error)

    async def _send_one(self, number: int, start: int, length: int) -> dict[str, Untyped]:
        body = await to_thread.run_sync(os.pread, self._descriptor, length, start)
        answer = await self._s3.call(
            "UploadPart", **self._target, PartNumber=number, Body=body, ChecksumAlgorithm="CRC32"
        )
        checksum = answer.get("ChecksumCRC32")
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        return part | ({"ChecksumCRC32": checksum} if checksum else {})


def _spans(size_bytes: int, part_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size_bytes, part_bytes):
        yield start, min(part_bytes, size_bytes - start)
