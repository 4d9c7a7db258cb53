"""Inputs that lie in S3 as single objects: `s3://bucket/prefix`. Law: every object of the source is there
as it was when it was listed, or the stage fails; nothing is written outside the job's folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from dstackd.launch_document import S3InputDocument
from dstackd.runner.download import Download, Wanted
from dstackd.runner.errors import AwsError, RunnerError, StageFailed
from dstackd.runner.paths import Places, below
from dstackd.runner.s3 import Bucket
from dstackd.runner.s3_listing import Listed, list_objects

STAGE = "inputs"
LIST_PATIENCE_S = 60.0
_NAME_BYTES_MAX = 255
_CHANGED = 412
_REFUSED = 403
_NO_BUCKET = "NoSuchBucket"


class Source(NamedTuple):
    """One input that was looked at: the bucket in its own region, objects with their paths."""

    wanted: S3InputDocument
    bucket: Bucket
    files: Sequence[tuple[str, Listed]]
    folders: Sequence[str]
    size_bytes: int


def look_at(wanted: S3InputDocument, *, own: Bucket, opened: ExitStack) -> Source:
    """What there is. `opened` closes what was opened for it. Raises StageFailed."""
    try:
        bucket, objects = _list(wanted, own=own, opened=opened)
    except RunnerError as error:
        final = isinstance(error, AwsError) and error.code == _NO_BUCKET
        raise StageFailed(STAGE, _why(wanted, error), final=final) from error
    if not objects:
        message = f"{url(wanted)}: there is no such object, and none below it"
        raise StageFailed(STAGE, message, final=True)
    files, folders = _places(wanted, objects)
    return Source(wanted, bucket, files, folders, sum(listed.size for _, listed in files))


def fetch(source: Source, *, job_dir: str, tick: Callable[[int], None]) -> None:
    """Write its objects below the job's folder. Raises StageFailed, RunnerError, OSError."""
    for folder in source.folders:
        os.makedirs(below(job_dir, folder), exist_ok=True)

    places = Places(job_dir)
    try:
        Download(source.bucket, tick=tick).fetch(
            Wanted(listed.key, places.place(path), size=listed.size, etag=listed.etag, mode=0o644)
            for path, listed in source.files
        )
    except AwsError as error:
        if error.status == _CHANGED:
            message = f"{url(source.wanted)}: an object changed while it was read"
            raise StageFailed(STAGE, message) from error
        raise StageFailed(STAGE, _why(source.wanted, error)) from error


def url(wanted: S3InputDocument) -> str:
    return f"s3://{wanted.bucket}/{wanted.prefix}"


def _list(
    wanted: S3InputDocument, *, own: Bucket, opened: ExitStack
) -> tuple[Bucket, list[Listed]]:
    if wanted.bucket == own.name:
        return own, _objects(own, wanted.prefix)
    bucket = opened.enter_context(closing(own.other(wanted.bucket)))
    try:
        return bucket, _objects(bucket, wanted.prefix)
    except AwsError as error:
        # A bucket of another region answers with where it is, whatever the code.
        region = error.region
        if region in {"", bucket.region}:
            raise
    bucket = opened.enter_context(closing(own.other(wanted.bucket, region=region)))
    return bucket, _objects(bucket, wanted.prefix)


def _objects(bucket: Bucket, prefix: str) -> list[Listed]:
    """`data` means the object `data` and all below `data/`, not `database/…`."""
    if not prefix or prefix.endswith("/"):
        return list(list_objects(bucket, prefix, patience_s=LIST_PATIENCE_S))
    # In the order of keys, the one that equals the prefix is the first.
    first = list_objects(bucket, prefix, patience_s=LIST_PATIENCE_S, count_max=1)
    exact = [listed for listed in first if listed.key == prefix]
    return exact + list(list_objects(bucket, f"{prefix}/", patience_s=LIST_PATIENCE_S))


def _places(
    wanted: S3InputDocument, objects: Sequence[Listed]
) -> tuple[list[tuple[str, Listed]], list[str]]:
    """(path, object) of each file, and the folders that have a marker of their own."""
    files: dict[str, Listed] = {}
    folders: list[str] = []
    for listed in objects:
        rest = listed.key[len(wanted.prefix) :].removeprefix("/") if wanted.prefix else listed.key
        if listed.key == wanted.prefix and not listed.key.endswith("/"):
            files[wanted.target] = listed
        elif (not rest or rest.endswith("/")) and listed.size == 0:
            folders.append(_path(wanted, rest.rstrip("/") or "."))
        else:
            files[_path(wanted, rest)] = listed
    _refuse_file_and_folder(wanted, files, folders)
    return list(files.items()), folders


def _path(wanted: S3InputDocument, rest: str) -> str:
    parts = rest.split("/")
    bad = {"", "..", "."} & set(parts) if rest != "." else set()
    if bad or "\0" in rest or any(len(part.encode()) > _NAME_BYTES_MAX for part in parts):
        message = f"{url(wanted)}: the key {wanted.prefix + rest!r} cannot be a path of a file"
        raise StageFailed(STAGE, message, final=True)
    return os.path.normpath(os.path.join(wanted.target, rest))


def _refuse_file_and_folder(
    wanted: S3InputDocument, files: dict[str, Listed], folders: Sequence[str]
) -> None:
    needed = set(folders)
    for path in (*files, *folders):
        folder = os.path.dirname(path)
        while folder and folder not in needed:
            needed.add(folder)
            folder = os.path.dirname(folder)
    for path, listed in files.items():
        if path in needed:
            message = f"{url(wanted)}: {listed.key!r} is an object, and there are others below it"
            raise StageFailed(STAGE, message, final=True)


def _why(wanted: S3InputDocument, error: RunnerError) -> str:
    """The error, and what would help."""
    if not isinstance(error, AwsError):
        return f"{url(wanted)}: {error}"
    if error.code == _NO_BUCKET:
        return f"{url(wanted)}: there is no bucket of that name"
    if error.status == _REFUSED:
        return (
            f"{url(wanted)}: {error}; the machines' role needs s3:ListBucket on the bucket and s3:GetObject"
            f" on its objects: name {wanted.bucket} in input_buckets of the backend"
        )
    return f"{url(wanted)}: {error}"
