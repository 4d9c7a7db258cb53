"""Two daemons for one backend: the same queue and cloud, each with a state directory, an address and a log of its own."""

from __future__ import annotations

import copy
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.end_to_end.installation import Installation, _free_port, installation, wait_until


def second_of(site: Installation) -> Installation:
    """Another daemon's place beside that of `site`; nothing runs there yet."""
    other = copy.copy(site)
    other.folder, other.port, other.daemon = site.folder / "2", _free_port(), None
    other.folder.mkdir()
    other.config = other.folder / "dstackd.toml"
    text = site.config.read_text().replace(f":{site.port}", f":{other.port}")
    other.config.write_text(
        text.replace(f'directory = "{site.folder}"', f'directory = "{other.folder}"')
    )
    return other


@contextmanager
def a_pair() -> Iterator[tuple[Installation, Installation]]:
    """Neither runs yet."""
    with installation() as one, second_of(one) as other:
        yield one, other


def lease_of(site: Installation) -> str:
    """`owner` or `standby`, as the daemon's health page says; empty when it does not answer."""
    status, body = site.get("/healthz")
    return str(json.loads(body)["checks"]["backend:lease"][0]["observedValue"]) if status else ""


def is_standby(site: Installation) -> bool:
    """Whether the daemon there waits for the backend."""
    return lease_of(site) == "standby"


def serves(site: Installation) -> bool:
    """Whether the daemon there owns the backend and knows what runs."""
    return site.get("/readyz")[0] == 200


def start_standby(site: Installation) -> None:
    """Start the second of two."""
    site.daemon = site.spawn_daemon()
    wait_until(lambda: is_standby(site), what=lambda: f"a standby; {site.log()[-2000:]}")


def strike(site: Installation, number: signal.Signals) -> None:
    """Send a signal to the daemon there; a kill is waited for."""
    assert site.daemon is not None
    site.daemon.send_signal(number)
    if number is signal.SIGKILL:
        site.daemon.wait()


def takeover_s(struck_at_s: float, follower: Installation, *, within_s: float = 40.0) -> float:
    """Seconds from the strike until the follower serves."""
    wait_until(
        lambda: serves(follower),
        what=lambda: f"a takeover; {follower.log()[-3000:]}",
        within_s=within_s,
    )
    return time.monotonic() - struck_at_s


def stop(site: Installation) -> None:
    """SIGSTOP, but not inside a transaction: SQLite's lock would be held for everybody, applications included."""
    while True:
        strike(site, signal.SIGSTOP)
        try:
            site.sql("UPDATE launch SET count = count WHERE id = ''")
        except sqlite3.OperationalError:
            strike(site, signal.SIGCONT)
        else:
            return


def counted_job(site: Installation) -> dict[str, object]:
    """A short job that leaves a mark, and another one if it ever runs again."""
    ran = f"{site.folder}/ran-$DSTACKD_JOB_ID"
    return {"commands": [f"mkdir {ran} || touch {site.folder}/twice", "sleep 0.5"]}


def doubled(site: Installation, jobs: int) -> int:
    """Jobs that ran twice, and machines that nobody needed: each of these jobs needs one."""
    twice = (site.folder / "twice").exists()
    return twice + abs(len(site.cloud.control.machines()) - jobs)
