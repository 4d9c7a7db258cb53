"""Talk to a running local cloud: faults, reclaims, machines, calls.

Law: standard library only and light to import; the CLI, the demo and tests use it.
"""

import http.client
import json
import sys
from collections.abc import Mapping
from typing import Any, TypedDict, cast
from urllib.parse import urlsplit


class MachineView(TypedDict):
    """One machine since the cloud's start; a machine that is gone is still listed."""

    instance_id: str
    state: str
    """EC2's: pending, running, shutting-down, terminated, stopping, stopped."""
    reason: str
    """EC2's StateReason code; empty while it runs."""
    instance_type: str
    zone: str
    market: str
    """`spot` or `on-demand`."""
    launch_index: int
    client_token: str
    tags: dict[str, str]
    access_key: str
    """Of the machine's role credentials."""
    directory: str
    """Its home; console.log is in it."""
    imds_port: int | None
    pid: int | None
    """Of the player; None before the boot delay is over."""
    group: int | None
    """Process group of the user-data."""
    exit_code: int | None
    """Of the user-data; None while it runs."""


class ControlError(Exception):
    """The local cloud refused a control request; the text says why."""


class ControlClient:
    """One method per control request. OSError when the cloud is not there."""

    def __init__(self, endpoint_url: str, *, timeout_s: float = 10.0) -> None:
        parts = urlsplit(endpoint_url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._timeout_s = timeout_s

    def status(self) -> dict[str, Any]:
        """Return pid, directory, and the versions of moto and of the control API."""
        return self._ask("GET", "/local/status")

    def machines(self) -> list[MachineView]:
        """Return all machines since the start, oldest first."""
        return cast("list[MachineView]", self._ask("GET", "/local/machines")["machines"])

    def machine(self, instance_id: str) -> MachineView:
        """Return one machine. KeyError if there is none with this id."""
        for view in self.machines():
            if view["instance_id"] == instance_id:
                return view
        raise KeyError(instance_id)

    def calls(self, *, since: int = 0) -> dict[str, Any]:
        """Return `client` and `machines` (counts by `service:Operation`), `records` and `last`.

        `records` are those numbered above `since`; shape of one: `calls.Call`.
        """
        return self._ask("GET", f"/local/calls?since={since}")

    def counts(self) -> dict[str, dict[str, int]]:
        """Return calls so far by `service:Operation`, for `client` and for `machines`."""
        answer = self.calls(since=sys.maxsize)
        return {"client": answer["client"], "machines": answer["machines"]}

    def faults(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401  see faults.Faults
        """Turn knobs (`faults.Faults`) and return all of them. ControlError on a bad one."""
        return self._ask("POST", "/local/faults", changes)

    def fail(
        self,
        operation: str,
        *,
        code: str = "InternalError",
        status: int = 500,
        message: str = "made to fail",
        times: int = 1,
        executed: bool = False,
    ) -> None:
        """Let the next calls of `service:Operation` fail with an error of AWS's form.

        `status` 0 closes the connection without an answer. With `executed` AWS has done what was
        asked before. `times` 0 forgets what was planned.
        """
        order = {"operation": operation, "code": code, "status": status, "message": message}
        self._ask("POST", "/local/failures", {**order, "times": times, "executed": executed})

    def reclaim(self, instance_id: str, *, notice_s: float = 120.0) -> None:
        """Let EC2 take a spot instance back after `notice_s` seconds of notice."""
        self._ask("POST", "/local/reclaim", {"instance_id": instance_id, "notice_s": notice_s})

    def rebalance(self, instance_id: str) -> None:
        """Show a rebalance recommendation on the machine."""
        self._ask("POST", "/local/rebalance", {"instance_id": instance_id})

    def prices(self, on_demand: Mapping[str, float]) -> None:
        """Set on-demand US dollars an hour by instance type; spot prices follow."""
        self._ask("POST", "/local/prices", dict(on_demand))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ControlError(answer["error"])
        return answer
