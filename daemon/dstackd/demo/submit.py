"""Rows inserted by another process. Law: that process has Python's sqlite3 and nothing of dstackd."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from dstackd.demo.environment import outside_environment
from dstackd.demo.errors import DemoError
from dstackd.demo.jobs import Spec
from dstackd.demo.places import Places

INSERT: Final = "INSERT INTO job (spec) VALUES (?) RETURNING id"
_TIMEOUT_S: Final = 30.0

SCRIPT: Final = f'''\
"""Submits jobs to dstackd: python submit.py QUEUE.DB JOBS.JSONL (one spec a line)."""

import sqlite3
import sys

queue = sqlite3.connect(sys.argv[1], timeout=10)
with open(sys.argv[2]) as specs, queue:  # one transaction for all of them
    for spec in specs:
        row = queue.execute("{INSERT}", (spec,)).fetchone()
        print(row[0])
'''


def insert_jobs(places: Places, specs: Mapping[str, Spec]) -> dict[str, str]:
    """Write the script and the specs, run it, and return the jobs' ids by name. Raises DemoError."""
    places.submit_script.write_text(SCRIPT, encoding="ascii")
    lines = [json.dumps(spec) for spec in specs.values()]
    places.specs.write_text("\n".join(lines) + "\n", encoding="ascii")
    command = [sys.executable, "-I", *map(str, _arguments(places))]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        env=outside_environment(),
    )
    ids = done.stdout.split()
    if done.returncode != 0 or len(ids) != len(specs):
        raise DemoError(f"submit.py failed: {done.stderr.strip() or done.stdout.strip()}")
    return dict(zip(specs, ids, strict=True))


def _arguments(places: Places) -> tuple[object, ...]:
    return places.submit_script, places.database, places.specs
