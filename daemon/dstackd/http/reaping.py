"""/v1/machines/reap: every machine of the bucket and what it is; and an operator's look for orphans.

Law: the reaper asks EC2 and judges; here it is put beside what the table knows. GET marks nothing and changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from aiohttp import web

from dstackd.core.cost import machine_cost_usd
from dstackd.core.instance import Instance, InstanceState
from dstackd.core.orphan import Known, Standing, Stranger, standing_of
from dstackd.core.reaping import Look
from dstackd.http.context import HttpContext, Reaping
from dstackd.http.responses import Refusal, reply
from dstackd.store import queries, reaping

Row = dict[str, Any]

_REAPED = frozenset({Standing.ORPHAN, Standing.CONFIRMED})
_ORDER = {standing: at for at, standing in enumerate(Standing)}


class ReapCalls:
    """The two calls."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/machines/reap", self._look),
            web.post("/v1/machines/reap", self._reap),
        ]

    async def _look(self, _request: web.Request) -> web.Response:
        look = await self._reaper().look()
        read = self._context.database.read
        rows = {each["instance_id"]: each for each in await read(queries.list_machines)}
        launch_ids = sorted({each.launch_id for each in look.snapshot.instances.values()})
        prices = await read(partial(reaping.launch_prices, launch_ids=launch_ids))
        now_ms = self._context.clock.now_ms()
        machines = _ours(look, rows, prices, now_ms=now_ms) + [
            _stranger(each) for each in look.strangers
        ]
        machines.sort(key=lambda each: (_ORDER[each["standing"]], each["launched_at_ms"]))
        orphans = sum(each["standing"] in _REAPED for each in machines)
        return reply(
            {
                "taken_at_ms": look.snapshot.taken_at_ms,
                "machines": machines,
                "spot_requests": [asdict(each) for each in look.requests],
                "to_reap": orphans + len(look.requests),
            }
        )

    async def _reap(self, _request: web.Request) -> web.Response:
        owner = self._context.vitals.standing_by_for
        if owner:
            message = f"this daemon stands by: {owner} owns the backend; ask that one"
            raise Refusal(503, "standby", message)
        return reply(asdict(await self._reaper().reap_now()))

    def _reaper(self) -> Reaping:
        if self._context.reaper is None:
            raise Refusal(503, "no_backend", "this daemon has no backend, so it has no machines")
        return self._context.reaper


def _ours(look: Look, rows: dict[str, Row], prices: dict[str, float], *, now_ms: int) -> list[Row]:
    suspects = {each.id: each for each in look.orphans}
    found = []
    for instance in look.snapshot.instances.values():
        if instance.state is InstanceState.TERMINATED:
            continue
        row = rows.get(instance.instance_id, {})
        suspect = suspects.get(instance.instance_id)
        known = Known(
            job=row.get("job_id") is not None,
            idle=row.get("idle_until_ms") is not None,
            suspected=suspect is not None,
            confirmed=suspect is not None and suspect.confirmed,
            leaving_since_ms=row.get("leaving_since_ms"),
        )
        standing = standing_of(instance, known, now_ms=now_ms)
        marked_ms = None if suspect is None else suspect.marked_since_ms
        since_ms = marked_ms if standing in _REAPED else row.get("leaving_since_ms")
        price_usd_h = row.get("price_usd_h") or prices.get(instance.launch_id)
        shown = _machine(instance, standing, price_usd_h=price_usd_h, now_ms=now_ms)
        named = {name: row.get(name) for name in ("job_id", "attempt", "idle_until_ms")}
        found.append({**shown, **named, "since_ms": since_ms})
    return found


def _stranger(stranger: Stranger) -> Row:
    """Whose prices are not known here."""
    shown = _machine(stranger.instance, Standing.FOREIGN, price_usd_h=None, now_ms=0)
    nothing = dict.fromkeys(("job_id", "attempt", "idle_until_ms", "since_ms"))
    return {**shown, **nothing, "owner": stranger.owner}


def _machine(
    instance: Instance, standing: Standing, *, price_usd_h: float | None, now_ms: int
) -> Row:
    launched_ms = instance.launched_at_ms
    cost_usd = price_usd_h and machine_cost_usd(price_usd_h, from_ms=launched_ms, until_ms=now_ms)
    return {
        "instance_id": instance.instance_id,
        "standing": standing,
        "why": _WHY[standing],
        "owner": "",
        "state": instance.state,
        "instance_type": instance.instance_type,
        "market": instance.market,
        "zone": instance.zone,
        "launch_id": instance.launch_id,
        "launched_at_ms": launched_ms,
        "price_usd_h": price_usd_h,
        "cost_usd": None if cost_usd is None else round(cost_usd, 6),
    }


_WHY = {
    Standing.NEEDED: "an attempt that is not over has it",
    Standing.IDLE: "it waits for another job",
    Standing.ANSWERING: "its launch has no saved answer yet",
    Standing.YOUNG: "no job has it so far, and it is too young to be judged",
    Standing.LEAVING: "it was asked to terminate, or ends itself",
    Standing.STUCK: "it was asked to terminate long ago and is still there",
    Standing.ORPHAN: "no live attempt has it; a second look decides",
    Standing.CONFIRMED: "no live attempt has it, in two looks",
    Standing.FOREIGN: "another installation's: never touched",
}
