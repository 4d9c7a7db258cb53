"""From EC2's answers to `Instance` and `Launched`. Law: pure; what does not carry exactly our tags is not ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dstackd.aws.untyped import Untyped
from dstackd.core.instance import Instance, InstanceState, Market
from dstackd.core.launching import Launched
from dstackd.protocol import TAG_BUCKET, TAG_LAUNCH, TAG_OWNER


def owned(page: Mapping[str, Untyped], *, bucket: str, owner: str) -> Iterable[Instance]:
    """The instances of one page of DescribeInstances that carry both tags with exactly these values.

    EC2's filters take `*` and `?` as wildcards, so what they let through is looked at again.
    """
    for reservation in page.get("Reservations", ()):
        for answer in reservation.get("Instances", ()):
            tags = {tag["Key"]: tag["Value"] for tag in answer.get("Tags", ())}
            if tags.get(TAG_BUCKET) == bucket and tags.get(TAG_OWNER) == owner:
                yield _instance(answer, tags)


def _instance(answer: Mapping[str, Untyped], tags: Mapping[str, str]) -> Instance:
    spot = answer.get("InstanceLifecycle") == "spot"
    return Instance(
        instance_id=answer["InstanceId"],
        state=InstanceState(answer["State"]["Name"]),
        launch_id=tags.get(TAG_LAUNCH, ""),
        launch_index=int(answer.get("AmiLaunchIndex", 0)),
        instance_type=answer["InstanceType"],
        zone=answer.get("Placement", {}).get("AvailabilityZone", ""),
        market=Market.SPOT if spot else Market.ON_DEMAND,
        launched_at_ms=int(answer["LaunchTime"].timestamp() * 1000),
        spot_request_id=answer.get("SpotInstanceRequestId", ""),
        private_ip=answer.get("PrivateIpAddress", ""),
        state_reason=answer.get("StateReason", {}).get("Code", ""),
    )


def launched(answer: Mapping[str, Untyped]) -> tuple[Launched, ...]:
    """RunInstances' answer in the order of the launch index."""
    found = (
        Launched(
            instance_id=instance["InstanceId"],
            launch_index=int(instance.get("AmiLaunchIndex", 0)),
            spot_request_id=instance.get("SpotInstanceRequestId", ""),
            private_ip=instance.get("PrivateIpAddress", ""),
        )
        for instance in answer.get("Instances", ())
    )
    return tuple(sorted(found, key=lambda instance: instance.launch_index))
