"""Bodies, queries and rows that no schema makes: bombs, megabytes and hostile text against the API on its own socket."""

from __future__ import annotations

import io
import json
from urllib.parse import quote

from dstackd.http.endpoints import ENDPOINTS
from tests.fuzz.hostile import CONTROLS, ESCAPES, JSON_BOMBS, LONG, MARKS, PATHS, QUOTES
from tests.http.region import a_region
from tests.http.world import get, running

REFUSALS = (400, 413, 422)
TEXTS = (*ESCAPES, *CONTROLS, *MARKS, *PATHS, *QUOTES, "\U0010ffff")


async def test_bombs_are_refused() -> None:
    """Whatever is sent in the place of a job is refused in the common shape; no row comes of it."""
    bodies = [bomb.encode() for bomb in JSON_BOMBS]
    bodies += [b'{"spec": ' + body + b"}" for body in bodies]
    bodies += [b"\xff" * 100, b"\0" * 100, b"[" * 2_000_000, LONG[2].encode()]
    async with running(plan=a_region().plan) as world:
        for path in ("/v1/jobs", "/v1/plan"):
            for body in bodies:
                async with world.api.post(path, data=io.BytesIO(body)) as response:
                    answer = json.loads(await response.read())
                assert response.status in REFUSALS, body[:60]
                assert answer["error"]["fields"] or response.status == 413
        assert await world.sql("SELECT count(*) FROM job") == [(0,)]


async def test_hostile_names_in_paths_and_queries() -> None:
    """A name of any characters is answered with a status of the document, in JSON."""
    async with running() as world:
        await world.insert_job()
        for endpoint in ENDPOINTS:
            if endpoint.is_public or endpoint.body:
                continue
            for text in TEXTS:
                name = quote(text, safe="")
                path = endpoint.path.replace("{job}", name)
                query = "&".join(f"{each.name}={name}" for each in endpoint.query)
                async with world.api.request(endpoint.method, f"{path}?{query}") as response:
                    content = await response.read()
                assert response.status in {200, 404, 405, *endpoint.refusals}, path
                assert response.status != 503 or b"no_backend" in content, (path, content)


async def test_an_answer_is_json_whatever_a_row_holds() -> None:
    """`1e999` and `NaN` in a row's own JSON are shown as the text that they are: JSON has no infinity."""
    async with running() as world:
        job_id = await world.insert_job()
        await world.sql("UPDATE job SET spec = '{\"a\": 1e999}' WHERE id = ?", job_id)
        async with world.api.get(f"/v1/jobs/{job_id}") as response:
            text = await response.text()
        assert "Infinity" not in text
        assert json.loads(text)["job"]["spec"] == '{"a": 1e999}'
        status, _ = await get(world.api, "/v1/jobs")
        assert status == 200
