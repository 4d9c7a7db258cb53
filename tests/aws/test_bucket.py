"""S3 through aiobotocore: large files, long listings, what is refused."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import anyio
import pytest

from dstackd.aws.bucket import S3Bucket
from dstackd.errors import InvalidRequest
from tests.aws.local_world import LocalWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024


def multipart_calls(world: LocalWorld) -> dict[str, int]:
    """How often each call of a multipart upload was made so far."""
    counts: dict[str, int] = world.ground.cloud.control.calls()["client"]
    names = ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
    return {name: counts.get(f"s3:{name}", 0) for name in names}


async def test_a_large_file_goes_in_parts(local_world: LocalWorld, tmp_path: Path) -> None:
    """A file above the limit is sent in parts and comes back byte for byte."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(11 * MIB + 17))
    before = multipart_calls(local_world)
    await local_world.with_parts_of(5 * MIB).put_file("dstackd/large", path)
    after = multipart_calls(local_world)
    assert [after[name] - before[name] for name in after] == [1, 3, 1]
    assert await local_world.bucket.get("dstackd/large") == path.read_bytes()
    heads = await local_world.bucket.list("dstackd/large")
    assert [head.size_bytes for head in heads] == [path.stat().st_size]


async def test_a_listing_and_a_deletion_of_more_than_a_page(local_world: LocalWorld) -> None:
    """Beyond the 1,000 keys of one call nothing is left out and nothing is left behind."""
    keys = [f"many/{number:04d}" for number in range(1001)]

    async def put_some(start: int) -> None:
        for key in keys[start::8]:
            await local_world.bucket.put(key, b"")

    async with anyio.create_task_group() as group:
        for start in range(8):
            group.start_soon(put_some, start)
    assert [head.key for head in await local_world.bucket.list("many/")] == keys
    await local_world.bucket.delete(keys)
    assert await local_world.bucket.list("many/") == ()


async def test_a_missing_bucket_is_no_missing_object(local_world: LocalWorld) -> None:
    """A bucket that is not there is an error for the operator, not an object that may still come."""
    bucket = S3Bucket(local_world.ground.clients.s3, name="there-is-no-such-bucket")
    with pytest.raises(InvalidRequest) as caught:
        await bucket.get("dstackd/a")
    assert caught.value.code == "NoSuchBucket"
    with pytest.raises(InvalidRequest):
        await bucket.put("dstackd/a", b"")


async def test_a_failed_upload_raises_one_error(local_world: LocalWorld, tmp_path: Path) -> None:
    """An upload in parallel parts fails as plainly as a single one does."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (3 * MIB))
    small_parts = local_world.with_parts_of(MIB)  # S3 takes no parts below 5 MiB
    with pytest.raises(InvalidRequest) as caught:
        await small_parts.put_file("dstackd/large", path)
    assert caught.value.code == "EntityTooSmall"


async def test_a_checksum_of_the_whole_is_told_and_of_parts_is_not(local_world: LocalWorld) -> None:
    """S3 has compared a single PUT with its SHA-256; what it has of a multipart object is about its parts."""
    s3, name, body = local_world.ground.admin.s3, local_world.bucket_name, b"content"
    said = {"Dstackd-Sha256": "what the writer says"}
    s3.put_object(Bucket=name, Key="single", Body=body, ChecksumAlgorithm="SHA256", Metadata=said)
    target = {"Bucket": name, "Key": "parts"}
    begun = s3.create_multipart_upload(**target, ChecksumAlgorithm="SHA256")
    target["UploadId"] = begun["UploadId"]
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    part = s3.upload_part(**target, PartNumber=1, Body=body, ChecksumSHA256=digest)
    parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": digest}]
    s3.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    single = await local_world.bucket.facts("single")
    assert single.sha256 == hashlib.sha256(body).hexdigest()
    assert single.metadata == {"dstackd-sha256": "what the writer says"}
    assert (await local_world.bucket.facts("parts")).sha256 == ""


async def test_what_is_too_large_for_one_copy_is_renewed_in_parts(local_world: LocalWorld) -> None:
    """Above CopyObject's limit an object is copied onto itself part by part, and is the same."""
    body = os.urandom(11 * MIB + 3)
    await local_world.bucket.put("dstackd/large", body)
    before = await local_world.bucket.facts("dstackd/large")
    small = S3Bucket(
        local_world.ground.clients.s3, name=local_world.bucket_name, copy_bytes_max=5 * MIB
    )
    await small.renew("dstackd/large")
    after = await local_world.bucket.facts("dstackd/large")
    assert await local_world.bucket.get("dstackd/large") == body
    assert (after.size_bytes, after.modified_at_ms >= before.modified_at_ms) == (len(body), True)
