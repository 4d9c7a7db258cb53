"""The search for secrets finds them: what it does not find elsewhere is not there."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.end_to_end.installation import BUCKET, Installation
from tests.end_to_end.secret_search import findings
from tests.end_to_end.stores import IS_POSTGRES

VALUE = "pl/an+ted & found"


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[None]:
    script = "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", script, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield
        started.kill()


def put_object(site: Installation) -> None:
    encoded = base64.b64encode(f"me:{VALUE}:and more".encode())
    site.client("s3").put_object(Bucket=BUCKET, Key="planted", Body=encoded)


def put_line(site: Installation) -> None:
    logs = site.client("logs")
    logs.create_log_group(logGroupName="/planted")
    logs.create_log_stream(logGroupName="/planted", logStreamName="s")
    event = {"timestamp": int(time.time() * 1000), "message": "pl%2Fan%2Bted+%26+found"}
    logs.put_log_events(logGroupName="/planted", logStreamName="s", logEvents=[event])


def put_row(site: Installation) -> None:
    site.sql("CREATE TABLE planted (content TEXT)")
    site.sql("INSERT INTO planted VALUES (?)", VALUE)


def put_file(site: Installation) -> None:
    (site.cloud.directory / "planted").write_text(VALUE)


def start_instance(site: Installation) -> None:
    image = site.client("ec2").describe_images(Owners=["099720109477"])["Images"][0]
    site.client("ec2").run_instances(
        ImageId=image["ImageId"],
        InstanceType="m5.large" if image["Architecture"] == "x86_64" else "m6g.large",
        MinCount=1,
        MaxCount=1,
        UserData=f"#!/bin/sh\n: {VALUE}\nsleep 600\n",
    )


@pytest.mark.parametrize(
    ("plant", "where"),
    [
        (put_object, f"s3://{BUCKET}/planted"),
        (put_line, "/planted s"),
        (put_row, "the database" if IS_POSTGRES else "queue.db"),
        (put_file, "planted"),
        (start_instance, "user-data"),
    ],
)
def test_what_was_planted_is_found(
    site: Installation, plant: Callable[[Installation], None], where: str
) -> None:
    """In the bucket, in CloudWatch, in the database, on disk, at EC2; in a form that was made of it, too."""
    plant(site)
    found = findings(site, [VALUE])
    assert [name for name in found if where in name], found


def test_a_process_that_shows_it_is_found(site: Installation) -> None:
    """In its arguments or its environment; a job's own process may have it."""
    with process("a", f"--word={VALUE}"):
        assert [name for name in findings(site, [VALUE]) if name.startswith("/proc/")]
    with process(WORD=VALUE):
        assert [name for name in findings(site, [VALUE]) if name.startswith("/proc/")]
    with process(WORD=VALUE, DSTACKD_JOB_ID="1"):
        assert not [name for name in findings(site, [VALUE]) if name.startswith("/proc/")]
