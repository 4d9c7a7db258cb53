"""Play one EC2 instance: `python -S -m dstackd.local.machine DIRECTORY`, started by the cloud.

Law: standard library only and light to import (a launch of eight pays it eight times). The cloud
speaks to it over its standard input, one JSON object a line; it answers on its standard output.
When its input ends, the cloud is gone, and everything on this machine ends at once. It never
outlives its cloud and leaves no process behind.
"""

import base64
import json
import os
import shlex
import signal
import sys
import threading
from typing import Any, NoReturn

from dstackd.local import containers, power, processes
from dstackd.local.imds import MetadataServer
from dstackd.local.power import Power, PowerRequest

_say_lock = threading.Lock()


def main(directory: str) -> None:
    """Play the machine whose first input line is `{facts, environment, grace_s}` until told to end.

    Answers: `ready` (imds_port, group), `exited` (code: of the user-data), `power-off`.
    """
    setup = json.loads(sys.stdin.buffer.readline())
    adopts = processes.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    metadata = MetadataServer(setup["facts"])
    pipe = _furnish(directory)
    script = base64.b64decode(setup["facts"]["user_data"])
    environment = {
        **setup["environment"],
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{metadata.port}",
    }
    group = _start_user_data(directory, script, environment)
    machine = _Machine(
        directory,
        setup["environment"],
        grace_s=setup["grace_s"],
        groups=() if adopts else (group,),
    )
    metadata.start()
    threading.Thread(target=_reap, args=(group,), daemon=True).start()
    threading.Thread(target=machine.obey_power, args=(pipe,), daemon=True).start()
    _say(event="ready", imds_port=metadata.port, group=group)
    try:
        _obey_cloud(machine, metadata)
    finally:
        machine.end(grace_s=0.0)


def _furnish(directory: str) -> str:
    for name in ("bin", "tmp"):
        os.makedirs(f"{directory}/{name}", exist_ok=True)  # noqa: PTH103  pathlib costs 10 ms
    pipe = f"{directory}/power"
    power.install(f"{directory}/bin", pipe=pipe)
    return pipe


def _start_user_data(directory: str, script: bytes, environment: dict[str, str]) -> int:
    """Run the script as cloud-init does, in a session of its own; return its process group."""
    path = f"{directory}/user-data"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(script)
    os.chmod(path, 0o700)  # noqa: PTH101
    first = script.partition(b"\n")[0].decode("utf-8", "replace")
    # The shebang is read here, not by the kernel: the folder may be mounted noexec.
    command = shlex.split(first[2:]) if first.startswith("#!") else ["/bin/sh"]
    player = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_user_data(directory, [*command, path], environment, player)
    return pid


def _become_user_data(
    directory: str, command: list[str], environment: dict[str, str], player: int
) -> NoReturn:
    try:
        os.setsid()
        processes.die_with_parent()
        if os.getppid() != player:  # it died before the kernel was asked
            os._exit(1)
        for signum in (signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        os.chdir(directory)
        console = os.open("console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(console, 1)
        os.dup2(console, 2)
        os.execvpe(command[0], command, environment)  # noqa: S606
    except OSError as error:
        os.write(2, f"user-data cannot run: {command}: {error}\n".encode())
    os._exit(127)


def _reap(user_data_pid: int) -> None:
    """Collect every child, adopted orphans included, until the machine runs no process."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return
        if pid == user_data_pid:
            _say(event="exited", code=os.waitstatus_to_exitcode(status))


def _obey_cloud(machine: "_Machine", metadata: MetadataServer) -> None:
    for line in sys.stdin.buffer:
        order: dict[str, Any] = json.loads(line)
        if order["do"] == "update":
            metadata.update(order["facts"])
        elif order["do"] == "end":
            machine.end(grace_s=order["grace_s"])
            return


class _Machine:
    """The processes of this machine and how they end."""

    def __init__(
        self,
        directory: str,
        environment: dict[str, str],
        *,
        grace_s: float,
        groups: tuple[int, ...],
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._grace_s = grace_s
        self._groups = groups
        self._timer = threading.Timer(0, lambda: None)

    def end(self, *, grace_s: float) -> None:
        own = os.getpid()
        processes.end_processes(
            lambda: processes.descendants(own), groups=self._groups, grace_s=grace_s
        )
        containers.end_container(self._directory, self._environment)

    def obey_power(self, pipe: str) -> None:
        # Opened for writing too, so that reading never ends when the last command exits.
        with open(os.open(pipe, os.O_RDWR), encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                request = power.parse(line)
                if request is not None:
                    self._schedule(request)

    def _schedule(self, request: PowerRequest) -> None:
        self._timer.cancel()
        if request.power is not Power.CANCEL:
            self._timer = threading.Timer(request.delay_s, self._switch, args=(request.power,))
            self._timer.daemon = True
            self._timer.start()

    def _switch(self, wanted: Power) -> None:
        if wanted is not Power.OFF:
            # AWS: "halt" does not end the instance; after a reboot user-data is not run again.
            # Either way the machine stays up with nothing running on it.
            self.end(grace_s=self._grace_s)
            return
        _say(event="power-off")
        self.end(grace_s=self._grace_s)
        os._exit(0)


def _say(**event: object) -> None:
    with _say_lock:
        try:
            os.write(1, json.dumps(event).encode() + b"\n")
        except OSError:
            return  # the cloud is gone; our input has ended too


if __name__ == "__main__":
    main(sys.argv[1])
