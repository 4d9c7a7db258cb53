"""The API of jobs: what goes in is what plain SQL could insert, what comes out is the row."""

from __future__ import annotations

import io
import json
import sqlite3
import string
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any, TypeVar, cast

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstackd.errors import StorageFailed
from dstackd.http.responses import Refusal
from dstackd.http.submission import read_submission
from dstackd.spec.parse import parse_spec_json
from dstackd.store.engine import WRITE_WAIT_S, Connection, Database
from dstackd.vitals import ApiCalls
from tests.http.world import World, get, post, running

T = TypeVar("T")

GOOD = {"commands": ["echo héllo"]}


async def job_rows(world: World) -> list[Any]:
    return await world.sql("SELECT id, spec, project, priority FROM job ORDER BY seq")


async def test_submit() -> None:
    """A good submission becomes one row as written, with the database's defaults, and its id is the answer."""
    async with running() as world:
        async with world.api.post("/v1/jobs", json={"spec": GOOD}) as response:
            first = await response.json()
            assert response.status == 201
            assert response.headers["Location"] == f"/v1/jobs/{first['id']}"
        body = {"spec": GOOD, "project": "vision", "priority": -7}
        _, second = await post(world.api, "/v1/jobs", body)
        rows = await job_rows(world)
        assert [(row[0], *row[2:]) for row in rows] == [
            (first["id"], "main", 0),
            (second["id"], "vision", -7),
        ]
        assert json.loads(rows[0][1]) == GOOD


async def test_a_submission_whose_commit_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again, and finds the row that it has made: one job, and its id is the answer."""
    write, lost = Database.write, 2

    async def unanswered(self: Database, work: Callable[[Connection], Awaitable[T]]) -> T:
        nonlocal lost
        result = await write(self, work)
        lost -= 1
        if lost >= 0:
            raise StorageFailed("connection was closed in the middle of operation")
        return result

    async with running() as world:
        monkeypatch.setattr(Database, "write", unanswered)
        status, answer = await post(world.api, "/v1/jobs", {"spec": GOOD, "unique_key": "k"})
        assert (status, answer["existing"]) == (201, False)
        assert [row[0] for row in await job_rows(world)] == [answer["id"]]


async def test_a_bad_submission_inserts_nothing() -> None:
    """Every wrong field is named at once, with a fix, and the table stays as it was."""
    async with running() as world:
        body = {
            "spec": {"commands": [], "resources": {"cpu": "many"}, "nonsense": 1},
            "project": "",
            "priority": 1001,
            "urgent": True,
        }
        status, answer = await post(world.api, "/v1/jobs", body)
        assert (status, answer["error"]["code"]) == (422, "bad_job")
        fields = {error["field"] for error in answer["error"]["fields"]}
        assert {"commands", "resources.cpu", "nonsense", "project", "priority", "urgent"} <= fields
        assert all(error["problem"] and error["fix"] for error in answer["error"]["fields"])
        assert await job_rows(world) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"", 400, "bad_json"),
        (b"[]", 400, "bad_json"),
        (b'{"spec": {}, "spec": {}}', 400, "bad_json"),
        (b'{"spec": NaN}', 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b"{}", 422, "bad_job"),
        (b'{"spec": "x"}', 422, "bad_job"),
        (b'{"spec": {"commands": ["\\ud800"]}}', 422, "bad_job"),
        (b'{"spec": {"commands": ["true"]}, "project": "\\udc00"}', 422, "bad_job"),
        (b'{"spec": {"commands": ["true"]}, "priority": true}', 422, "bad_job"),
        (b'{"spec": {"commands": ["true"]}, "priority": 1.5}', 422, "bad_job"),
    ],
)
async def test_a_body_that_is_none(body: bytes, status: int, code: str) -> None:
    """What is no submission gets an error in the common shape, and no row."""
    async with running() as world:
        async with world.api.post("/v1/jobs", data=body) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (status, code), answer
        assert await job_rows(world) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(
    st.sampled_from(["spec", "project", "priority", "unique_key", "run_at", "x"]), JSON
) | st.fixed_dictionaries(
    {"spec": st.just(GOOD)},
    optional={
        "project": st.text(),
        "priority": st.integers(),
        "unique_key": st.text(),
        "run_at": st.text() | st.datetimes(timezones=st.timezones()).map(str),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES)
def test_what_is_accepted_is_acceptable(body: dict[str, object]) -> None:
    """Whatever comes, either each wrong field is named, or intake and the CHECKs of the table will take the row."""
    try:
        job = read_submission(body)
    except Refusal as error:
        refusal = error
    else:
        parse_spec_json(job.spec)
        assert job.spec.encode()
        assert job.project is None or 1 <= len(job.project) <= 64
        assert job.priority is None or -1000 <= job.priority <= 1000
        assert job.unique_key is None or 1 <= len(job.unique_key) <= 200
        with closing(sqlite3.connect(":memory:")) as memory:
            (days,) = memory.execute("SELECT julianday(?)", [job.run_at]).fetchone()
        assert job.run_at is None or days >= 2440587.5
        return
    assert refusal.status == 422
    assert refusal.fields


async def test_list_and_pages() -> None:
    """Jobs come newest first without their specs; live ones unless all are asked for; pages continue without gaps."""
    async with running() as world:
        ids = [await world.insert_job() for _ in range(5)]
        await world.finish_job(ids[2])
        _, live = await get(world.api, "/v1/jobs")
        assert [job["id"] for job in live["jobs"]] == [ids[4], ids[3], ids[1], ids[0]]
        assert "spec" not in live["jobs"][0]
        assert live["jobs"][0]["cancel_requested"] is False
        seen: list[str] = []
        before: dict[str, object] = {}
        while True:
            _, page = await get(world.api, "/v1/jobs", all=1, limit=2, **before)
            seen += [job["id"] for job in page["jobs"]]
            if page["next_before"] is None:
                break
            before = {"before": page["next_before"]}
        assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("all=yes", "all"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("before=-1", "before"),
        ("limit=²", "limit"),
    ],
)
async def test_a_bad_parameter_is_named(query: str, field: str) -> None:
    """A parameter that cannot be read is refused by name."""
    async with running() as world:
        status, answer = await get(world.api, f"/v1/jobs?{query}")
        assert (status, answer["error"]["code"]) == (400, "bad_parameter")
        assert [error["field"] for error in answer["error"]["fields"]] == [field]


async def test_describe() -> None:
    """A job comes with its spec as JSON, its attempts, its history and the elements of an array."""
    async with running() as world:
        job_id = await world.insert_job(GOOD, id="train")
        await world.insert_attempt(job_id, 1, outcome="exited", exit_code=3)
        await world.insert_job(id="train-0", array_parent=job_id, array_index=0)
        status, answer = await get(world.api, "/v1/jobs/train")
        assert status == 200
        assert answer["job"]["spec"] == GOOD
        assert [attempt["exit_code"] for attempt in answer["attempts"]] == [3]
        assert [event["kind"] for event in answer["events"]] == ["submitted"]
        assert answer["events"][0]["detail"] == {}
        assert answer["elements"] == ["train-0"]


@pytest.mark.parametrize("spec", ["[" * 900 + "]" * 900, "9" * 5000, '"\\ud800"', "null"])
async def test_an_odd_row_can_be_seen(spec: str) -> None:
    """A spec that the database takes and Python can hardly hold is shown all the same."""
    async with running() as world:
        await world.insert_job(id="odd")
        await world.sql("UPDATE job SET spec = ? WHERE id = 'odd'", spec)
        status, answer = await get(world.api, "/v1/jobs/odd")
        assert (status, answer["job"]["id"]) == (200, "odd")


async def test_names_of_jobs() -> None:
    """An id or an unambiguous beginning finds the job; an array is found in spite of its elements."""
    async with running() as world:
        for job_id in ("abc1", "abd2"):
            await world.insert_job(id=job_id)
        for index in (0, 1, 10):
            await world.insert_job(id=f"abd2-{index}", array_parent="abd2", array_index=index)

        async def found(name: str) -> object:
            status, answer = await get(world.api, f"/v1/jobs/{name}")
            return answer["job"]["id"] if status == 200 else (status, answer["error"]["code"])

        assert await found("abc") == "abc1"
        assert await found("abd") == "abd2"
        assert await found("abd2-1") == "abd2-1"
        assert await found("abd2-10") == "abd2-10"
        assert await found("ab") == (409, "ambiguous_job")
        assert await found("abd2-") == (409, "ambiguous_job")
        for name in ("zzz", "%25", "_", "ABC", "a%2Fb", "'"):
            assert await found(name) == (404, "no_such_job"), name
        _, answer = await get(world.api, "/v1/jobs/zzz")
        assert "dstackd ps -a" in answer["error"]["message"]
        _, answer = await get(world.api, "/v1/jobs/ab")
        assert "abc1 and abd2" in answer["error"]["message"]


ALPHABET = string.ascii_lowercase[:2] + "-"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ids=st.sets(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=6),
    name=st.text(ALPHABET, min_size=1, max_size=4),
)
async def test_a_name_never_finds_the_wrong_job(ids: set[str], name: str) -> None:
    """The exact id wins; else the only job that begins with the name; else an error, never a guess."""
    async with running() as world:
        for job_id in sorted(ids):
            await world.insert_job(id=job_id)
        status, answer = await get(world.api, f"/v1/jobs/{name}")
    matches = {job_id for job_id in ids if job_id.startswith(name)}
    if name in ids or len(matches) == 1:
        assert (status, answer["job"]["id"]) == (200, name if name in ids else matches.pop())
    else:
        assert status == (409 if matches else 404)


async def test_stop() -> None:
    """A live job gets its cancel request, once; one that is over is left alone, and the answer says so."""
    async with running() as world:
        live, over = await world.insert_job(), await world.insert_job()
        await world.finish_job(over)
        for _ in range(2):
            status, answer = await post(world.api, f"/v1/jobs/{live}/stop")
            assert (status, answer) == (200, {"id": live, "phase": "submitted", "stopping": True})
        _, answer = await post(world.api, f"/v1/jobs/{over}/stop")
        assert answer == {"id": over, "phase": "succeeded", "stopping": False}
        assert (await post(world.api, "/v1/jobs/zzz/stop"))[0] == 404
        flags = await world.sql("SELECT cancel_requested FROM job ORDER BY seq")
        events = await world.sql("SELECT job_id FROM event WHERE kind = 'cancel_requested'")
        assert (flags, events) == ([(1,), (0,)], [(live,)])


async def test_machines() -> None:
    """Live machines are listed with the job that each one runs; those that are gone are not."""
    async with running() as world:
        job_id = await world.insert_job()
        await world.insert_attempt(job_id, 1, instance_id="i-1")
        for instance_id, gone in (("i-1", None), ("i-2", None), ("i-3", 5)):
            await world.sql(
                "INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone, "
                "market, price_usd_h, launched_at_ms, gone_at_ms) VALUES (?, 'b', 'l', 0, 't', 'z', 'spot', 1, 1, ?)",
                *(instance_id, gone),
            )
        _, answer = await get(world.api, "/v1/machines")
        shown = [
            (each["instance_id"], each["job_id"], each["attempt"]) for each in answer["machines"]
        ]
        assert shown == [("i-1", job_id, 1), ("i-2", None, None)]


async def test_errors_have_one_shape() -> None:
    """Unknown paths, wrong methods and a broken database are answered in JSON with the right status."""
    async with running() as world:
        status, answer = await get(world.api, "/v2/jobs")
        assert (status, answer["error"]["code"]) == (404, "not_found")
        async with world.api.delete("/v1/jobs") as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (405, "method_not_allowed")
        assert "GET" in response.headers["Allow"]
        await world.sql("ALTER TABLE job RENAME TO gone")
        status, answer = await get(world.api, "/v1/jobs")
        assert (status, answer["error"]["code"]) == (503, "database")
        assert "SELECT" not in answer["error"]["message"]


async def test_a_body_that_is_too_large() -> None:
    """A body that no acceptable spec could need is refused without being read to the end of memory."""
    async with running() as world:
        body = io.BytesIO(b" " * 3_000_000)
        async with world.api.post("/v1/jobs", data=body) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (413, "request_entity_too_large")


async def test_a_busy_database() -> None:
    """When other programs hold the write lock for too long, the answer is 503 and when to come again; nothing is inserted."""
    async with running() as world:
        answers = []

        async def submit() -> None:
            async with world.api.post("/v1/jobs", json={"spec": GOOD}) as response:
                code = (await response.json())["error"]["code"]
                answers.append((response.status, response.headers["Retry-After"], code))

        with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as group:
                group.start_soon(submit)
                while not answers:
                    world.clock.ahead_s += WRITE_WAIT_S
                    await anyio.sleep(0.01)
        assert answers == [(503, "1", "busy")]
        assert await job_rows(world) == []


async def test_a_bug_is_answered() -> None:
    """An error that nobody thought of is a 500 in the common shape, without its insides, and the server goes on."""
    async with running() as world:
        world.calls.append(cast("ApiCalls", "not a record"))
        status, answer = await get(world.api, "/healthz")
        assert (status, answer["error"]["code"]) == (500, "internal_error")
        assert "record" not in str(answer)
        world.calls.clear()
        assert (await get(world.api, "/healthz"))[0] == 200


async def test_version() -> None:
    """The program says its version and that of the API."""
    async with running() as world:
        _, answer = await get(world.api, "/v1/version")
        assert (answer["version"], answer["api"]) == ("1.2.3", 1)
