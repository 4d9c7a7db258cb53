"""From EC2's answers to `Instance` and `Launched`. Law: pure; what does not carry exactly our tags is not ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.core.instance import Instance, InstanceState, Market
from dstackd.core.launching import Launched
from dstackd.core.orphan import Stranger
from dstackd.protocol import TAG_BUCKET, TAG_LAUNCH, TAG_OWNER

INSTANCES_MAX = 2**31
"""Far more than anybody launches at once; a larger index has no place in the database."""
_DESCRIBE = "ec2:DescribeInstances"


def owned(page: Mapping[str, Untyped], *, bucket: str, owner: str) -> Iterable[Instance]:
    """The instances of one page of DescribeInstances that are ours."""
    for answer, tags in _tagged(page):
        if is_ours(tags, bucket=bucket, owner=owner):
            yield _instance(answer, tags)


def tags_of(answer: Mapping[str, Untyped]) -> dict[str, str]:
    """The tags of an instance, or of a spot request."""
    return {tag["Key"]: tag["Value"] for tag in answer.get("Tags", ())}


def is_ours(tags: Mapping[str, str], *, bucket: str, owner: str) -> bool:
    """Whether both tags are there with exactly these values: EC2's filters take `*` and `?` as wildcards, so what they let through
    is looked at again.
    """
    return tags.get(TAG_BUCKET) == bucket and tags.get(TAG_OWNER) == owner


def strangers(page: Mapping[str, Untyped], *, bucket: str, owner: str) -> Iterable[Stranger]:
    """The instances of one page that carry exactly the bucket's tag and are another owner's, unless they are terminated."""
    for answer, tags in _tagged(page):
        instance = _instance(answer, tags)
        is_foreign = tags.get(TAG_BUCKET) == bucket and tags.get(TAG_OWNER) != owner
        if is_foreign and instance.state is not InstanceState.TERMINATED:
            yield Stranger(tags.get(TAG_OWNER, ""), instance)


def _tagged(
    page: Mapping[str, Untyped],
) -> list[tuple[Mapping[str, Untyped], dict[str, str]]]:
    with reading(_DESCRIBE):
        return [
            (answer, tags_of(answer))
            for reservation in page["Reservations"]
            for answer in reservation.get("Instances", ())
        ]


@reading(_DESCRIBE)
def _instance(answer: Mapping[str, Untyped], tags: Mapping[str, str]) -> Instance:
    spot = answer.get("InstanceLifecycle") == "spot"
    return Instance(
        instance_id=answer["InstanceId"],
        state=InstanceState(answer["State"]["Name"]),
        launch_id=tags.get(TAG_LAUNCH, ""),
        launch_index=_index(answer),
        instance_type=answer["InstanceType"],
        zone=answer.get("Placement", {}).get("AvailabilityZone", ""),
        market=Market.SPOT if spot else Market.ON_DEMAND,
        launched_at_ms=int(answer["LaunchTime"].timestamp() * 1000),
        spot_request_id=answer.get("SpotInstanceRequestId", ""),
        private_ip=answer.get("PrivateIpAddress", ""),
        state_reason=answer.get("StateReason", {}).get("Code", ""),
    )


def _index(answer: Mapping[str, Untyped]) -> int:
    index = int(answer.get("AmiLaunchIndex", 0))
    if not 0 <= index < INSTANCES_MAX:
        raise ValueError(f"the launch index {index} is none")
    return index


@reading("ec2:RunInstances")
def launched(answer: Mapping[str, Untyped]) -> tuple[Launched, ...]:
    """RunInstances' answer in the order of the launch index. EC2 launches one machine at least, or refuses: an answer with none
    is no answer.
    """
    found = [
        Launched(
            instance_id=instance["InstanceId"],
            launch_index=_index(instance),
            launched_at_ms=int(instance["LaunchTime"].timestamp() * 1000),
            spot_request_id=instance.get("SpotInstanceRequestId", ""),
            private_ip=instance.get("PrivateIpAddress", ""),
        )
        for instance in answer["Instances"]
    ]
    if not found:
        raise ValueError("no instances")
    return tuple(sorted(found, key=lambda instance: instance.launch_index))
