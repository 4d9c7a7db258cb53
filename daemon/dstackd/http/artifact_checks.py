"""Whether the bucket holds what a manifest lists. Law: S3's own checksum where it has one of the whole, else every byte is read;
a call that fails is no verdict.

A machine replaces an object before its next list names the new content, and may die in between. So an object of a set that is not
sealed says itself what it is (`artifact_manifest.DIGEST_HEADER`), and is compared with that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio

from dstackd.artifact_manifest import DIGEST_HEADER, MODE_HEADER, ManifestFile
from dstackd.errors import CloudError, NotFound
from dstackd.http.artifact_sets import ArtifactSet
from dstackd.ports import Bucket, ObjectFacts

AT_A_TIME = 16
_S3_PREFIX = "x-amz-meta-"
_DIGEST, _MODE = DIGEST_HEADER.removeprefix(_S3_PREFIX), MODE_HEADER.removeprefix(_S3_PREFIX)
_OCTAL = re.compile("[0-7]{1,5}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """One file. `problem` is empty where it is what was sealed."""

    path: str
    problem: str
    read_bytes: int = 0
    """What had to be read because S3 has no checksum of the whole."""


def check_all(bucket: Bucket, artifacts: ArtifactSet) -> AsyncGenerator[Sequence[Checked], None]:
    """Every file of the set, some at a time, in order. Raises CloudError."""

    async def check(file: ManifestFile) -> Checked:
        return await _check(bucket, artifacts.key_of(file), file, sealed=artifacts.sealed)

    return _some_at_a_time(artifacts.manifest.files, check)


async def as_they_are(bucket: Bucket, artifacts: ArtifactSet) -> Sequence[ManifestFile]:
    """The files of a set that is not sealed, each as its object is now; those that are gone stay as listed. Raises CloudError."""

    async def now(file: ManifestFile) -> ManifestFile:
        try:
            return _newest(file, await bucket.facts(artifacts.key_of(file)))
        except NotFound:
            return file

    return [file async for some in _some_at_a_time(artifacts.manifest.files, now) for file in some]


async def _some_at_a_time(
    files: Sequence[ManifestFile], work: Callable[[ManifestFile], Awaitable[T]]
) -> AsyncGenerator[Sequence[T], None]:
    for start in range(0, len(files), AT_A_TIME):
        yield await _each(files[start : start + AT_A_TIME], work)


async def _each(
    files: Sequence[ManifestFile], work: Callable[[ManifestFile], Awaitable[T]]
) -> list[T]:
    """The results of all at once, in order. Raises the first CloudError, as it is."""
    results: dict[int, T] = {}
    errors: list[CloudError] = []

    async def note(number: int, file: ManifestFile) -> None:
        try:
            results[number] = await work(file)
        except CloudError as error:  # kept, so that the group does not wrap it
            errors.append(error)

    async with anyio.create_task_group() as group:
        for number, file in enumerate(files):
            group.start_soon(note, number, file)
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(files))]


def _newest(file: ManifestFile, facts: ObjectFacts) -> ManifestFile:
    stated, mode = facts.metadata.get(_DIGEST, ""), facts.metadata.get(_MODE, "")
    if stated in {"", file.sha256}:
        return file
    mode_bits = int(mode, 8) if _OCTAL.fullmatch(mode) else file.mode
    return replace(file, size=facts.size_bytes, sha256=stated, mode=mode_bits)


async def _check(bucket: Bucket, key: str, file: ManifestFile, *, sealed: bool) -> Checked:
    try:
        facts = await bucket.facts(key)
        file = file if sealed else _newest(file, facts)
        if facts.size_bytes != file.size:
            problem = f"has {facts.size_bytes} bytes in the bucket, {file.size} in the manifest"
            return Checked(file.path, problem)
        if facts.sha256:
            return Checked(file.path, _compared(facts.sha256, file))
        digest, size_bytes = hashlib.sha256(), 0
        async for chunk in bucket.read(key):
            digest.update(chunk)
            size_bytes += len(chunk)
    except NotFound:
        return Checked(file.path, "is not in the bucket")
    return Checked(file.path, _compared(digest.hexdigest(), file), size_bytes)


def _compared(sha256: str, file: ManifestFile) -> str:
    if sha256 == file.sha256:
        return ""
    return f"has the sha256 {sha256[:12]}… in the bucket, {file.sha256[:12]}… in the manifest"
