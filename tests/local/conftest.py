"""One local cloud for the whole folder, and the few lines that every test of it needs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]

from dstackd.local.cloud import LocalCloud, start_local_cloud
from dstackd.local.control import MachineView

IDLE = "#!/bin/sh\nexec sleep 600\n"
TAG = "dstack_bucket"
REGION = "us-east-1"


@cache
def make_client(service_name: str, endpoint_url: str, access_key: str) -> Any:  # noqa: ANN401  boto3 has no types
    """A client that makes each call once: an answer with status 500 is an answer."""
    return boto3.client(
        service_name,
        region_name=REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key="of no meaning",
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=4),
    )


@dataclass(frozen=True)
class Account:
    """Clients of a cloud as the daemon's, and launches with everything that does not matter filled in."""

    cloud: LocalCloud
    numbers: Iterator[int]

    def client(self, service_name: str, *, access_key: str = "AKIAOFTHEDAEMON") -> Any:  # noqa: ANN401  boto3 has no types
        """A client of this account's cloud."""
        return make_client(service_name, self.cloud.endpoint_url, access_key)

    @property
    def ec2(self) -> Any:  # noqa: ANN401  boto3 has no types
        return self.client("ec2")

    def image(self, architecture: str = "x86_64") -> str:
        """The id of the planted image."""
        images = self.ec2.describe_images(
            Owners=["099720109477"],
            Filters=[
                {"Name": "architecture", "Values": [architecture]},
                {"Name": "name", "Values": ["ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-*"]},
            ],
        )["Images"]
        assert len(images) == 1
        return str(images[0]["ImageId"])

    def subnet(self, zone: str = f"{REGION}a") -> str:
        """The id of the default subnet of a zone."""
        subnets = self.ec2.describe_subnets(
            Filters=[
                {"Name": "default-for-az", "Values": ["true"]},
                {"Name": "availability-zone", "Values": [zone]},
            ]
        )["Subnets"]
        return str(subnets[0]["SubnetId"])

    def request(
        self, *, tag: str = "", spot: bool = False, bid: str | None = None, **changes: object
    ) -> dict[str, Any]:
        """Parameters of a RunInstances call."""
        kinds = ["instance", "volume", *(["spot-instances-request"] if spot else [])]
        tags = [{"Key": TAG, "Value": tag or f"bucket-{next(self.numbers)}"}]
        request: dict[str, Any] = {
            "ImageId": self.image(),
            "InstanceType": "m5.large",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": self.subnet(),
            "UserData": IDLE,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in kinds],
        }
        if spot:
            options = {"SpotInstanceType": "one-time"} | ({} if bid is None else {"MaxPrice": bid})
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        request.update(changes)
        return request

    def launch(self, **wanted: Any) -> list[str]:  # noqa: ANN401  as request() takes
        """Launch and return the instance ids, in order of their launch index."""
        answer = self.ec2.run_instances(**self.request(**wanted))
        ordered = sorted(answer["Instances"], key=lambda one: one["AmiLaunchIndex"])
        return [one["InstanceId"] for one in ordered]

    def describe(self, instance_id: str) -> dict[str, Any]:
        """What DescribeInstances says of one instance."""
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        described: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return described

    def wait_for_state(self, instance_id: str, state: str) -> MachineView:
        """Wait until a machine is in a state, and return it."""
        view = self.cloud.control.machine(instance_id)

        def reached() -> bool:
            nonlocal view
            view = self.cloud.control.machine(instance_id)
            return view["state"] == state

        wait_until(reached, seen=lambda: f"{instance_id} is {view['state']}, not {state}")
        return view

    def home(self, instance_id: str) -> Path:
        """The machine's home directory."""
        return self.cloud.directory / "machines" / instance_id

    def wait_for_file(self, instance_id: str, name: str) -> str:
        """Wait until a file in the machine's home ends with a newline, and return its text."""
        path = self.home(instance_id) / name

        def text() -> str:
            return path.read_text() if path.exists() else ""

        wait_until(lambda: text().endswith("\n"), seen=lambda: f"{name} holds {text()!r}")
        return text()


def wait_until(
    condition: Callable[[], object], *, seen: Callable[[], str] = str, deadline_s: float = 15.0
) -> None:
    """Poll until the condition holds; fail with what was seen last."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {deadline_s} s: {seen()}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with start_local_cloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def account(cloud: LocalCloud) -> Iterator[Account]:
    """An account whose machines are ended and whose knobs are reset after the test."""
    before: Mapping[str, Any] = cloud.control.faults()
    account = Account(cloud, itertools.count(len(cloud.control.machines())))
    yield account
    cloud.control.faults(**before)
    left = [
        view["instance_id"]
        for view in cloud.control.machines()
        if view["state"] in {"pending", "running", "stopped"}
    ]
    if left:
        account.ec2.terminate_instances(InstanceIds=left)
