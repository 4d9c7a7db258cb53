"""Where a secret has been left: on disk, in the bucket, in CloudWatch, at EC2, in what processes show of themselves.

Law: searches for the value in forms that it makes itself, not in those that the product hides.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from tests.end_to_end.installation import Installation

_MEMORY_FOLDERS = (Path("/dev/shm"), Path("/run/containers"), Path("/run/libpod"))
_JOBS_OWN = b"DSTACKD_JOB_ID="


def findings(site: Installation, values: list[str], *folders: Path) -> list[str]:
    """Every place that holds one of the values, in any form; `folders` are searched too."""
    forms = [form for value in values for form in _forms(value)]
    places = [*_files([site.folder.parent, *folders, *_MEMORY_FOLDERS]), *_processes()]
    places += [*site.store.contents(), *_objects(site), *_events(site), *_instances(site)]
    return [name for name, content in places if any(form in content for form in forms)]


def _forms(value: str) -> set[bytes]:
    raw = value.encode()
    # Wherever the value begins in a longer text, these characters stand for it alone.
    inner = {base64.b64encode(b"x" * before + raw)[before + 1 : -4] for before in range(3)}
    texts = {quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]}
    lines = {line.encode() for line in value.splitlines()}
    return {raw, *inner, *lines, *(text.encode() for text in texts)}


def _files(folders: list[Path]) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            # What is removed meanwhile, and what is a socket or a pipe, holds nothing.
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    yield str(path), path.read_bytes()


def _processes() -> Iterator[tuple[str, bytes]]:
    """Arguments and environments of all processes but those of jobs."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if _JOBS_OWN not in environment and not _is_in_container(folder):
                command = (folder / "cmdline").read_bytes()
                yield f"{folder} {command!r}", environment + command


def _is_in_container(folder: Path) -> bool:
    return (folder / "ns" / "mnt").readlink() != Path("/proc/self/ns/mnt").readlink()


def _objects(site: Installation) -> Iterator[tuple[str, bytes]]:
    s3 = site.client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        name = bucket["Name"]
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
            for entry in page.get("Versions", []):
                try:
                    found = s3.get_object(
                        Bucket=name, Key=entry["Key"], VersionId=entry["VersionId"]
                    )
                except ClientError as error:
                    # The daemon removes what is done with; what was listed may be gone by now.
                    if error.response["Error"]["Code"] not in {"NoSuchKey", "NoSuchVersion"}:
                        raise
                    continue
                yield f"s3://{name}/{entry['Key']}", found["Body"].read()


def _events(site: Installation) -> Iterator[tuple[str, bytes]]:
    logs = site.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            for event in page["events"]:
                yield f"{name} {event['logStreamName']}", event["message"].encode()


def _instances(site: Installation) -> Iterator[tuple[str, bytes]]:
    """What EC2 shows of them, and their user-data."""
    ec2 = site.client("ec2")
    for page in ec2.get_paginator("describe_instances").paginate():
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                name = instance["InstanceId"]
                yield name, json.dumps(instance, default=str).encode()
                asked = ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")
                yield f"{name} user-data", base64.b64decode(asked["UserData"].get("Value", ""))
