"""EC2 through aiobotocore: what is asked how often, and what goes out with a launch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from typing_extensions import override

from dstackd.aws import catalogue
from dstackd.aws.api import Api
from dstackd.aws.type_catalogue import TypeCatalogue, instance_type
from dstackd.aws.untyped import Untyped
from dstackd.clock import SystemClock
from dstackd.core.instance import Market
from dstackd.errors import CloudUnavailable, InvalidRequest, Throttled
from tests.aws.local_world import LocalWorld
from tests.aws.worlds import a_request

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_tags_go_to_volume_and_spot_request_in_the_same_call(local_world: LocalWorld) -> None:
    """Machine, volume and spot request carry the launch's tags; user-data arrives as it was given."""
    request = await a_request(local_world, "l-tags", market=Market.SPOT)
    (machine,) = await local_world.compute.launch(request)
    ec2 = local_world.ground.admin.ec2
    instance = ec2.describe_instances(InstanceIds=[machine.instance_id])["Reservations"][0][
        "Instances"
    ][0]
    volume_id = instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    volume = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    spot = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[machine.spot_request_id])[
        "SpotInstanceRequests"
    ][0]
    for resource in (instance, volume, spot):
        tags = {tag["Key"]: tag["Value"] for tag in resource["Tags"]}
        assert dict(request.tags).items() <= tags.items()
    assert instance["MetadataOptions"]["HttpTokens"] == "required"


async def test_pages_of_a_snapshot_are_added_up(local_world: LocalWorld) -> None:
    """Machines of several launches and pages are all in one snapshot."""
    for number in range(3):
        await local_world.compute.launch(await a_request(local_world, f"l-page-{number}", count=4))
    filters = [{"Name": "tag:dstack_bucket", "Values": [local_world.bucket_name]}]
    pages = [
        page
        async for page in local_world.ground.clients.ec2.pages(
            "DescribeInstances", MaxResults=5, Filters=filters
        )
    ]
    assert len(pages) == 3
    assert len((await local_world.compute.snapshot()).instances) == 12


async def test_a_profile_that_iam_does_not_show_yet_is_no_failure(local_world: LocalWorld) -> None:
    """A launch with a profile that is too young is worth repeating; one with a changed request is not."""
    request = await a_request(local_world, "l-young")
    with pytest.raises(Throttled):
        await local_world.compute.launch(replace(request, instance_profile="too-young"))
    await local_world.compute.launch(request)
    with pytest.raises(InvalidRequest) as caught:
        await local_world.compute.launch(replace(request, disk_gib=30))
    assert caught.value.code == "IdempotentParameterMismatch"


class TwoPages(Api):
    """Two instance types, a page each; or nothing but a failure."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = False

    @override
    async def pages(
        self, operation: str, /, *, token: tuple[str, str] = ("", ""), **parameters: Untyped
    ) -> AsyncIterator[dict[str, Untyped]]:
        self.asked += 1
        if self.closed:
            raise CloudUnavailable("Closed", operation)
        assert (operation, parameters) == ("DescribeInstanceTypes", {"MaxResults": 100})
        for name in ("b.large", "a.large"):
            yield {"InstanceTypes": [OLD_TYPE | {"InstanceType": name}]}


async def test_types_are_kept_on_disk(tmp_path: Path) -> None:
    """EC2 is asked once; a cache that is spoilt or old is asked for again and mended."""
    path = anyio.Path(tmp_path / "deeper" / "types.json")
    ec2 = TwoPages()
    types = TypeCatalogue(ec2, path=path, clock=SystemClock())
    found = await types.read()
    assert [kind.name for kind in found] == ["a.large", "b.large"]
    assert await types.read() == found
    assert ec2.asked == 1
    held = json.loads(await path.read_text())
    stale = [json.dumps(held | {"taken_at_ms": 0}), json.dumps(held | {"version": 0})]
    for number, spoilt in enumerate(["{", "[]", *stale], start=2):
        await path.write_text(spoilt)
        assert await types.read() == found
        assert ec2.asked == number
    assert [entry.name async for entry in path.parent.iterdir()] == ["types.json"]
    ec2.closed = True
    assert await types.read() == found


OLD_TYPE = {
    "InstanceType": "old.large",
    "VCpuInfo": {"DefaultVCpus": 2},
    "MemoryInfo": {"SizeInMiB": 4096},
    "ProcessorInfo": {"SupportedArchitectures": ["i386", "x86_64"]},
    "SupportedUsageClasses": ["on-demand", "capacity-block"],
}


async def test_a_type_that_no_job_can_use_is_left_out() -> None:
    """Architectures that no image has, and markets that no job can ask for, do not appear."""
    kind = instance_type(OLD_TYPE)
    assert (kind.architectures, kind.markets) == (("x86_64",), ("on-demand",))


async def test_a_missing_subnet_is_told(local_world: LocalWorld) -> None:
    """A subnet that does not exist is an error with advice, not an empty list."""
    access = replace(local_world.access, subnet="subnet-0123456789abcdef0")
    places = catalogue.Places(local_world.ground.clients.ec2, access, clock=local_world.clock)
    with pytest.raises(InvalidRequest) as caught:
        await places.subnets()
    assert caught.value.advice


async def test_the_configured_subnet_is_the_only_one(local_world: LocalWorld) -> None:
    """With a subnet configured, machines go there and nowhere else."""
    one = (await local_world.compute.subnets())[-1]
    access = replace(local_world.access, subnet=one.id)
    places = catalogue.Places(local_world.ground.clients.ec2, access, clock=local_world.clock)
    assert await places.subnets() == (one,)


async def test_the_image_of_the_pin_is_taken(local_world: LocalWorld) -> None:
    """Without a configured id the image is looked up by owner, name and architecture; none is told."""
    ground, access = local_world.ground, local_world.access
    images = catalogue.Images(ground.clients.ec2, access, clock=local_world.clock)
    for architecture in ("x86_64", "arm64"):
        found = await images.image(architecture, gpu=False)
        (shown,) = ground.admin.ec2.describe_images(ImageIds=[found.id])["Images"]
        assert (shown["Architecture"], shown["OwnerId"]) == (architecture, access.image_owner)
        assert shown["RootDeviceName"] == found.root_device
    other = replace(access, image_owner="self")
    with pytest.raises(InvalidRequest) as caught:
        await catalogue.Images(ground.clients.ec2, other, clock=local_world.clock).image(
            "x86_64", gpu=False
        )
    assert caught.value.advice


async def test_a_configured_image_is_taken_as_it_is(local_world: LocalWorld) -> None:
    """An id from the configuration is not replaced by a newer image; one that is not there is told."""
    ground, access = local_world.ground, local_world.access
    arm64 = await local_world.compute.image("arm64", gpu=False)
    chosen = replace(access, images={"x86_64-gpu": arm64.id, "arm64": "ami-0123456789abcdef0"})
    images = catalogue.Images(ground.clients.ec2, chosen, clock=local_world.clock)
    assert await images.image("x86_64", gpu=True) == arm64
    with pytest.raises(InvalidRequest) as caught:
        await images.image("arm64", gpu=False)
    assert caught.value.code == "InvalidAMIID.NotFound"


async def test_a_gpu_machine_boots_an_image_with_a_driver(local_world: LocalWorld) -> None:
    """Without a configured id the image for GPUs is one of Amazon's; this cloud has none, and that is told."""
    with pytest.raises(InvalidRequest) as caught:
        await local_world.compute.image("x86_64", gpu=True)
    assert (caught.value.code, "x86_64-gpu" in caught.value.message) == ("NoImage", True)
