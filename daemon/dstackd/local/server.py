"""Put one local cloud together in this process and serve it until told to stop.

Law: the composition root of the cloud's own process; nobody else imports it (moto's import takes
a second and patches are for the whole process).
"""

import logging
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from dstackd.local import corrections
from dstackd.local.calls import CallLog
from dstackd.local.corrections.state import CloudState
from dstackd.local.failures import Failures
from dstackd.local.faults import Faults
from dstackd.local.gateway import Gateway, Route
from dstackd.local.machines import MachinePark

API_VERSION = 1
_POLL_S = 0.05


def serve(
    directory: Path,
    *,
    port: int,
    faults: Faults,
    prices: Mapping[str, float],
    until_input_ends: bool,
) -> None:
    """Serve on 127.0.0.1:`port` (0: any free one); print one line, `endpoint_url URL`, when ready.

    Returns after SIGTERM or SIGINT, or when standard input ends if `until_input_ends`; no machine
    is left then.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _log_to(directory / "cloud.log")
    state = CloudState(faults=faults, prices=dict(prices))
    corrections.install(state)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    server, park = _listen(state, directory, port)
    threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True).start()
    print(f"endpoint_url http://127.0.0.1:{server.port}", flush=True)  # noqa: T201
    if until_input_ends:
        threading.Thread(target=_watch_input, args=(stop,), daemon=True).start()
    stop.wait()
    server.shutdown()
    park.stop()


def _listen(state: CloudState, directory: Path, port: int) -> tuple[BaseWSGIServer, MachinePark]:
    """Bind first: machines are told the address, and the park must exist before a request."""
    server = make_server(
        "127.0.0.1", port, _refuse, threaded=True, request_handler=MotoRequestHandler
    )
    endpoint_url = f"http://127.0.0.1:{server.port}"
    park = MachinePark(state, directory=directory, endpoint_url=endpoint_url)
    state.machines = park
    calls = CallLog(principal=park.principal, tags=lambda one: _tags(state, one), now=state.now)
    failures = Failures()
    server.app = Gateway(
        DomainDispatcherApplication(create_backend_app),
        calls=calls,
        failures=failures,
        routes=_routes(state, park, calls, failures, directory),
    )
    return server, park


def _refuse(*_: object) -> list[bytes]:
    raise RuntimeError("a request came before the cloud was put together")


def _routes(
    state: CloudState, park: MachinePark, calls: CallLog, failures: Failures, directory: Path
) -> dict[tuple[str, str], Route]:
    def status(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "api_version": API_VERSION,
            "directory": str(directory),
            "moto_version": corrections.MOTO_VERSION,
        }

    def turn(changes: Mapping[str, Any]) -> Mapping[str, Any]:
        with state.lock:
            state.faults = state.faults.merged(changes)
        return asdict(state.faults)

    def reclaim(order: Mapping[str, Any]) -> Mapping[str, Any]:
        park.reclaim(order["instance_id"], notice_s=float(order.get("notice_s", 120.0)))
        return {}

    def rebalance(order: Mapping[str, Any]) -> Mapping[str, Any]:
        park.rebalance(order["instance_id"])
        return {}

    def fail(order: Mapping[str, Any]) -> Mapping[str, Any]:
        failures.plan(order)
        return {}

    def price(figures: Mapping[str, Any]) -> Mapping[str, Any]:
        state.prices.update({name: float(figure) for name, figure in figures.items()})
        return {}

    return {
        ("GET", "status"): status,
        ("GET", "machines"): lambda _: {"machines": park.describe()},
        ("GET", "calls"): lambda asked: calls.report(since=int(asked.get("since", 0))),
        ("GET", "faults"): lambda _: asdict(state.faults),
        ("POST", "faults"): turn,
        ("POST", "failures"): fail,
        ("POST", "reclaim"): reclaim,
        ("POST", "rebalance"): rebalance,
        ("POST", "prices"): price,
    }


def _tags(state: CloudState, resource_id: str) -> Mapping[str, str]:
    with state.lock:
        launched = (
            state.instances.get(resource_id)
            or state.requests.get(resource_id)
            or state.waiting.get(resource_id)
        )
        return dict(launched.backend.tags.get(resource_id, {})) if launched else {}


def _watch_input(stop: threading.Event) -> None:
    # Not through sys.stdin: its lock would be held by this thread when the interpreter ends.
    while os.read(0, 4096):
        pass
    stop.set()


def _log_to(path: Path) -> None:
    logging.basicConfig(
        filename=path, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", force=True
    )
    logging.captureWarnings(capture=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line per request
