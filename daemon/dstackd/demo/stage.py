"""A cloud, a bucket and a daemon for one demo. Law: whatever ends the demo, nothing that it started is left."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

from dstackd.demo.bucket import create_bucket
from dstackd.demo.config_file import BUCKET, config_text
from dstackd.demo.daemon_process import DaemonProcess
from dstackd.demo.places import Places
from dstackd.demo.texts import write_texts
from dstackd.local.cloud import LocalCloud, start_local_cloud

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal has asked for the end; like KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass(frozen=True, slots=True)
class Stage:
    """What the jobs play on."""

    cloud: LocalCloud
    daemon: DaemonProcess
    calls_since: int
    """The last AWS call before the daemon was started."""


@contextmanager
def set_up(places: Places, *, say: Callable[[str], None]) -> Iterator[Stage]:
    """Everything running and ready; ended when the context ends. `say` is told each step."""
    with ExitStack() as cleanup:
        say("starting the cloud on this machine…")
        cloud = start_local_cloud(places.cloud)
        cleanup.callback(cloud.stop)
        create_bucket(cloud.endpoint_url)
        write_texts(places.texts)
        text = config_text(places, endpoint_url=cloud.endpoint_url)
        places.config.write_text(text, encoding="utf-8")
        say(f"it answers at {cloud.endpoint_url}; made the bucket {BUCKET}")
        say(f"starting the daemon: dstackd run --config {places.config}")
        calls_since = int(cloud.control.calls(since=0)["last"])
        daemon = DaemonProcess(places)
        cleanup.callback(daemon.stop)
        daemon.start()
        daemon.wait_ready()
        say("the daemon is ready")
        cleanup.callback(say, "ending the daemon, the cloud and its machines")
        yield Stage(cloud, daemon, calls_since)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raise Ended in this thread on Ctrl-C, SIGTERM and a closed terminal: the first one only."""
    before = {number: signal.getsignal(number) for number in _ENDING}

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        ignore_signals()  # cleaning up is bounded, and a second Ctrl-C would leave machines behind
        raise Ended(number)

    for number in _ENDING:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def ignore_signals() -> None:
    """Finish what is being done, whoever asks for the end."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
