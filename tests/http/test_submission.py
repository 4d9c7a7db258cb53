"""A key and a time, as they come over the API."""

from __future__ import annotations

import pytest

from tests.http.world import World, get, post, running

GOOD = {"commands": ["true"]}


async def priorities(world: World) -> list[int]:
    return [row[0] for row in await world.sql("SELECT priority FROM job ORDER BY seq")]


async def test_a_key_makes_one_job_of_many_submissions() -> None:
    """The second one is answered with the first one's id, marked as such, and changes nothing of it; a project has keys of its own."""
    async with running() as world:
        first = {"spec": GOOD, "unique_key": "k", "priority": 1}
        status, new = await post(world.api, "/v1/jobs", first)
        assert (status, new["existing"]) == (201, False)
        async with world.api.post("/v1/jobs", json={**first, "priority": 2}) as response:
            assert response.status == 200
            assert response.headers["Location"] == f"/v1/jobs/{new['id']}"
            assert await response.json() == {"id": new["id"], "existing": True}
        _, other = await post(world.api, "/v1/jobs", {**first, "project": "p"})
        assert other["existing"] is False
        assert await priorities(world) == [1, 1]


@pytest.mark.parametrize(
    ("written", "at_ms"),
    [
        ("2027-01-31T06:00:00Z", 1_801_375_200_000),
        ("2027-01-31T07:00:00.250+01:00", 1_801_375_200_250),
        ("2027-01-31 06:00", 1_801_375_200_000),
        ("2027-01-31", 1_801_353_600_000),
    ],
)
async def test_a_time_is_a_moment_in_utc(written: str, at_ms: int) -> None:
    """As the row has it, and as it is shown; `run_at` itself is each database's own."""
    async with running() as world:
        _, answer = await post(world.api, "/v1/jobs", {"spec": GOOD, "run_at": written})
        _, shown = await get(world.api, f"/v1/jobs/{answer['id']}")
        assert shown["job"]["run_at_ms"] == at_ms
        assert "run_at" not in shown["job"]


@pytest.mark.parametrize(
    "written", ["now", "06:00", "2027-02-30", "1969-12-31", 5, "9999-12-31T23:00:00-05:00"]
)
async def test_what_is_no_time_is_refused(written: object) -> None:
    """With the field and a fix."""
    async with running() as world:
        status, answer = await post(world.api, "/v1/jobs", {"spec": GOOD, "run_at": written})
        assert (status, answer["error"]["fields"][0]["field"]) == (422, "run_at")
        assert await priorities(world) == []
