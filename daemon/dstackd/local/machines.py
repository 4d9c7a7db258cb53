"""The machines of one local cloud: a player process each, watched by a thread each.

Law: the only place that starts or ends players. Lock order is the cloud's lock, then a machine's;
a machine's lock is held only to write to its player, never while waiting for it.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstackd.local import containers, processes
from dstackd.local.corrections import lifecycle
from dstackd.local.corrections.spot import reclaim
from dstackd.local.corrections.state import CloudState, Launched, tags_of
from dstackd.local.machine_facts import (
    access_key,
    environment,
    loader_environment,
    metadata_facts,
    shown_tags,
)

_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_UNRESPONSIVE_S = 8.0
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Machine:
    launched: Launched
    directory: Path
    access_key: str
    extra_facts: dict[str, Any] = field(default_factory=dict)
    ending: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    process: "subprocess.Popen[bytes] | None" = None
    thread: threading.Thread | None = None
    imds_port: int | None = None
    group: int | None = None
    exit_code: int | None = None
    """Of the user-data; None while it runs."""
    gone: bool = False
    """Its processes are gone, and its thread has said so (or is about to end)."""

    def tell(self, order: Mapping[str, Any]) -> None:
        """Send one order to the player; nothing happens if there is none (the lock is held)."""
        if self.process is None or self.process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()


class MachinePark:
    """Implements `corrections.state.Machines` with processes in `directory`/machines."""

    def __init__(self, state: CloudState, *, directory: Path, endpoint_url: str) -> None:
        self._state = state
        self._directory = directory / "machines"
        self._endpoint_url = endpoint_url
        self._machines: dict[str, _Machine] = {}
        # Held while a player is being started and while remnants are ended, so that a player that
        # was forked but not yet registered is never taken for a remnant.
        self._spawning = threading.Lock()
        self._adopts = processes.adopt_orphans()

    def boot(self, launched: Launched) -> None:
        """Start the machine's thread; it waits for the boot delay and starts the player."""
        machine = _Machine(
            launched=launched,
            directory=self._directory / launched.id,
            access_key=access_key(launched.id),
        )
        self._machines[launched.id] = machine
        machine.thread = threading.Thread(target=self._live, args=(machine,), daemon=True)
        machine.thread.start()

    def end(self, launched: Launched) -> None:
        """Ask the player to end; its thread reports the instance ended."""
        self._end(launched, grace_s=self._state.faults.terminate_grace_s)

    def tags_changed(self, launched: Launched) -> None:
        """Show the new tags in the machine's metadata."""
        machine = self._machines.get(launched.id)
        if machine is not None:
            with machine.lock:
                machine.tell({"do": "update", "facts": {"tags": shown_tags(launched)}})

    def reclaim(self, instance_id: str, *, notice_s: float) -> None:
        """Take a spot instance back. KeyError: unknown instance; ValueError: not spot, or gone."""
        with self._state.lock:
            launched = self._state.instances[instance_id]
            if launched.ends_as:
                raise ValueError(f"{instance_id} is already {launched.state}")
            reclaim(self._state, launched)
            now = self._state.now()
            self._notify(launched, {"reclaim_at": now + notice_s, "rebalance_at": now})
        timer = threading.Timer(notice_s, self._take, args=(launched,))
        timer.daemon = True
        timer.start()

    def rebalance(self, instance_id: str) -> None:
        """Show a rebalance recommendation, the earlier signal. KeyError: unknown instance."""
        with self._state.lock:
            launched = self._state.instances[instance_id]
            self._notify(launched, {"rebalance_at": self._state.now()})

    def principal(self, access_key: str) -> str | None:
        """Return the id of the instance whose role has this access key."""
        for machine in list(self._machines.values()):
            if machine.access_key == access_key:
                return machine.launched.id
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Return every machine since the start, oldest first; shape: `control.MachineView`."""
        return [_view(machine) for machine in list(self._machines.values())]

    def stop(self) -> None:
        """End every machine at once, without grace, and wait until nothing of them is left."""
        machines = list(self._machines.values())
        for machine in machines:
            self._end(machine.launched, grace_s=0.0)
        for machine in machines:
            if machine.thread is not None:
                machine.thread.join(_UNRESPONSIVE_S + 2)

    def _notify(self, launched: Launched, facts: dict[str, Any]) -> None:
        machine = self._machines[launched.id]
        with machine.lock:
            machine.extra_facts.update(facts)
            machine.tell({"do": "update", "facts": facts})

    def _take(self, launched: Launched) -> None:
        lifecycle.go_down(self._state, launched, reason=lifecycle.SPOT, ends_as="terminated")
        self._end(launched, grace_s=0.0)

    def _end(self, launched: Launched, *, grace_s: float) -> None:
        machine = self._machines[launched.id]
        with self._state.lock, machine.lock:
            machine.ending.set()
            machine.tell({"do": "end", "grace_s": grace_s})
            if machine.gone:  # it was stopped before, and no thread watches it any more
                lifecycle.ended(self._state, launched)
            elif machine.process is not None:
                timer = threading.Timer(grace_s + _UNRESPONSIVE_S, machine.process.kill)
                timer.daemon = True
                timer.start()

    def _live(self, machine: _Machine) -> None:
        """One machine from boot to end; whatever goes wrong here is a failed host."""
        try:
            if not machine.ending.wait(self._state.faults.boot_delay_s):
                self._spawn(machine)
            if machine.process is not None and machine.process.stdout is not None:
                for line in machine.process.stdout:
                    self._hear(machine, json.loads(line))
        except (OSError, ValueError):
            _log.exception("the machine of %s failed", machine.launched.id)
        finally:
            if machine.process is not None:
                self._bury(machine, machine.process)
            with self._state.lock:
                lifecycle.failed(self._state, machine.launched)
                lifecycle.ended(self._state, machine.launched)
                machine.gone = True

    def _bury(self, machine: _Machine, process: "subprocess.Popen[bytes]") -> None:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not yet sent is of no use now
                    stream.close()
        try:
            process.wait(_UNRESPONSIVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._end_remnants(machine)
        containers.end_container(str(machine.directory), os.environ)

    def _spawn(self, machine: _Machine) -> None:
        machine.directory.mkdir(parents=True, exist_ok=True)
        with machine.lock, self._spawning:
            if machine.ending.is_set():
                return
            machine.process = subprocess.Popen(
                # -S -P: without site-packages and the current folder, 20 ms instead of 60.
                [sys.executable, "-S", "-P", "-m", "dstackd.local.machine", str(machine.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**loader_environment(), "PYTHONPATH": str(_SOURCE_ROOT)},
                start_new_session=True,
            )
            machine.tell(
                {
                    "facts": {
                        **metadata_facts(machine.launched, machine.access_key),
                        **machine.extra_facts,
                    },
                    "environment": environment(machine.directory, endpoint_url=self._endpoint_url),
                    "grace_s": self._state.faults.terminate_grace_s,
                }
            )

    def _hear(self, machine: _Machine, event: Mapping[str, Any]) -> None:
        launched = machine.launched
        match event["event"]:
            case "ready":
                machine.imds_port, machine.group = event["imds_port"], event["group"]
                lifecycle.started(self._state, launched)
            case "exited":
                machine.exit_code = event["code"]
            case "power-off":
                behaviour = launched.instance.instance_initiated_shutdown_behavior
                ends_as = "terminated" if behaviour == "terminate" else "stopped"
                lifecycle.go_down(self._state, launched, reason=lifecycle.INSTANCE, ends_as=ends_as)
            case _:
                return

    def _end_remnants(self, machine: _Machine) -> None:
        """End what a killed player left. With adoption they are now children of this process."""
        own = os.getpid()
        groups = () if self._adopts or machine.group is None else (machine.group,)
        seen: set[int] = set()
        with self._spawning:
            players = {
                one.process.pid for one in list(self._machines.values()) if one.process is not None
            }

            def find() -> list[int]:
                found = processes.descendants(own, spare=players) if self._adopts else []
                seen.update(found)
                return found

            processes.end_processes(find, groups=groups, grace_s=0.0)
            for pid in seen:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _view(machine: _Machine) -> dict[str, Any]:
    launched = machine.launched
    return {
        "instance_id": launched.id,
        "state": launched.state,
        "reason": launched.instance.state_reason.code,
        "instance_type": launched.instance.instance_type,
        "zone": launched.zone,
        "market": launched.market,
        "launch_index": launched.launch_index,
        "client_token": launched.instance.client_token,
        "tags": dict(tags_of(launched)),
        "access_key": machine.access_key,
        "directory": str(machine.directory),
        "imds_port": machine.imds_port,
        "pid": None if machine.process is None else machine.process.pid,
        "group": machine.group,
        "exit_code": machine.exit_code,
    }
