"""/metrics. Law: turns what is known already into samples; counts nothing itself, so a restart of a page loses nothing.

Names and meanings are in `metric_table.py`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import Metric as Family
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from dstackd.core.phase import Phase
from dstackd.http import metric_table as table
from dstackd.http.context import HttpContext
from dstackd.http.health import COUNTS_AGE_MAX_S, WAIT_S
from dstackd.http.health_checks import oldest_waiting_s, schema_problem
from dstackd.http.probe import Probes

OK = "OK"
"""The `code` of AWS calls without an error."""


class MetricsPage:
    """The page, with a registry of its own: two applications in one process do not mix."""

    def __init__(self, context: HttpContext, probes: Probes) -> None:
        self._probes = probes
        registry = CollectorRegistry()
        registry.register(DaemonCollector(context, probes))
        ProcessCollector(registry=registry)
        self._render = make_aiohttp_handler(registry)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/metrics", self._metrics)]

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        # The collector is synchronous: what it will look at has to be there before.
        await self._probes.counts.answer(age_max_s=COUNTS_AGE_MAX_S, wait_s=WAIT_S)
        return await self._render(request)


class DaemonCollector(Collector):
    """Vitals, AWS calls and counts of the store, at the moment of a scrape."""

    def __init__(self, context: HttpContext, probes: Probes) -> None:
        self._context = context
        self._probes = probes

    def describe(self) -> Iterator[Family]:
        """Names only, so that registering reads nothing."""
        return (_family(metric) for metric in table.METRICS.values())

    @override
    def collect(self) -> Iterator[Family]:
        yield self._build_info()
        yield _gauge(table.SCHEMA_UP_TO_DATE, float(not schema_problem(self._context.vitals)))
        yield _gauge(table.COMMITS_NOTICED, float(not self._context.vitals.watch_problem))
        yield _gauge(table.STANDING_BY, float(bool(self._context.vitals.standing_by_for)))
        yield from self._stored()
        yield from self._reaped()
        yield from self._aws()
        yield from self._loops()

    def _build_info(self) -> Family:
        family = _family(table.BUILD_INFO)
        values = {"version": self._context.version, "python": platform.python_version()}
        family.add_sample(table.BUILD_INFO.name, values, 1.0)
        return family

    def _stored(self) -> Iterator[Family]:
        last = self._probes.counts.last
        now_s = self._context.clock.monotonic_s()
        fresh = last is not None and now_s - last.asked_s <= COUNTS_AGE_MAX_S + WAIT_S
        counts = last.value if last is not None and fresh else None
        yield _gauge(table.DATABASE_UP, float(counts is not None))
        if counts is not None:
            yield from self._counts(counts)

    def _counts(self, counts: dict[str, Any]) -> Iterator[Family]:
        jobs = _family(table.JOBS)
        for phase in Phase:
            _add(jobs, table.JOBS, (phase,), counts["jobs"].get(phase, 0))
        yield jobs
        now_ms = self._context.clock.now_ms()
        yield _gauge(table.QUEUE_OLDEST_AGE, oldest_waiting_s(counts, now_ms=now_ms))
        machines = _family(table.MACHINES)
        for state, market, count in counts["machines"]:
            _add(machines, table.MACHINES, (state, market), count)
        yield machines
        yield _gauge(table.IDLE_MACHINES, counts["idle_machines"])
        yield _gauge(table.COST_RATE, counts["usd_h"])
        yield _gauge(table.TERMINATIONS_STUCK, counts["stuck_machines"])

    def _reaped(self) -> Iterator[Family]:
        vitals = self._context.vitals
        for metric, count in (
            (table.ORPHANS_TERMINATED, vitals.orphans_terminated),
            (table.SPOT_REQUESTS_CANCELLED, vitals.spot_requests_cancelled),
        ):
            family = _family(metric)
            _add(family, metric, (), count)
            yield family

    def _aws(self) -> Iterator[Family]:
        requests, seconds = _family(table.AWS_REQUESTS), _family(table.AWS_REQUEST_SECONDS)
        paced, waiting = _family(table.AWS_PACED_SECONDS), _family(table.AWS_WAITING)
        for calls in self._context.api_calls():
            where = (calls.service, calls.operation)
            errors = dict(calls.errors)
            for code, count in {OK: calls.calls - sum(errors.values()), **errors}.items():
                _add(requests, table.AWS_REQUESTS, (*where, code), count)
            _add(seconds, table.AWS_REQUEST_SECONDS, where, calls.seconds_total)
            _add(paced, table.AWS_PACED_SECONDS, where, calls.paced_seconds_total)
            _add(waiting, table.AWS_WAITING, where, calls.waiting)
        yield from (requests, seconds, paced, waiting)

    def _loops(self) -> Iterator[Family]:
        now_s = self._context.clock.monotonic_s()
        passes, failures = _family(table.LOOP_PASSES), _family(table.LOOP_FAILURES)
        ages = _family(table.LOOP_LAST_SUCCESS_AGE)
        for pulse in self._context.vitals.loops.values():
            last_s = pulse.started_s if pulse.last_success_s is None else pulse.last_success_s
            _add(passes, table.LOOP_PASSES, (pulse.name,), pulse.passes)
            _add(failures, table.LOOP_FAILURES, (pulse.name,), pulse.failures)
            _add(ages, table.LOOP_LAST_SUCCESS_AGE, (pulse.name,), max(0.0, now_s - last_s))
        yield passes
        yield failures
        yield ages


def _family(metric: table.Metric) -> Family:
    """The metric without samples."""
    match metric.kind:
        case table.Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        case table.Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        case table.Kind.INFO:
            return InfoMetricFamily(metric.name.removesuffix("_info"), metric.meaning)


def _add(family: Family, metric: table.Metric, values: tuple[str, ...], number: float) -> None:
    family.add_sample(metric.name, dict(zip(metric.labels, values, strict=True)), number)


def _gauge(metric: table.Metric, number: float) -> Family:
    family = _family(metric)
    _add(family, metric, (), number)
    return family
