"""A real daemon with its default pace for logs, on the cloud on this machine. Law: what is fast here is fast by default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.installation import Installation, installation


@contextmanager
def a_site() -> Iterator[Installation]:
    """Running, until the block ends."""
    with installation() as site:
        config = re.sub(r"(?m)^log(s|_flush)_s = .*\n", "", site.config.read_text())
        site.config.write_text(config)
        site.start_daemon()
        yield site


def log_file(site: Installation, job_id: str) -> Path:
    """The first attempt's lines."""
    return site.folder / "logs" / job_id / "1.jsonl"


def verdict(site: Installation, job_id: str) -> str:
    """What the first attempt says about its log."""
    rows = site.sql("SELECT log_verdict FROM attempt WHERE job_id = ? AND number = 1", job_id)
    return str(rows[0][0]) if rows else ""


def runner_memory_mib(site: Installation) -> float:
    """The most that a runner of this cloud has had in memory; 0 when none runs."""
    most_kib = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            status = (process / "status").read_text()
        except OSError:
            continue
        if "runner.pyz" in command and str(site.cloud.directory) in command:
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            most_kib = max(most_kib, int(found[1]) if found else 0)
    return most_kib / 1024
