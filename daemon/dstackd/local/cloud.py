"""Start and stop a local cloud in a process of its own.

Law: standard library only; never imports moto, so it is cheap for whoever starts a cloud. The
cloud ends when its starter does, however that happens.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dstackd.local.control import ControlClient

_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_READY = "endpoint_url "


class LocalCloudError(Exception):
    """The local cloud did not start; the text holds what it said last."""


class LocalCloud:
    """A running local cloud; a context manager that stops it."""

    def __init__(
        self, process: "subprocess.Popen[str]", endpoint_url: str, directory: Path
    ) -> None:
        self._process = process
        self.endpoint_url = endpoint_url
        self.directory = directory
        self.control = ControlClient(endpoint_url)

    @property
    def pid(self) -> int:
        """Of the cloud's process."""
        return self._process.pid

    def stop(self, *, timeout_s: float = 15.0) -> None:
        """End the cloud and every machine in it; calling it again does nothing."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()  # players see their input end and end their machines
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_local_cloud(
    directory: Path,
    *,
    port: int = 0,
    faults: Mapping[str, Any] | None = None,
    prices: Path | None = None,
    timeout_s: float = 60.0,
) -> LocalCloud:
    """Start a cloud that keeps its machines and its log in `directory`, and wait until it serves.

    `faults`: knobs of `faults.Faults`. `prices`: JSON file of on-demand US dollars an hour by
    instance type. LocalCloudError if it ends or says nothing within `timeout_s`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dstackd.local", "--until-input-ends"]
    command += ["--port", str(port), "--directory", str(directory)]
    command += ["--faults", json.dumps(dict(faults or {}))]
    if prices is not None:
        command += ["--prices", str(prices)]
    log_path = directory / "cloud.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # A session of its own: Ctrl-C in the terminal must reach the starter, not the cloud.
            start_new_session=True,
            env=_environment(),
        )
    line = _first_line(process, timeout_s)
    cloud = LocalCloud(process, line.removeprefix(_READY).strip(), directory)
    if not line.startswith(_READY):
        cloud.stop()
        tail = log_path.read_text(errors="replace")[-2000:]
        raise LocalCloudError(f"the local cloud did not start: {line}{tail}")
    return cloud


def _first_line(process: "subprocess.Popen[str]", timeout_s: float) -> str:
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        return "" if process.stdout is None else process.stdout.readline()
    finally:
        timer.cancel()


def _environment() -> dict[str, str]:
    """Leave the caller's AWS settings out: a proxy or a profile is nothing for a cloud."""
    kept = {
        name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))
    }
    path = [str(_SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}
