"""GET /v1/schedules. Law: the rows of the table, as they are; they are written by plain SQL alone."""

from __future__ import annotations

from aiohttp import web

from dstackd.http.context import HttpContext
from dstackd.http.responses import reply
from dstackd.http.rows import schedule_json
from dstackd.store.schedules import list_schedules


class ScheduleCalls:
    """The one call."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/schedules", self._list)]

    async def _list(self, _request: web.Request) -> web.Response:
        rows = await self._context.database.read(list_schedules)
        return reply({"schedules": [schedule_json(row) for row in rows]})
