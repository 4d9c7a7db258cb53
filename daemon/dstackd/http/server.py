"""Serving. Law: two listeners, one application; nothing here outlives `serve`.

- TCP, loopback by default: health and metrics. Read-only, no job data, open to whoever reaches the port.
- The Unix socket: everything. There is no login: who may open the file may act, that is, its owner and its group (0660).
  To let an application submit jobs over HTTP, put its user into the daemon's group.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
from aiohttp import web
from anyio.abc import TaskStatus

from dstackd.http.app import build_app
from dstackd.http.context import HttpContext
from dstackd.http.following import FollowBoard
from dstackd.http.listening import listen_error, parse_listen, unix_socket
from dstackd.http.probe import make_probes

LISTEN_DEFAULT = "127.0.0.1:9180"

SHUTDOWN_TIMEOUT_S = 1.0
"""Requests that take longer are cut off when the daemon stops; it is crash-only anyway."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens, once it does. `tcp` has the real port where 0 was asked for."""

    tcp: tuple[str, int] | None
    socket_path: Path | None


async def serve(
    context: HttpContext,
    *,
    listen: str = LISTEN_DEFAULT,
    socket_path: Path | None,
    host_names: Iterable[str] = (),
    task_status: TaskStatus[Listening] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `listen` is HOST:PORT, or "" for no TCP; `socket_path` None: no Unix socket.

    `host_names` are names beside the loopback ones under which TCP requests are accepted.
    Raises ConfigError when an address cannot be listened on.
    """
    probes = make_probes(context.database, clock=context.clock)
    board = FollowBoard(context.database)
    app = build_app(context, probes=probes, board=board, host_names=host_names)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    with ExitStack() as sockets:
        try:
            await runner.setup()
            tcp = await _listen_tcp(runner, listen) if listen else None
            if socket_path is not None:
                listener = sockets.enter_context(unix_socket(socket_path))
                await web.SockSite(runner, listener).start()
            async with anyio.create_task_group() as group:
                group.start_soon(probes.database.run)
                group.start_soon(probes.counts.run)
                group.start_soon(board.run)
                task_status.started(Listening(tcp, socket_path))
        finally:
            board.close()
            with anyio.CancelScope(shield=True):
                await runner.cleanup()


async def _listen_tcp(runner: web.AppRunner, listen: str) -> tuple[str, int]:
    host, port = parse_listen(listen)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise listen_error(listen, error) from None
    address = runner.addresses[0]
    return str(address[0]), int(address[1])
