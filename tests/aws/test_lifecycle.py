"""Lifecycle rules through aiobotocore: what others have survives the round trip, and nothing is written back that was not understood."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped] # ships no types
import botocore  # type: ignore[import-untyped] # ships no types
import pytest
from hypothesis import HealthCheck, given, settings

from dstackd.aws.lifecycle import unknown_elements
from dstackd.core.lifecycle import Rule, our_rules
from dstackd.errors import InvalidRequest, Unauthorized
from tests.aws.local_world import LocalWorld
from tests.core.foreign_rules import configurations
from tests.core.test_lifecycle import meaning

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS = our_rules()
OPERATION = "GetBucketLifecycleConfiguration"


def calls(world: LocalWorld) -> dict[str, int]:
    """How often the two calls were made so far, with the client's own."""
    counts: dict[str, int] = world.ground.cloud.control.calls()["client"]
    return {
        kind: counts.get(f"s3:{kind}BucketLifecycleConfiguration", 0) for kind in ("Get", "Put")
    }


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(existing=configurations())
async def test_a_round_trip_loses_nothing(local_world: LocalWorld, existing: list[Rule]) -> None:
    """Over HTTP, through botocore's shapes and back: any foreign configuration means what it meant, and ours are exact."""
    await local_world.write_rules(existing)
    await local_world.bucket.ensure_rules(OURS)
    after = await local_world.read_rules()
    foreign = [rule for rule in after if not rule["ID"].startswith("dstackd-")]
    assert foreign == [meaning(rule) for rule in existing if "dstackd-" not in rule["ID"]]
    assert by_id(after, ours=True) == by_id(OURS, ours=True)


def by_id(rules: Sequence[Rule], *, ours: bool) -> dict[str, Rule]:
    return {rule["ID"]: rule for rule in rules if rule["ID"].startswith("dstackd-") is ours}


async def test_it_costs_three_calls_once_and_one_later(local_world: LocalWorld) -> None:
    """First start: read, write, look; any other: read."""
    before = calls(local_world)
    assert await local_world.bucket.ensure_rules(OURS)
    first = calls(local_world)
    assert {kind: first[kind] - before[kind] for kind in first} == {"Get": 2, "Put": 1}
    assert not await local_world.bucket.ensure_rules(OURS)
    assert calls(local_world) == {**first, "Get": first["Get"] + 1}


@pytest.mark.parametrize("smallest", ["varies_by_storage_class", "all_storage_classes_128K"])
async def test_the_option_beside_the_rules_stays(local_world: LocalWorld, smallest: str) -> None:
    """A write without TransitionDefaultMinimumObjectSize would set it back."""
    s3, name = local_world.ground.admin.s3, local_world.bucket_name
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 1}}
    s3.put_bucket_lifecycle_configuration(
        Bucket=name,
        LifecycleConfiguration={"Rules": [rule]},
        TransitionDefaultMinimumObjectSize=smallest,
    )
    await local_world.bucket.ensure_rules(OURS)
    answer = s3.get_bucket_lifecycle_configuration(Bucket=name)
    assert answer["TransitionDefaultMinimumObjectSize"] == smallest
    assert answer["Rules"] == [rule, *OURS]


async def test_what_botocore_does_not_know_is_not_written_back(
    local_world: LocalWorld, tmp_path: Path
) -> None:
    """A rule with an element that came to S3 later: it stays, and the error names it."""
    write_with_newer_model(local_world, tmp_path)
    with pytest.raises(InvalidRequest, match="hold NewAction, which a write would lose"):
        await local_world.bucket.ensure_rules(OURS)
    (rule,) = await local_world.read_rules()
    assert rule["ID"] == "theirs"


def write_with_newer_model(world: LocalWorld, folder: Path) -> None:
    """Write a rule as a client of a later release of botocore would."""
    source = Path(botocore.__file__).parent / "data" / "s3" / "2006-03-01"
    target = folder / "s3" / "2006-03-01"
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    model: dict[str, Any] = json.loads(gzip.decompress((source / "service-2.json.gz").read_bytes()))
    model["shapes"]["LifecycleRule"]["members"]["NewAction"] = {"shape": "ID"}
    (target / "service-2.json.gz").write_bytes(gzip.compress(json.dumps(model).encode()))
    session = boto3.session.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    loader = session._session.get_component("data_loader")
    loader.search_paths.insert(0, str(folder))
    newer = session.client("s3", endpoint_url=world.ground.cloud.endpoint_url)
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {}, "NewAction": "whatever"}
    newer.put_bucket_lifecycle_configuration(
        Bucket=world.bucket_name, LifecycleConfiguration={"Rules": [rule]}
    )


async def test_everything_that_botocore_has_is_known(local_world: LocalWorld) -> None:
    """The check of elements passes what the model has, at every depth, and no answer at all."""
    model = local_world.ground.admin.s3.meta.service_model.operation_model(OPERATION)
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    known = (
        f"<LifecycleConfiguration {space}><Rule><ID>a</ID><Filter><And><Prefix/>"
        "<Tag><Key>k</Key><Value>v</Value></Tag></And></Filter>"
        "<Transition><Days>1</Days></Transition></Rule></LifecycleConfiguration>"
    ).encode()
    assert unknown_elements(known, model.output_shape) == []
    strange = known.replace(b"<Key>k</Key>", b"<Key>k</Key><Depth>1</Depth>")
    assert unknown_elements(strange, model.output_shape) == ["Depth"]
    assert unknown_elements(b"", model.output_shape) == []


async def test_a_writer_in_between_is_not_answered_for_ever(local_world: LocalWorld) -> None:
    """Whoever takes ours away behind each of our writes wins after the second one."""
    control = local_world.ground.cloud.control
    before = calls(local_world)
    # The answers to our look show what was there before the write, as a lagging S3 does.
    control.fail(f"s3:{OPERATION}", code="NoSuchLifecycleConfiguration", status=404, times=2)
    assert await local_world.bucket.ensure_rules(OURS)
    after = calls(local_world)
    assert {kind: after[kind] - before[kind] for kind in after} == {"Get": 2, "Put": 2}
    assert await local_world.read_rules() == list(OURS)


async def test_a_refusal_says_what_to_do(local_world: LocalWorld) -> None:
    """A policy without the two actions: AWS's code, and what to compare."""
    local_world.ground.cloud.control.fail(
        "s3:PutBucketLifecycleConfiguration", code="AccessDenied", status=403, times=1
    )
    with pytest.raises(Unauthorized) as caught:
        await local_world.bucket.ensure_rules(OURS)
    assert "iam-policy-template.json" in caught.value.advice
