"""The session and its clients. Law: one session, every client made once before serving, each one tapped.

Making a client blocks the loop for up to 0.2 s and a second session costs 25 MB (measured,
aiobotocore 3.10), so nothing else makes either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from aiobotocore.config import AioConfig  # type: ignore[import-untyped] # aiobotocore ships no types
from aiobotocore.session import AioSession  # type: ignore[import-untyped] # as above

from dstackd import __version__
from dstackd.aws.access import AwsAccess
from dstackd.aws.api import Api
from dstackd.aws.bounded_session import BoundedSession
from dstackd.aws.lifecycle import watch_answers
from dstackd.aws.pacing import Pacing, Sleep
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.strict_parser import StrictParserFactory
from dstackd.aws.tap import Permit, Tap
from dstackd.aws.untyped import Untyped
from dstackd.ports import Clock

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
"""RunInstances of 100 machines and a page of 1,000 instances take seconds."""
POOL_CONNECTIONS_MAX = 64
"""Botocore's 10 make forty concurrent calls wait in line (measured)."""
ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Clients:
    """One client for each API, and a second one for launches."""

    ec2: Api
    ec2_launch: Api
    """Repeats nothing: InsufficientInstanceCapacity is HTTP 500, which an SDK would retry, and each
    repetition takes from a bucket of five requests (EC2 API throttling page)."""
    s3: Api
    logs: Api
    iam: Api
    sts: Api


@asynccontextmanager
async def open_clients(
    access: AwsAccess,
    *,
    recorder: CallRecorder,
    clock: Clock,
    sleep: Sleep = anyio.sleep,
    permit: Permit = lambda: None,
) -> AsyncIterator[Clients]:
    """Open every client; they close when the context ends. `sleep` goes by the clock's monotonic time; `permit` is asked before
    each request that changes something.
    """
    session = AioSession()
    session.register_component("response_parser_factory", StrictParserFactory())
    pacing = Pacing(access.ec2_limits, clock=clock, recorder=recorder, sleep=sleep)
    async with AsyncExitStack() as stack:

        async def api(
            service: str, *, attempts_max: int = ATTEMPTS_MAX, pacing: Pacing | None = None
        ) -> Api:
            client = await stack.enter_async_context(
                session.create_client(
                    service, config=_config(access, attempts_max), **_place(access)
                )
            )
            tap = Tap(service, recorder=recorder, clock=clock, permit=permit, pacing=pacing)
            tap.attach(client.meta.events)
            if service == "s3":
                watch_answers(client)
            return Api(client, service=service, pacing=pacing)

        yield Clients(
            ec2=await api("ec2", pacing=pacing),
            ec2_launch=await api("ec2", attempts_max=1, pacing=pacing),
            s3=await api("s3"),
            logs=await api("logs"),
            iam=await api("iam"),
            sts=await api("sts"),
        )


def _place(access: AwsAccess) -> dict[str, Any]:
    return {
        "region_name": access.region,
        "endpoint_url": access.endpoint_url,
        "aws_access_key_id": access.access_key_id,
        "aws_secret_access_key": access.secret_access_key,
    }


def _config(access: AwsAccess, attempts_max: int) -> Untyped:
    # A bucket's name in the host name needs DNS, which an address on this machine has not.
    addressing = "path" if access.endpoint_url else "auto"
    return AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=POOL_CONNECTIONS_MAX,
        retries={"mode": "standard", "total_max_attempts": attempts_max},
        user_agent_extra=f"dstackd/{__version__}",
        s3={"addressing_style": addressing},
        http_session_cls=BoundedSession,
    )
