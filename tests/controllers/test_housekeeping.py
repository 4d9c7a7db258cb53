"""Inbox, reaper and retention: what is read, what is nobody's, what is not needed any more."""

from __future__ import annotations

import pytest

from dstackd import protocol
from dstackd.core.instance import InstanceState
from dstackd.core.lifecycle import is_current, our_rules
from dstackd.protocol import InboxEvent
from dstackd.simulated.faults import Script
from tests.builders import a_request, spec_json
from tests.controllers.fuse import Fuse
from tests.controllers.installation import Installation


async def test_what_was_read_is_removed_and_what_is_foreign_stays_a_day(
    world: Installation,
) -> None:
    """Another installation may share the bucket; its machines' words are not ours to throw away at once."""
    foreign = protocol.encode_inbox_key(InboxEvent("i-other", 1, protocol.BOOTED, "theirs", 1))
    nonsense = protocol.INBOX_PREFIX + "what is this"
    for key in (foreign, nonsense):
        world.cloud.bucket.store(key, b"")
    world.insert(spec_json(Script(run_s=100_000.0)))
    await world.until_phase("running")
    assert set(world.cloud.bucket.keys(protocol.INBOX_PREFIX)) == {foreign, nonsense}
    world.clock.advance(25 * 3600)
    await world.daemon.inbox.step()
    assert foreign not in world.cloud.bucket.keys(protocol.INBOX_PREFIX)


async def test_what_nobody_claims_costs_no_transaction(world: Installation) -> None:
    """It is listed with every pass for a day: it is looked at once, or read only while somebody may claim it yet."""
    for number, job_id in enumerate(("theirs", "-")):
        event = InboxEvent(f"i-other{number}", 1, protocol.BOOTED, job_id, 1 - number)
        world.cloud.bucket.store(protocol.encode_inbox_key(event), b"")
    world.insert(spec_json(Script(run_s=100_000.0)))
    await world.until_phase("running")
    fuse = Fuse()
    world.wrap = fuse.around
    world.restart()
    await world.daemon.inbox.step()
    assert fuse.effects == ["commit"]
    await world.daemon.inbox.step()
    assert fuse.effects == ["commit"]


async def test_an_idle_daemon_asks_aws_for_nothing_but_a_snapshot(world: Installation) -> None:
    """No machine, no call to the bucket or the logs, once it has learnt at its start what a launch needs."""
    await world.rounds(1)
    world.cloud.calls.clear()
    await world.rounds(7)
    assert set(world.cloud.calls) == {"DescribeInstances"}
    assert world.cloud.calls["DescribeInstances"] <= 2


async def orphan(world: Installation, **tags: str) -> str:
    """A machine with our tags, or others, that no row knows; returns its id."""
    own = {
        protocol.TAG_BUCKET: world.cloud.bucket_name,
        protocol.TAG_OWNER: world.cloud.owner,
        protocol.TAG_LAUNCH: "forgotten",
    }
    request = a_request(client_token=f"orphan-{tags}", tags=tuple((own | tags).items()))
    world.cloud.faults.boot_s = 10**6
    (launched,) = await world.cloud.compute.launch(request)
    return launched.instance_id


def state(world: Installation, instance_id: str) -> InstanceState:
    """What EC2 shows of a machine."""
    return {each.instance_id: each.state for each in world.cloud.machines}[instance_id]


async def test_an_orphan_is_terminated_when_it_is_seen_twice(world: Installation) -> None:
    """Not young, not at first sight; then it goes, and the table says that it was there."""
    instance_id = await orphan(world)
    world.clock.advance(100.0)
    await world.daemon.machines.step()
    world.clock.advance(60.0)
    await world.daemon.machines.step()
    assert state(world, instance_id) is InstanceState.RUNNING
    world.clock.advance(60.0)
    await world.daemon.machines.step()
    assert state(world, instance_id) is InstanceState.SHUTTING_DOWN
    assert world.sql("SELECT instance_id FROM machine") == [{"instance_id": instance_id}]
    assert len(world.sql("SELECT * FROM event WHERE kind = 'orphan'")) == 1
    await world.rounds(12)
    assert world.sql("SELECT * FROM machine WHERE gone_at_ms IS NULL") == []


@pytest.mark.parametrize(
    "tags",
    [
        {protocol.TAG_OWNER: "another installation"},
        {protocol.TAG_BUCKET: "simulated-bucket-2"},
        {protocol.TAG_OWNER: ""},
    ],
)
async def test_what_is_not_ours_is_never_touched(tags: dict[str, str], world: Installation) -> None:
    """Another owner or another bucket, however long it runs."""
    instance_id = await orphan(world, **tags)
    for _ in range(5):
        world.clock.advance(600.0)
        await world.daemon.machines.step()
    assert state(world, instance_id) is InstanceState.RUNNING
    assert world.cloud.calls["TerminateInstances"] == 0


async def test_a_machine_whose_launch_has_no_answer_yet_is_no_orphan(world: Installation) -> None:
    """EC2 launched it, the answer was lost for ten minutes: it is somebody's, and becomes his."""
    world.insert(spec_json(Script(run_s=30_000.0)))
    world.cloud.faults.lose_answer["RunInstances"] = 70
    await world.rounds(60)
    assert world.job()["phase"] == "launching"
    (machine,) = world.cloud.machines
    assert machine.alive
    world.cloud.faults.lose_answer.clear()
    await world.until_phase("running")
    assert len(world.cloud.machines) == 1


async def test_a_row_that_an_operator_deleted_leaves_no_machine(world: Installation) -> None:
    """The job is gone from the table; its machine is an orphan and goes."""
    world.insert(spec_json(Script(run_s=30_000.0)))
    await world.until_phase("running")
    for table in ("attempt", "machine", "launch", "job"):
        world.sql(f"DELETE FROM {table}")
    await world.rounds(40)
    assert state(world, world.cloud.machines[0].instance_id) is InstanceState.TERMINATED


async def test_launch_documents_go_when_the_launch_is_over(world: Installation) -> None:
    """They hold the jobs' environment: not while one of the jobs runs, at the next pass after the last."""
    scripts = {"short": Script(run_s=10.0), "long": Script(run_s=300.0)}
    for name, script in scripts.items():
        world.insert(spec_json(script), job_id=name)
    await world.until_over("short")
    await world.daemon.retention.step()
    prefix = protocol.PREFIX + "launches/"
    assert len(world.cloud.bucket.keys(prefix)) == 1
    await world.until_over("long")
    await world.daemon.retention.step()
    assert world.cloud.bucket.keys(prefix) == ()
    assert world.cloud.bucket.keys(protocol.HEARTBEAT_PREFIX) == ()
    artifacts = protocol.PREFIX + "artifacts/"
    assert len(world.cloud.bucket.keys(artifacts)) == 2, "what the jobs made stays"


async def test_documents_of_refused_launches_go_too(world: Installation) -> None:
    """A launch that EC2 refused has no attempt, but it had a document."""
    world.cloud.faults.capacity["m5.large|us-east-1a|spot"] = 0
    world.insert(spec_json())
    await world.until_over()
    await world.rounds(2)
    assert world.cloud.bucket.keys(protocol.PREFIX + "launches/") == ()


async def test_old_log_files_are_removed(world: Installation) -> None:
    """A month after its end a job's file goes; its row stays."""
    world.insert(spec_json(Script(lines=3)))
    await world.until_over()
    await world.daemon.retention.step()
    assert len(world.lines()) == 3
    world.clock.advance(31 * 86_400.0)
    await world.daemon.retention.step()
    assert world.lines() == []
    assert world.job()["phase"] == "succeeded"


async def test_the_bucket_has_its_rules_from_the_start(world: Installation) -> None:
    """Set in the first pass, looked at once a day, mended when somebody took them away."""
    await world.daemon.retention.step()
    assert is_current(world.cloud.bucket.rules, our_rules())
    world.cloud.bucket.rules = []
    await world.daemon.retention.step()
    assert world.cloud.bucket.rules == []
    world.clock.advance(86_400.0)
    await world.daemon.retention.step()
    assert is_current(world.cloud.bucket.rules, our_rules())
    assert world.cloud.calls["PutBucketLifecycleConfiguration"] == 2


async def test_a_bucket_that_may_not_have_rules_is_a_warning(world: Installation) -> None:
    """The daemon works without them, says what is wrong and what to do, asks again a day later, and then it is well."""
    world.cloud.faults.deny["PutBucketLifecycleConfiguration"] = 1
    await world.daemon.retention.step()
    await world.daemon.retention.step()
    assert world.cloud.calls["PutBucketLifecycleConfiguration"] == 1
    assert "UnauthorizedOperation: not allowed" in world.daemon.vitals.bucket_rules_problem
    world.clock.advance(86_400.0)
    await world.daemon.retention.step()
    assert world.daemon.vitals.bucket_rules_problem == ""
