"""A fake AWS on loopback, as a process of its own: `python -m tests.benchmarks.launch.fake_aws`.

Law: it prints its address, serves until its standard input ends, and holds everything in memory. Every
call is counted with the moments of its arrival and its answer on the system's monotonic clock, which
other processes share. `/_fake/NAME` is the benchmark's own door (`cloud.py`).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from dstackd import protocol
from tests.benchmarks.launch import ec2_xml, other_apis
from tests.benchmarks.launch.ec2 import Ec2, Refusal
from tests.benchmarks.launch.park import Park
from tests.benchmarks.launch.plan import Plan
from tests.benchmarks.launch.s3 import S3, operation_of, without_chunks
from tests.benchmarks.launch.token_buckets import Throttles

BODY_BYTES_MAX = 64 << 20
_SCOPE = re.compile(r"Credential=[^/]+/[^/]+/[^/]+/(\w+)/")
_LIMITED = (503, "RequestLimitExceeded")


@dataclass(slots=True)
class Call:
    """One call, answered or not."""

    name: str
    subject: str
    arrived_s: float
    answered_s: float = 0.0
    code: str = ""
    count: int = 0


class FakeAws:
    """Routes calls, makes them wait, counts them."""

    def __init__(self) -> None:
        self.plan = Plan()
        self._s3 = S3()
        park = Park(self.plan, self._s3)
        self._ec2 = Ec2(self.plan, launched=park.launched, leaving=park.leaving)
        self._throttles = Throttles()
        self._calls: list[Call] = []
        self._held: list[asyncio.Future[bool]] = []
        self._doors: dict[str, Callable[[dict[str, Any]], Any]] = {
            "plan": self._set_plan,
            "fresh": self._start_counting,
            "calls": self._show_calls,
            "machines": self._show_machines,
            "held": lambda _: len(self._held),
            "let_go": self._let_go,
            "plant": self._plant,
        }

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        if request.path.startswith("/_fake/"):
            door = self._doors[request.path.removeprefix("/_fake/")]
            return web.json_response(door(await request.json()))
        body = await request.read()
        scope = _SCOPE.search(request.headers.get("Authorization", ""))
        answers = {"ec2": self._serve_ec2, "s3": self._serve_s3}
        name = scope[1] if scope else ""
        serve = answers.get(name)
        if serve is not None:
            return await serve(request, body)
        return await self._serve_other(name, request, body)

    async def _serve_ec2(self, _: web.Request, body: bytes) -> web.StreamResponse:
        parameters = dict(parse_qsl(body.decode(), keep_blank_values=True))
        operation = parameters.get("Action", "")
        place = parameters.get("NetworkInterface.1.SubnetId", "")
        market = parameters.get("InstanceMarketOptions.MarketType", "on-demand")
        subject = f"{parameters.get('InstanceType', '')}/{place}/{market}"
        call = self._begin(f"ec2:{operation}", subject if operation == "RunInstances" else "")
        call.count = int(parameters.get("MaxCount", "0"))

        async def act() -> web.Response:
            if self.plan.throttled and not self._ec2.admits(
                self._throttles, parameters, now_s=time.monotonic()
            ):
                raise Refusal(*_LIMITED, "Request limit exceeded.")
            return _xml(self._ec2.answer(parameters, now_ms=time.time() * 1000))

        try:
            answer = await self._take_time(call, act, self._latency_s(operation))
        except Refusal as refusal:
            call.code = refusal.code
            if (refusal.status, refusal.code) != _LIMITED:
                await asyncio.sleep(self._latency_s(operation))
            answer = _xml(ec2_xml.error(refusal.code, str(refusal)), status=refusal.status)
        return self._end(call, answer)

    def _latency_s(self, operation: str) -> float:
        if operation == "RunInstances":
            return self.plan.run_instances_s
        return self.plan.describe_s if operation.startswith("Describe") else self.plan.other_s

    async def _serve_s3(self, request: web.Request, body: bytes) -> web.StreamResponse:
        key = request.path.partition("/")[2].partition("/")[2]
        operation = operation_of(request.method, key, request.query)
        call = self._begin(f"s3:{operation}", key)
        if "aws-chunked" in request.headers.get("Content-Encoding", ""):
            body = without_chunks(body)

        async def act() -> web.Response:
            answer = self._s3.answer(
                operation,
                key,
                query=request.query,
                body=body,
                only_if_new="If-None-Match" in request.headers,
            )
            call.code = answer.code
            headers = {"Content-Type": "application/xml", **(answer.headers or {})}
            return web.Response(status=answer.status, body=answer.body, headers=headers)

        return self._end(call, await self._take_time(call, act, self.plan.s3_s))

    async def _serve_other(
        self, name: str, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        target = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        parameters = {} if target else dict(parse_qsl(body.decode()))
        call = self._begin(f"{name}:{target or parameters.get('Action', '')}", "")
        kind = "application/x-amz-json-1.1"

        async def act() -> web.Response:
            now_s = time.monotonic()
            if target == "FilterLogEvents" and not self._throttles.admit(target, now_s=now_s):
                call.code = "ThrottlingException"
                refused = json.dumps({"__type": call.code, "message": "Rate exceeded"})
                return web.Response(status=400, text=refused, content_type=kind)
            if target:
                return web.Response(body=other_apis.logs(target), content_type=kind)
            return _xml((other_apis.sts if name == "sts" else other_apis.iam)(parameters))

        return self._end(call, await self._take_time(call, act, self.plan.other_s))

    def _begin(self, name: str, subject: str) -> Call:
        call = Call(name, subject, time.monotonic())
        self._calls.append(call)
        return call

    def _end(self, call: Call, answer: web.Response) -> web.Response:
        call.answered_s = time.monotonic()
        return answer

    async def _take_time(
        self, call: Call, act: Callable[[], Awaitable[web.Response]], latency_s: float
    ) -> web.Response:
        """Hold, do, sleep; or do, sleep, hold. EC2 does what it is asked for though nobody waits any more."""
        plan = self.plan
        held = call.name == plan.hold and call.subject.startswith(plan.hold_key)
        after = plan.hold_answer
        if held and not after:
            await self._hold(call)
        answer = await act()
        await asyncio.sleep(latency_s)
        if held and after:
            await self._hold(call)
        return answer

    async def _hold(self, call: Call) -> None:
        let_go = asyncio.get_running_loop().create_future()
        self._held.append(let_go)
        if not await let_go:
            call.code = "NeverArrived"
            raise web.HTTPServiceUnavailable

    def _let_go(self, asked: dict[str, Any]) -> int:
        """Hold nothing more. `arrive`: what is held goes on; otherwise it is as if it never came."""
        self.plan.hold = ""
        held, self._held = self._held, []
        for one in held:
            one.set_result(bool(asked["arrive"]))
        return len(held)

    def _set_plan(self, changes: dict[str, Any]) -> None:
        for name, value in changes.items():
            setattr(self.plan, name, value)

    def _start_counting(self, _: dict[str, Any]) -> None:
        """Full buckets and no calls."""
        self._throttles = Throttles()
        self._calls = []

    def _show_calls(self, _: dict[str, Any]) -> list[list[Any]]:
        return [
            [call.name, call.subject, call.arrived_s, call.answered_s, call.code, call.count]
            for call in self._calls
        ]

    def _show_machines(self, _: dict[str, Any]) -> list[list[Any]]:
        return [
            [
                machine.instance_id,
                machine.instance_type,
                "spot" if machine.spot else "on-demand",
                machine.state,
                machine.job_id,
                machine.attempt,
            ]
            for machine in self._ec2.machines
        ]

    def _plant(self, asked: dict[str, Any]) -> None:
        self._ec2.plant(asked["count"], asked["tags"], now_ms=time.time() * 1000)
        for machine in self._ec2.machines:
            self._s3.put(protocol.heartbeat_key(machine.instance_id), b"")


def _xml(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="text/xml")


async def _serve_until_input_ends() -> None:
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_route("*", "/{path:.*}", FakeAws().serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve_until_input_ends())
