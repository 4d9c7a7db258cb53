"""Finished jobs leave the database for the bucket, and nothing is lost on the way."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from typing_extensions import override

from dstackd import protocol
from dstackd.controllers import archiving
from dstackd.controllers.archiving import Archiving
from dstackd.errors import StorageFailed
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.fuse import Fuse
from tests.controllers.installation import BACKEND, Installation
from tests.intercepted import InterceptedBucket

DAY_S = 86_400.0
SHORT = spec_json(Script(run_s=1.0))


def archiving_of(world: Installation, *, bucket: Any = None, keep_days: int = 30) -> Archiving:  # noqa: ANN401 - a wrapped bucket
    """The loop, on the world's own parts."""
    return Archiving(
        world.database,
        bucket=bucket or world.cloud.bucket,
        clock=world.clock,
        interval_s=60.0,
        keep_days=keep_days,
    )


async def archived(world: Installation) -> list[dict[str, Any]]:
    """Every line of every object, in the order of the objects' names."""
    heads = await world.cloud.bucket.list(protocol.ARCHIVE_PREFIX)
    bodies = [await world.cloud.bucket.get(head.key) for head in heads]
    return [json.loads(line) for body in bodies for line in gzip.decompress(body).splitlines()]


async def test_a_job_goes_with_all_that_is_known_of_it(world: Installation) -> None:
    """Its row, its attempts and its events are a line in the bucket, and nowhere else; a young one stays."""
    world.insert(SHORT, job_id="old")
    await world.until_over("old")
    world.sql("UPDATE attempt SET ended_at_ms = launched_at_ms WHERE ended_at_ms IS NULL")
    before = [world.job("old"), *world.attempts("old")]
    events = world.sql("SELECT * FROM event WHERE job_id = 'old' ORDER BY id")
    world.clock.advance(29 * DAY_S)
    world.insert('{"commands": []}', job_id="young")
    await world.until_over("young")
    world.clock.advance(2 * DAY_S)
    await archiving_of(world).step()
    (line,) = await archived(world)
    assert [line["job"], *line["attempts"]] == before
    assert line["events"] == events
    assert world.sql("SELECT id FROM job") == [{"id": "young"}]
    for table in ("attempt", "event"):
        assert world.sql(f"SELECT * FROM {table} WHERE job_id = 'old'") == []
    (head,) = await world.cloud.bucket.list(protocol.ARCHIVE_PREFIX)
    assert head.key.count("/") == 4


async def test_without_the_key_nothing_goes(world: Installation) -> None:
    """The default keeps jobs for ever."""
    world.insert("[]")
    await world.until_over()
    world.clock.advance(5000 * DAY_S)
    await archiving_of(world, keep_days=0).step()
    assert world.job()["phase"] == "rejected"


async def test_what_is_asked_for_stays(world: Installation) -> None:
    """A job that a waiting one needs, one on whose account a machine waits, an array with a young end; all the others go."""
    for name in ("needed", "pays", "plain"):
        world.insert("[]", job_id=name)
    await world.until_over("needed", "pays", "plain")
    world.clock.advance(40 * DAY_S)
    world.sql("INSERT INTO job (id, spec) VALUES ('waits', ?)", SHORT)
    world.sql("INSERT INTO job_dependency (job_id, on_job_id) VALUES ('waits', 'needed')")
    world.sql(
        "INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone, market, price_usd_h,"
        " launched_at_ms, idle_since_ms, idle_job_id) VALUES ('i-1', ?, 'l', 0, 't', 'z', 'spot', 1, 1, 1, 'pays')",
        BACKEND,
    )
    await archiving_of(world).step()
    kept = {row["id"] for row in world.sql("SELECT id FROM job")}
    assert kept == {"needed", "pays", "waits"}


async def test_what_is_needed_meanwhile_stays(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new job may need one that is being archived: it is there for it, and goes when nobody needs it."""
    world.insert("[]", job_id="needed")
    await world.until_over("needed")
    world.clock.advance(31 * DAY_S)
    removed = Archiving._remove

    async def after_an_insert(self: Archiving, job_ids: list[str], before_ms: int) -> None:
        world.sql("INSERT INTO job (id, spec) VALUES ('waits', ?)", SHORT)
        world.sql("INSERT INTO job_dependency (job_id, on_job_id) VALUES ('waits', 'needed')")
        await removed(self, job_ids, before_ms)

    monkeypatch.setattr(Archiving, "_remove", after_an_insert)
    await archiving_of(world).step()
    assert {row["id"] for row in world.sql("SELECT id FROM job")} == {"needed", "waits"}


async def test_an_array_goes_after_its_elements(world: Installation) -> None:
    """Elements wait for the array's own end to be old; then all go, and no row is left without the one that it names."""
    world.insert(json.dumps({"commands": ["true"], "array": 3}))
    await world.daemon.intake.step()
    world.cancel()
    await world.until_over()
    world.clock.advance(31 * DAY_S)
    assert len(world.sql("SELECT id FROM job")) == 4
    await archiving_of(world).step()
    assert world.sql("SELECT id FROM job") == []
    assert [line["job"]["id"] for line in await archived(world)][-1] == "job-1"


async def test_a_death_between_write_and_removal_loses_nothing(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the moment, each job is in the database or in the bucket, and at the end in the bucket; the object is the same one."""
    monkeypatch.setattr(archiving, "REMOVED_JOBS", 1)
    names = {f"job-{number}" for number in range(4)}
    for name in sorted(names):
        world.insert("[]", job_id=name)
    await world.until_over(*names)
    world.clock.advance(31 * DAY_S)
    removed = Archiving._remove
    for allowed in range(3):

        async def dies(
            self: Archiving,
            job_ids: list[str],
            before_ms: int,
            left: list[int] = [allowed],  # noqa: B006 - counts for this round
        ) -> None:
            if not left[0]:
                raise StorageFailed("dead")
            left[0] -= 1
            await removed(self, job_ids, before_ms)

        monkeypatch.setattr(Archiving, "_remove", dies)
        with pytest.raises(StorageFailed):
            await archiving_of(world).step()
        there = {row["id"] for row in world.sql("SELECT id FROM job")}
        assert there | {line["job"]["id"] for line in await archived(world)} == names
        if not allowed:
            assert len(await world.cloud.bucket.list(protocol.ARCHIVE_PREFIX)) == 1
    monkeypatch.setattr(Archiving, "_remove", removed)
    await archiving_of(world).step()
    assert world.sql("SELECT id FROM job") == []
    lines = await archived(world)
    assert {line["job"]["id"] for line in lines} == names
    assert len({json.dumps(line, sort_keys=True) for line in lines}) == len(names)


async def test_nothing_is_removed_that_is_not_in_the_bucket(world: Installation) -> None:
    """A bucket that gives back something else is not trusted."""
    world.insert("[]")
    await world.until_over()
    world.clock.advance(31 * DAY_S)
    bucket = _Forgetful(world.cloud.bucket, Fuse().call)
    with pytest.raises(StorageFailed, match="nothing was removed"):
        await archiving_of(world, bucket=bucket).step()
    assert world.job()["phase"] == "rejected"


class _Forgetful(InterceptedBucket):
    """Gives back less than it took."""

    @override
    async def get(self, key: str) -> bytes:
        return (await super().get(key))[:-1]
