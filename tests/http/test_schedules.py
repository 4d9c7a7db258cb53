"""GET /v1/schedules, and what a job says of the jobs that it needs."""

from __future__ import annotations

from tests.http.region import a_region
from tests.http.world import running


async def test_schedules_are_shown_with_their_last_job() -> None:
    """Rows as they are, by name, with where the last job is; nobody writes them through the API."""
    async with running() as world:
        job_id = await world.insert_job()
        row = "INSERT INTO schedule (name, cron, spec) VALUES (?, '0 6 * * *', '{\"commands\": [\"true\"]}')"
        await world.sql(row, "b")
        await world.sql(row, "a")
        await world.sql("UPDATE schedule SET last_job_id = ? WHERE name = 'a'", job_id)
        async with world.api.get("/v1/schedules") as response:
            assert response.status == 200
            answer = await response.json()
        async with world.api.post("/v1/schedules") as response:
            assert response.status == 405
    first, second = answer["schedules"]
    assert (first["name"], first["last_job_phase"]) == ("a", "submitted")
    assert (second["name"], second["last_job_phase"]) == ("b", None)
    assert (first["enabled"], first["spec"]) == (True, {"commands": ["true"]})


async def test_a_job_says_what_it_needs() -> None:
    """In the spec's order, with where each other job is; one that is not there has no phase."""
    async with running(plan=a_region().plan) as world:
        other = await world.insert_job()
        needs = [other, {"id": "gone", "on": "any"}]
        spec = {"commands": ["true"], "depends_on": needs, "instance_types": ["m5.large"]}
        job_id = await world.insert_job(spec)
        expected = [
            {"id": other, "on": "success", "phase": "submitted"},
            {"id": "gone", "on": "any", "phase": None},
        ]
        async with world.api.get(f"/v1/jobs/{job_id}") as response:
            assert (await response.json())["needs"] == expected
        async with world.api.post("/v1/plan", json={"spec": spec}) as response:
            assert (await response.json())["needs"] == expected


async def test_explain_says_for_whom_a_job_waits() -> None:
    """With where these are now, and what happens with their end."""
    async with running() as world:
        other = await world.insert_job()
        job_id = await world.insert_job({"commands": ["true"], "depends_on": [other]})
        message = f"needs {other} to succeed first"
        await world.sql(
            "UPDATE job SET phase = 'queued', held = 1, reason = 'dependency', message = ?,"
            " next_visit_at_ms = 9007199254740991 WHERE id = ?",
            *(message, job_id),
        )
        await world.sql(
            "INSERT INTO job_dependency (job_id, on_job_id) VALUES (?, ?)", job_id, other
        )
        async with world.api.get(f"/v1/jobs/{job_id}/explain") as response:
            told = await response.json()
    assert [each["text"] for each in told["waits_for"]] == [
        message,
        f"{other}, which is submitted",
    ]
    assert "cancelled with the first end that does not do" in told["next_steps"][0]["text"]
