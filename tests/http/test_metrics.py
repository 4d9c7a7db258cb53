"""Metrics: names are public, and what is shown is what is known."""

from __future__ import annotations

import re

from aiohttp import ClientSession
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from dstackd.http.metric_table import METRICS, Kind
from dstackd.vitals import ApiCalls
from tests.http.world import World, running

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(session: ClientSession) -> Samples:
    """Each sample by name and labels, read by prometheus-client's own parser."""
    async with session.get("/metrics") as response:
        text = await response.text()
    assert response.status == 200, text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def fill(world: World) -> None:
    """Something of everything."""
    world.vitals.add_loop("intake", interval_s=1, now_s=world.clock.monotonic_s()).failed(1.0, "x")
    world.calls.append(
        ApiCalls(
            "ec2", "RunInstances", 5, [("InsufficientInstanceCapacity", 2)], 4.5, 1, 2, "x", 2.5, 7
        )
    )
    await world.insert_job(submitted_at_ms=world.clock.now_ms() - 5000)
    await world.finish_job(await world.insert_job(), "failed", 3)
    await world.sql(
        "INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone, market, "
        "price_usd_h, launched_at_ms, state) VALUES ('i-1', 'b', 'l', 0, 't', 'z', 'spot', 1, 1, 'running')"
    )


async def test_figures() -> None:
    """Jobs by phase, oldest waiting age, machines, AWS calls by code and loops arrive as they are."""
    async with running() as world:
        await fill(world)
        samples = await scrape(world.web)
        assert value(samples, "dstackd_jobs", phase="submitted") == 1
        assert value(samples, "dstackd_jobs", phase="failed") == 1
        assert value(samples, "dstackd_jobs", phase="running") == 0
        assert 5 <= (value(samples, "dstackd_queue_oldest_age_seconds") or 0) < 30
        assert value(samples, "dstackd_machines", state="running", market="spot") == 1
        where = {"service": "ec2", "operation": "RunInstances"}
        assert value(samples, "dstackd_aws_requests_total", code="OK", **where) == 3
        code = "InsufficientInstanceCapacity"
        assert value(samples, "dstackd_aws_requests_total", code=code, **where) == 2
        assert value(samples, "dstackd_aws_request_seconds_total", **where) == 4.5
        assert value(samples, "dstackd_aws_paced_seconds_total", **where) == 2.5
        assert value(samples, "dstackd_aws_waiting", **where) == 7
        assert value(samples, "dstackd_loop_passes_total", loop="intake") == 1
        assert value(samples, "dstackd_loop_failures_total", loop="intake") == 1
        assert (value(samples, "dstackd_loop_last_success_age_seconds", loop="intake") or -1) >= 0
        assert value(samples, "dstackd_database_up") == 1
        assert value(samples, "dstackd_schema_up_to_date") == 1
        assert (value(samples, "process_resident_memory_bytes") or 0) > 0


async def test_the_table_is_complete() -> None:
    """Every metric of ours is in the table with its labels, and every row of the table is shown."""
    async with running() as world:
        await fill(world)
        samples = await scrape(world.web)
        shown = {
            name: tuple(sorted(key for key, _ in labels))
            for name, labels in samples
            if name.startswith("dstackd_")
        }
        assert shown == {name: tuple(sorted(metric.labels)) for name, metric in METRICS.items()}


async def test_openmetrics() -> None:
    """A scraper that asks for OpenMetrics gets a document that its strict parser accepts."""
    async with running() as world:
        await fill(world)
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with world.web.get("/metrics", headers=accept) as response:
            text = await response.text()
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        families = parse_openmetrics(text)  # type: ignore[no-untyped-call]
        kinds = {family.name: family.type for family in families}
        assert kinds["dstackd_build"] == "info"
        assert kinds["dstackd_aws_requests"] == "counter"


def test_names_follow_the_rules() -> None:
    """Base units only, `_total` on counters and on nothing else, no id among the labels."""
    for name, metric in METRICS.items():
        assert re.fullmatch(r"dstackd_[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", name)
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert name.endswith("_info") == (metric.kind is Kind.INFO)
        assert not {"id", "job", "job_id", "instance_id", "launch_id"} & set(metric.labels)
        assert metric.meaning.endswith(".")


async def test_a_broken_database_is_shown_as_such() -> None:
    """Without a database there are no stale figures: database_up is 0, its metrics are absent, the others stay."""
    async with running() as world:
        await fill(world)
        await world.sql("ALTER TABLE job RENAME TO gone")
        samples = await scrape(world.web)
        assert value(samples, "dstackd_database_up") == 0
        assert value(samples, "dstackd_jobs", phase="submitted") is None
        assert value(samples, "dstackd_loop_passes_total", loop="intake") == 1
