"""One local cloud for the whole folder, buckets in it, and machines that run the real runner; what single parts of it need."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from dstackd import artifact_manifest, launch_document, protocol
from dstackd.artifact_manifest import Manifest
from dstackd.bootstrap.zipapp import build_runner, user_data
from dstackd.launch_document import (
    SILENCE_TIMEOUT_S,
    ArtifactDocument,
    JobDocument,
    LaunchDocument,
)
from dstackd.local.cloud import LocalCloud, start_local_cloud
from dstackd.protocol import InboxEvent, LogLine
from dstackd.runner.s3 import Bucket
from dstackd.runner.spool import Spool
from tests.runner.loopback import credentials
from tests.runner.small_s3 import SmallS3, bucket_of, small_s3, wait_for_uploads

REGION = "us-east-1"
PROFILE = "runner-tests"
_numbers = itertools.count(1)


@cache
def make_client(service_name: str, endpoint_url: str) -> Any:  # noqa: ANN401 - boto3 has no types
    return boto3.client(
        service_name,
        region_name=REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id="AKIAOFTHEDAEMON",
        aws_secret_access_key="of no meaning",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def wait_until(
    condition: Callable[[], object], *, seen: Callable[[], object] = str, deadline_s: float = 25.0
) -> None:
    """Poll until the condition holds; fail with what was seen last."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {deadline_s} s: {seen()}")
        time.sleep(0.02)


def a_job(*commands: str, index: int = 0, **fields: Any) -> JobDocument:  # noqa: ANN401 - as JobDocument
    """A job with a fresh id."""
    wanted: dict[str, Any] = {
        "job_id": f"job-{next(_numbers)}",
        "attempt": 1,
        "name": "a job",
    } | fields
    paths = wanted.get("artifacts", ())
    wanted["artifacts"] = tuple(
        ArtifactDocument(path) if isinstance(path, str) else path for path in paths
    )
    return JobDocument(index=index, commands=commands, **wanted)


def pack(files: Mapping[str, bytes]) -> bytes:
    """A tar as the daemon packs an input."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o640
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@dataclass(frozen=True)
class Project:
    """A bucket with its log groups, and what a daemon does with it."""

    cloud: LocalCloud
    bucket: str

    def client(self, service_name: str) -> Any:  # noqa: ANN401 - boto3 has no types
        return make_client(service_name, self.cloud.endpoint_url)

    def machines_bucket(self) -> Bucket:
        """The bucket as a machine uses it."""
        return Bucket(
            self.bucket,
            region=REGION,
            credentials=credentials(),
            endpoint_url=self.cloud.endpoint_url,
        )

    def put(self, key: str, body: bytes) -> None:
        self.client("s3").put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        content: bytes = self.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def keys(self, prefix: str) -> list[str]:
        pages = self.client("s3").get_paginator("list_objects_v2")
        return [
            entry["Key"]
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix)
            for entry in page.get("Contents", ())
        ]

    def put_input(self, files: Mapping[str, bytes]) -> str:
        """Upload a packed input; its digest."""
        packed = pack(files)
        digest = hashlib.sha256(packed).hexdigest()
        self.put(protocol.input_key(digest), packed)
        return digest

    def put_document(
        self, launch_id: str, *jobs: JobDocument, silence_timeout_s: float = SILENCE_TIMEOUT_S
    ) -> None:
        """What the machines of a launch read first."""
        document = LaunchDocument(
            launch_id=launch_id,
            bucket=self.bucket,
            region=REGION,
            jobs=jobs,
            heartbeat_s=0.5,
            watch_s=0.2,
            log_flush_s=0.2,
            silence_timeout_s=silence_timeout_s,
        )
        self.put(protocol.launch_key(launch_id), launch_document.encode(document))

    def put_runner(self) -> str:
        """Upload the runner; its digest."""
        bundle = build_runner()
        self.put(protocol.runner_key(bundle.sha256), bundle.content)
        return bundle.sha256

    def launch(
        self,
        *jobs: JobDocument,
        spot: bool = False,
        runner_sha256: str = "",
        document: bytes | None = None,
        silence_timeout_s: float = 60.0,
    ) -> list[str]:
        """One RunInstances call for the jobs, by their indexes; instance ids in that order."""
        launch_id = f"launch-{next(_numbers)}"
        if document is None:
            self.put_document(launch_id, *jobs, silence_timeout_s=silence_timeout_s)
        else:
            self.put(protocol.launch_key(launch_id), document)
        built_sha256 = self.put_runner()
        tags = {
            protocol.TAG_BUCKET: self.bucket,
            protocol.TAG_OWNER: "tests",
            protocol.TAG_LAUNCH: launch_id,
            protocol.TAG_RUNNER: runner_sha256 or built_sha256,
        }
        return self._run_instances(tags, count=len(jobs), spot=spot)

    def _run_instances(self, tags: Mapping[str, str], *, count: int, spot: bool) -> list[str]:
        ec2 = self.client("ec2")
        market: dict[str, Any] = {}
        if spot:
            market = {"InstanceMarketOptions": {"MarketType": "spot"}}
        answer = ec2.run_instances(
            ImageId=ec2.describe_images(Owners=["099720109477"])["Images"][0]["ImageId"],
            InstanceType="m5.large",
            MinCount=1,
            MaxCount=count,
            UserData=user_data(),
            InstanceInitiatedShutdownBehavior="terminate",
            IamInstanceProfile={"Name": PROFILE},
            MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": text} for key, text in tags.items()],
                }
            ],
            **market,
        )
        ordered = sorted(answer["Instances"], key=lambda one: one["AmiLaunchIndex"])
        return [one["InstanceId"] for one in ordered]

    def inbox(self, instance_id: str) -> list[InboxEvent]:
        """What the machine has said, in order."""
        events = []
        for key in self.keys(f"{protocol.INBOX_PREFIX}{instance_id}/"):
            event = protocol.decode_inbox_key(key)
            assert event is not None, key
            events.append(event)
        return sorted(events, key=lambda event: event.seq)

    def wait_for(self, instance_id: str, kind: str) -> InboxEvent:
        """Wait until the machine has said this."""

        def found() -> list[InboxEvent]:
            return [event for event in self.inbox(instance_id) if event.kind == kind]

        wait_until(found, seen=lambda: self.story(instance_id))
        return found()[0]

    def wait_until_gone(self, instance_id: str) -> None:
        control = self.cloud.control
        wait_until(
            lambda: control.machine(instance_id)["state"] == "terminated",
            seen=lambda: self.story(instance_id),
        )

    def story(self, instance_id: str) -> str:
        """Everything about a machine that explains a failure."""
        home = self.home(instance_id)
        console = (home / "console.log").read_text() if home.exists() else "-"
        return f"{self.inbox(instance_id)}\n{console}"

    def home(self, instance_id: str) -> Path:
        return self.cloud.directory / "machines" / instance_id

    def log(self, job: JobDocument) -> list[LogLine]:
        """The lines of an attempt in CloudWatch; none when there is no stream."""
        stream = protocol.log_stream(job.job_id, job.attempt)
        pages = self.client("logs").get_paginator("filter_log_events")
        lines = []
        try:
            for page in pages.paginate(
                logGroupName=protocol.job_log_group(self.bucket), logStreamNames=[stream]
            ):
                lines += [protocol.decode_log_line(event["message"]) for event in page["events"]]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
        assert None not in lines
        return [line for line in lines if line is not None]

    def manifest(self, job: JobDocument) -> Manifest:
        return artifact_manifest.decode(self.get(protocol.manifest_key(job.job_id, job.attempt)))

    def partial_paths(self, job: JobDocument) -> list[str]:
        """What the partial manifest names; nothing when there is none."""
        try:
            content = self.get(protocol.partial_manifest_key(job.job_id, job.attempt))
        except ClientError:
            return []
        return [file.path for file in artifact_manifest.decode(content).files]


def kinds(events: Sequence[InboxEvent]) -> list[str]:
    return [event.kind for event in events]


def make_profile(cloud: LocalCloud) -> None:
    """The role of the machines."""
    iam = make_client("iam", cloud.endpoint_url)
    trust = {"Version": "2012-10-17", "Statement": []}
    iam.create_role(RoleName=PROFILE, AssumeRolePolicyDocument=json.dumps(trust))
    iam.create_instance_profile(InstanceProfileName=PROFILE)
    iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)


def make_project(cloud: LocalCloud) -> Project:
    """A fresh bucket with its log groups."""
    project = Project(cloud, f"bucket-{next(_numbers)}")
    project.client("s3").create_bucket(Bucket=project.bucket)
    for group in (protocol.job_log_group, protocol.runner_log_group):
        project.client("logs").create_log_group(logGroupName=group(project.bucket))
    return project


def terminate_left(project: Project) -> None:
    """End the project's machines that have not ended themselves."""
    left = [
        view["instance_id"]
        for view in project.cloud.control.machines()
        if view["state"] in {"pending", "running"}
        and view["tags"].get(protocol.TAG_BUCKET) == project.bucket
    ]
    if left:
        project.client("ec2").terminate_instances(InstanceIds=left)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with start_local_cloud(tmp_path_factory.mktemp("cloud")) as running:
        make_profile(running)
        yield running


@pytest.fixture
def project(cloud: LocalCloud) -> Iterator[Project]:
    """A fresh bucket; its machines are ended after the test."""
    project = make_project(cloud)
    yield project
    terminate_left(project)


@pytest.fixture
def s3() -> Iterator[SmallS3]:
    with small_s3() as running:
        yield running


@pytest.fixture
def bucket(s3: SmallS3) -> Iterator[Bucket]:
    """A machine's, in the small S3; closed when the uploads that a test gave up have ended."""
    bucket = bucket_of(s3)
    yield bucket
    s3.slow_s = 0.0
    wait_for_uploads()
    bucket.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(str(tmp_path / "spool"))
    yield spool
    spool.close()
