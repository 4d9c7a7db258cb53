"""What a runner that was killed had spooled and not sent. Law: sends and reads, writes nothing, ends within its
patience; sending a line twice is harmless, because lines are numbered.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping

from dstackd.runner.batches import Batcher
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import RunnerError
from dstackd.runner.imds import DEFAULT_URL, Imds
from dstackd.runner.logs import LogStream, logs_api
from dstackd.runner.pace import Deadline
from dstackd.runner.power import LOCAL_VARIABLE

PATIENCE_S = 45.0
SEGMENTS = "segments"
_TARGET = "target.json"


def remember(folder: str, *, group: str, stream: str) -> None:
    """Write down where the lines that are spooled in `folder` go."""
    with open(os.path.join(folder, _TARGET), "w", encoding="utf-8") as file:
        json.dump({"group": group, "stream": stream}, file)


def flush(base_dir: str, *, environ: Mapping[str, str], patience_s: float = PATIENCE_S) -> int:
    """Send what is left in the spools below `base_dir`, and say so; how many lines were sent."""
    deadline = Deadline(patience_s)
    imds = Imds(environ.get(LOCAL_VARIABLE) or DEFAULT_URL)
    sent = 0
    try:
        for target in sorted(
            glob.glob(os.path.join(base_dir, "spool*", "**", _TARGET), recursive=True)
        ):
            sent += _flush_one(target, imds=imds, environ=environ, deadline=deadline)
    except (RunnerError, OSError, ValueError, KeyError) as error:
        print(f"dstackd-runner: flush: {error}", flush=True)
    print(f"dstackd-runner: flush: {sent} lines sent", flush=True)
    return sent


def _flush_one(target: str, *, imds: Imds, environ: Mapping[str, str], deadline: Deadline) -> int:
    with open(target, encoding="utf-8") as file:
        place = json.load(file)
    logs = logs_api(
        region=imds.require("meta-data/placement/region"),
        credentials=InstanceCredentials(imds),
        environ=environ,
    )
    stream = LogStream(logs, group=place["group"], stream=place["stream"])
    records = _records(os.path.join(os.path.dirname(target), SEGMENTS))
    batcher = Batcher(lambda: next(records, None))
    sent = 0
    while (batch := batcher.take()).events and deadline.left_s() > 0:
        if not sent:
            stream.create(patience_s=deadline.left_s())
        stream.put_encoded(batch.body, patience_s=deadline.left_s())
        sent += batch.events
    logs.close()
    return sent


def _records(folder: str) -> Iterator[bytes]:
    for path in sorted(glob.glob(os.path.join(folder, "*.log"))):
        with open(path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # else it was cut off by the crash
                    yield line[:-1]
