"""How an instance's state moves, with EC2's state reasons and spot status codes.

Law: the only writer of instance states. The first reason to go down wins; every change happens
under the lock. AWS: "Instance lifecycle", "Spot request status", StateReason in the API reference.
"""

from datetime import UTC, datetime
from typing import Any

from moto.ec2.models.instances import Instance, StateReason

from dstackd.local.corrections.state import CloudState, Launched, SpotRequest

_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
USER = "Client.UserInitiatedShutdown"
INSTANCE = "Client.InstanceInitiatedShutdown"
SPOT = "Server.SpotInstanceTermination"
INTERNAL = "Server.InternalError"

_MESSAGES = {
    USER: "User initiated shutdown",
    INSTANCE: "Instance initiated shutdown",
    SPOT: "Spot instance termination",
    INTERNAL: "Internal error",
}
# The code for an internal error is a guess: AWS documents none for a failed host.
_SPOT_CODES = {
    USER: "instance-terminated-by-user",
    INSTANCE: "instance-terminated-by-user",
    SPOT: "instance-terminated-no-capacity",
    INTERNAL: "instance-terminated-by-service",
}

_terminate_in_moto = Instance.terminate


def started(state: CloudState, launched: Launched) -> None:
    """The machine runs: pending -> running."""
    with state.lock:
        if launched.state == "pending":
            _set(launched, "running")


def go_down(state: CloudState, launched: Launched, *, reason: str, ends_as: str) -> None:
    """Begin to end: -> shutting-down (or stopping). Does nothing if already on its way or gone."""
    with state.lock:
        if launched.ends_as == "terminated" or (launched.ends_as and ends_as == "stopped"):
            return
        launched.ends_as = ends_as
        _set(launched, "shutting-down" if ends_as == "terminated" else "stopping")
        _explain(launched, reason)
        if launched.spot is not None and ends_as == "terminated":
            close(state, launched.spot, code=_SPOT_CODES[reason])


def failed(state: CloudState, launched: Launched) -> None:
    """The machine is gone without having been asked to go: its host failed."""
    with state.lock:
        if not launched.ends_as:
            go_down(state, launched, reason=INTERNAL, ends_as="terminated")


def ended(state: CloudState, launched: Launched) -> None:
    """No process of the machine is left: -> terminated (or stopped)."""
    with state.lock:
        if launched.ends_as == "terminated" and launched.state != "terminated":
            # moto frees volumes and network interfaces, and writes its own state and reason.
            reason = launched.instance.state_reason, launched.instance._reason
            _terminate_in_moto(launched.instance)
            launched.instance.state_reason, launched.instance._reason = reason
            launched.ended_at = state.now()
        _set(launched, launched.ends_as)


def close(state: CloudState, request: SpotRequest, *, code: str) -> None:
    """End a spot request: `cancelled` stays; anything else becomes `closed`."""
    if request.state == "closed":
        return
    request.code = code
    request.updated_at = state.now()
    if request.state != "cancelled":
        request.state = "closed"
        request.ended_at = request.updated_at


def _set(launched: Launched, name: str) -> None:
    launched.instance._state.name = name
    launched.instance._state.code = _CODES[name]


def _explain(launched: Launched, reason: str) -> None:
    instance: Any = launched.instance
    instance.state_reason = StateReason(f"{reason}: {_MESSAGES[reason]}", reason)
    stamp = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
    instance._reason = {USER: f"User initiated ({stamp})", INSTANCE: ""}.get(reason, reason)
