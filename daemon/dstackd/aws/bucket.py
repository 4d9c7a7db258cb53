"""S3 as `ports.Bucket`. Law: no call outside the policy, and no more than a few parts in memory."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from dstackd.aws import lifecycle
from dstackd.aws.api import Api
from dstackd.aws.multipart import PART_BYTES, copy, upload
from dstackd.aws.translation import reading, refusal, translating
from dstackd.aws.untyped import Untyped
from dstackd.core.lifecycle import Rule
from dstackd.errors import CloudError, InvalidRequest, NotFound
from dstackd.ports import Bucket, ObjectFacts, ObjectHead

KEYS_A_DELETE_MAX = 1000
"""S3's limit for DeleteObjects."""
COPY_BYTES_MAX = 5 * 1024**3
"""S3's limit for CopyObject and for one part of a multipart upload."""
GET_BYTES_MAX = 64 * 1024**2
"""Of an object that is read into memory: a list of 400,000 artifacts. A machine may write anything there."""
GET_MAX_S = 240.0
_CHUNK_BYTES = 262_144


class S3Bucket:
    """One bucket. S3 has been strongly consistent for reads, writes and lists since 2020."""

    def __init__(
        self,
        s3: Api,
        *,
        name: str,
        part_bytes: int = PART_BYTES,
        copy_bytes_max: int = COPY_BYTES_MAX,
    ) -> None:
        """`part_bytes`: files up to this size go in one PUT, larger ones in parts of it (5 MiB at least).
        `copy_bytes_max`: larger objects are copied in parts of this size.
        """
        self._s3 = s3
        self._name = name
        self._part_bytes = part_bytes
        self._copy_bytes_max = copy_bytes_max

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        """See `ports.Bucket`. When an answer was lost on the way, PreconditionFailed may be due to our own write."""
        condition = {"IfNoneMatch": "*"} if only_if_new else {}
        await self._s3.call("PutObject", Bucket=self._name, Key=key, Body=body, **condition)

    async def put_file(self, key: str, path: Path) -> None:
        """See `ports.Bucket`."""
        size_bytes = (await to_thread.run_sync(path.stat)).st_size
        if size_bytes <= self._part_bytes:
            await self.put(key, await to_thread.run_sync(path.read_bytes))
        else:
            await upload(
                self._s3,
                bucket=self._name,
                key=key,
                path=path,
                size_bytes=size_bytes,
                part_bytes=self._part_bytes,
            )

    async def exists(self, key: str) -> bool:
        """See `ports.Bucket`."""
        try:
            await self._s3.call("HeadObject", Bucket=self._name, Key=key)
        except NotFound:
            return False
        return True

    async def facts(self, key: str) -> ObjectFacts:
        """See `ports.Bucket`. A multipart object, whose ETag ends in the number of its parts, has a SHA-256 of its parts'
        only, which says nothing of the whole (S3 User Guide, "Checking object integrity").
        """
        answer = await self._s3.call(
            "HeadObject", Bucket=self._name, Key=key, ChecksumMode="ENABLED"
        )
        return _facts(answer)

    async def renew(self, key: str) -> None:
        """See `ports.Bucket`. S3 copies an object onto itself only if something of it is said to change."""
        size_bytes = (await self.facts(key)).size_bytes
        if size_bytes > self._copy_bytes_max:
            bound = self._copy_bytes_max
            await copy(
                self._s3, bucket=self._name, key=key, size_bytes=size_bytes, part_bytes=bound
            )
            return
        await self._s3.call(
            "CopyObject",
            Bucket=self._name,
            Key=key,
            CopySource={"Bucket": self._name, "Key": key},
            MetadataDirective="REPLACE",
        )

    async def get(self, key: str) -> bytes:
        """See `ports.Bucket`."""
        chunks: list[bytes] = []
        size_bytes = 0
        with translating("s3:GetObject"), anyio.fail_after(GET_MAX_S):
            async with aclosing(self.read(key)) as content:
                async for chunk in content:
                    chunks.append(chunk)
                    size_bytes += len(chunk)
                    if size_bytes > GET_BYTES_MAX:
                        problem = f"{key} has more than {GET_BYTES_MAX} bytes"
                        raise InvalidRequest("ObjectTooLarge", problem, operation="s3:GetObject")
        return b"".join(chunks)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """See `ports.Bucket`."""
        answer = await self._s3.call("GetObject", Bucket=self._name, Key=key)
        with translating("s3:GetObject"):
            async with answer["Body"] as stream:
                while chunk := await stream.read(_CHUNK_BYTES):
                    yield chunk

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        """See `ports.Bucket`."""
        pages = self._s3.pages(
            "ListObjectsV2",
            token=("NextContinuationToken", "ContinuationToken"),
            Bucket=self._name,
            Prefix=prefix,
        )
        found: list[ObjectHead] = []
        async for page in pages:
            with reading("s3:ListObjectsV2"):
                found += map(_head, page.get("Contents", ()))
        return tuple(found)

    async def delete(self, keys: Sequence[str]) -> None:
        """See `ports.Bucket`. Every batch is sent, then the first key that S3 refused is raised."""
        refused: list[CloudError] = []
        for start in range(0, len(keys), KEYS_A_DELETE_MAX):
            batch = [{"Key": key} for key in keys[start : start + KEYS_A_DELETE_MAX]]
            answer = await self._s3.call(
                "DeleteObjects", Bucket=self._name, Delete={"Objects": batch, "Quiet": True}
            )
            with reading("s3:DeleteObjects"):
                refused += map(_refusal, answer.get("Errors", ()))
        # S3 calls the deletion of a missing key a success; some doubles of it do not.
        for error in refused:
            if not isinstance(error, NotFound):
                raise error

    async def ensure_rules(self, ours: Sequence[Rule]) -> bool:
        """See `ports.Bucket`."""
        return await lifecycle.ensure(self._s3, bucket=self._name, ours=ours)


@reading("s3:HeadObject")
def _facts(answer: Mapping[str, Untyped]) -> ObjectFacts:
    checksum = str(answer.get("ChecksumSHA256") or "")
    composite = answer.get("ChecksumType") == "COMPOSITE" or "-" in answer["ETag"]
    return ObjectFacts(
        size_bytes=int(answer["ContentLength"]),
        modified_at_ms=int(answer["LastModified"].timestamp() * 1000),
        sha256="" if composite else base64.b64decode(checksum).hex(),
        metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
    )


def _head(entry: Untyped) -> ObjectHead:
    return ObjectHead(
        key=entry["Key"],
        size_bytes=int(entry["Size"]),
        modified_at_ms=int(entry["LastModified"].timestamp() * 1000),
    )


def _refusal(entry: Untyped) -> CloudError:
    text = f"{entry.get('Key', '')}: {entry.get('Message', '')}"
    return refusal(str(entry.get("Code", "")), text, operation="s3:DeleteObjects")


if TYPE_CHECKING:
    _: type[Bucket] = S3Bucket
