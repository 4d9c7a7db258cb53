"""The composition root: opens what is concrete, serves, and ends. Law: with `wiring.py` the only module that knows the settings and
every concrete class; it decides nothing else.
"""

from __future__ import annotations

import fcntl
import gc
import os
import platform
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskStatus

from dstackd import __version__
from dstackd.aws.access import AwsAccess
from dstackd.aws.backend import open_backend
from dstackd.aws.recorder import CallRecorder
from dstackd.catalogue import Catalogue
from dstackd.clock import SystemClock
from dstackd.config import Settings
from dstackd.controllers.reaper import Reaper
from dstackd.errors import ConfigError
from dstackd.http.context import HttpContext, Insight
from dstackd.http.distant_logs import DistantLogs
from dstackd.http.server import Listening, serve
from dstackd.log_files import LogFiles
from dstackd.market import MarketBlocks
from dstackd.noticing import watch_commits
from dstackd.ownership import is_lost, own
from dstackd.sd_notify import notify
from dstackd.store.backends import ensure_backend
from dstackd.store.engine import Database, open_database
from dstackd.store.lease import Tenure
from dstackd.store.migrate import schema_position, upgrade
from dstackd.supervisor import patiently
from dstackd.vitals import ApiCalls, Vitals
from dstackd.wake import Heartbeats, Wakes
from dstackd.wiring import Parts, build_loops

log = structlog.get_logger(__name__)

PLACE_CHARS = 64


async def run_daemon(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Machines go on running; the next start finds them.

    Raises ConfigError for what the operator has to mend.
    """
    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_on_signal, group.cancel_scope)
        with single_daemon(settings.state.directory) as place:
            while await _lost(settings, place):
                pass
        group.cancel_scope.cancel()


async def _lost(settings: Settings, place: str) -> bool:
    """Serve until another daemon has taken over: then whatever was in memory is worth nothing, and all begins anew."""
    try:
        async with open_parts(settings, place=place) as parts:
            await _serve(parts)
    except BaseException as error:
        if not is_lost(error):
            raise
        log.error("lease_lost", backend=settings.backend.name)  # noqa: TRY400 - no bug of ours
        return True
    return False


def _tune_collector() -> None:
    """Fewer garbage collections: a pass over ten thousand machines makes a million short-lived objects, and with Python's
    thresholds half of its time went into looking for cycles that are not there (2.8 s against 1.4 s, the same memory).
    """
    gc.freeze()  # what the start has made stays
    gc.set_threshold(50_000, 50, 1000)


async def _serve(parts: Parts) -> None:
    async with anyio.create_task_group() as group:
        await group.start(_serve_http, parts)  # the addresses are ours before anything else begins
        log.info(
            "daemon_started",
            version=__version__,
            pid=os.getpid(),
            database=str(parts.database.url.render_as_string(hide_password=True)),
            bucket=parts.settings.backend.bucket,
            region=parts.settings.backend.region,
            socket=str(parts.settings.socket),
        )
        bucket = parts.settings.backend.bucket
        notify("READY=1", f"STATUS=standing by for {bucket}, which another daemon owns")
        await own(
            parts.database,
            tenure=parts.tenure,
            holder=parts.holder,
            loops=partial(build_loops, parts),
            vitals=parts.vitals,
            clock=parts.clock,
            on_taken=partial(_watch_commits, parts),
        )


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for number in received:
            log.info("daemon_stopping", signal=signal.Signals(number).name)
            notify("STOPPING=1")
            scope.cancel()


@contextmanager
def single_daemon(directory: Path) -> Iterator[str]:
    """Hold the state directory; a second daemon on it is refused. The kernel lets go whatever ends the process. Yields the place's
    name, the same for every process that ever holds this directory on this host.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "daemon.lock").open("a+")
    except OSError as error:
        message = f"state.directory: {error.filename}: {error.strerror}; give the daemon a folder that it may write to"
        raise ConfigError(message) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"state.directory: another daemon is running on {directory}; stop it, or give this one its own"
            raise ConfigError(message) from None
        number = os.pread(file.fileno(), PLACE_CHARS, 0).decode(errors="replace").strip()
        if not number:
            number = SystemClock().new_id()
            with suppress(OSError):  # a full disk: the next process waits for our lease to end
                os.write(file.fileno(), f"{number}\n".encode())
        yield f"{platform.node()}:{number}"


@asynccontextmanager
async def open_parts(settings: Settings, *, place: str = "here") -> AsyncIterator[Parts]:
    """Open the database (bringing its schema up to date) and the backend's clients. `place`: what this process shares with the
    next one on the same state directory.
    """
    clock = SystemClock()
    chosen = settings.backend
    recorder = CallRecorder(clock)
    async with open_database(settings.database.url, clock=clock) as database:
        prepare = partial(_prepare_schema, database, auto_migrate=settings.database.auto_migrate)
        vitals = await patiently(prepare, clock=clock)
        ensure = partial(
            ensure_backend,
            name=chosen.name,
            region=chosen.region,
            bucket=chosen.bucket,
            subnet=chosen.subnet or None,
            endpoint_url=chosen.endpoint_url or None,
            now_ms=clock.now_ms(),
            place=place,
        )
        owner = await patiently(partial(database.write, ensure), clock=clock)
        tenure = Tenure(chosen.name, clock=clock)
        async with open_backend(
            access_of(settings),
            owner=owner,
            clock=clock,
            recorder=recorder,
            cache_dir=settings.state.directory / "cache",
            permit=tenure.permit,
        ) as backend:
            _tune_collector()
            owned = database.owned(tenure)
            yield Parts(
                settings=settings,
                clock=clock,
                database=database,
                owned=owned,
                tenure=tenure,
                holder=f"{place}/{clock.new_id()}",
                backend=backend,
                owner=owner,
                files=LogFiles(settings.state.directory / "logs"),
                wakes=Wakes(),
                heartbeats=Heartbeats(),
                vitals=vitals,
                catalogue=Catalogue(
                    backend.compute,
                    region=chosen.region,
                    clock=clock,
                    prices_dir=settings.state.directory / "cache",
                ),
                blocks=MarketBlocks(),
                reaper=Reaper(
                    owned,
                    compute=backend.compute,
                    backend=chosen.name,
                    clock=clock,
                    vitals=vitals,
                ),
            )


async def _prepare_schema(database: Database, *, auto_migrate: bool) -> Vitals:
    position = await schema_position(database)
    if auto_migrate or not position.known:
        await upgrade(database)  # refuses a newer schema
    elif not position.up_to_date:
        message = f"the database is at schema {position.current}, this program needs {position.head}: run `dstackd migrate`"
        raise ConfigError(message)
    position = await schema_position(database)
    return Vitals(schema_current=position.current or "", schema_head=position.head)


def access_of(settings: Settings) -> AwsAccess:
    """The backend's section as the adapter takes it."""
    chosen = settings.backend
    images = {
        "x86_64": chosen.images.x86_64,
        "arm64": chosen.images.arm64,
        "x86_64-gpu": chosen.images.gpu,
        "arm64-gpu": "",
    }
    return AwsAccess(
        region=chosen.region,
        bucket=chosen.bucket,
        endpoint_url=chosen.endpoint_url or None,
        access_key_id=chosen.access_key_id.get_secret_value() or None,
        secret_access_key=chosen.secret_access_key.get_secret_value() or None,
        subnet=chosen.subnet or None,
        input_buckets=chosen.input_buckets,
        images={kind: image for kind, image in images.items() if image},
        image_owner=chosen.image_owner,
        image_name=chosen.image_name,
        ec2_limits=settings.ec2_limits.for_pacing(),
    )


async def _watch_commits(parts: Parts) -> None:
    notify(f"STATUS=serving {parts.settings.backend.bucket}")
    await watch_commits(parts.database, wakes=parts.wakes, vitals=parts.vitals, clock=parts.clock)


def _api_calls(recorder: CallRecorder) -> list[ApiCalls]:
    return [
        ApiCalls(
            service=name.partition(":")[0],
            operation=name.partition(":")[2],
            calls=stats.attempts,
            errors=tuple(stats.failures.items()),
            seconds_total=stats.seconds_total,
            last_success_at_ms=stats.last_ok_at_ms,
            last_error_at_ms=stats.last_trouble_at_ms,
            last_error_code=stats.last_trouble_code,
            paced_seconds_total=stats.paced_seconds_total,
            waiting=stats.waiting,
        )
        for name, stats in sorted(recorder.stats.items())
    ]


async def _serve_http(parts: Parts, *, task_status: TaskStatus[Listening]) -> None:
    blocks, clock = parts.blocks, parts.clock
    context = HttpContext(
        database=parts.database,
        vitals=parts.vitals,
        api_calls=lambda: _api_calls(parts.backend.recorder),
        log_files=parts.files,
        bucket=parts.backend.bucket,
        clock=clock,
        version=__version__,
        plan=partial(
            parts.catalogue.view, closed=lambda each: blocks.closed(each, now_ms=clock.now_ms())
        ),
        reaper=parts.reaper,
        insight=_insight(parts),
        limits=parts.settings.limits.for_decisions(),
        distant_logs=DistantLogs(parts.backend.logs, clock=clock),
    )
    await serve(
        context,
        listen=parts.settings.http.listen,
        socket_path=parts.settings.socket,
        task_status=task_status,
    )


def _insight(parts: Parts) -> Insight:
    return Insight(
        catalogue=parts.catalogue,
        blocks=parts.blocks,
        bounds=parts.settings.bounds,
        snapshot=lambda: parts.reaper.last_snapshot,
        heartbeat_ms=lambda instance_id: parts.heartbeats.of(
            instance_id,
            now_ms=parts.clock.now_ms(),
            every_s=parts.settings.loops.heartbeats_s,
        ),
        look_ahead=parts.settings.limits.queue_look_ahead,
    )
