"""One job that writes as fast as it can: through a runner alone, and all the way into the daemon's file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from tests.benchmarks.logs.site import a_site, log_file, runner_memory_mib, verdict
from tests.runner.loopback import cloudwatch

_WRITE = (
    "import sys, time; began = time.monotonic()\n"
    "for n in range({count}): print('line %07d of a job that has a lot to say' % n)\n"
    "sys.stdout.flush(); print('%.3f' % (time.monotonic() - began), file=sys.stderr)"
)
DEADLINE_S = 200.0


@dataclass(frozen=True, slots=True)
class Written:
    """A run: how fast the runner took the lines, what it needed, and what arrived."""

    lines_a_second: float
    memory_mib: float
    in_order: bool = True
    verdict: str = ""
    seconds: float = 0.0


_RUNNER = """
import resource, subprocess, sys, time
from dstackd.runner.aws import AwsApi
from dstackd.runner.job_log import STDOUT
from dstackd.runner.journal import Journal
from dstackd.runner.shipper import start_log
from tests.runner.loopback import credentials

url, folder, program = sys.argv[1:]
api = AwsApi("logs", url=url, region="us-east-1", credentials=credentials())
log, shipper = start_log(folder, logs=api, group="g", stream="s", flush_s=0.5, journal=Journal())
began = time.monotonic()
with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=2) as job:
    while chunk := job.stdout.read1(65536):
        log.feed(STDOUT, chunk)
log.close()
took_s = time.monotonic() - began
all_sent = shipper.finish(patience_s=120)
memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(log.lines / took_s, memory_kib / 1024, int(all_sent))
"""


def runner_alone(count: int) -> Written:
    """Against a CloudWatch that answers at once, with the writing job beside it."""
    with cloudwatch() as server, tempfile.TemporaryDirectory() as folder:
        program = _WRITE.format(count=count)
        command = [sys.executable, "-c", _RUNNER, server.url, f"{folder}/spool", program]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        numbers = [json.loads(message)["n"] for message in server.streams["s"]]
    speed, memory_mib, all_sent = (float(figure) for figure in done.stdout.split()[-3:])
    return Written(speed, memory_mib, in_order=bool(all_sent) and numbers == [*range(1, count + 1)])


def whole_way(count: int) -> Written:
    """A real job on the cloud on this machine, until the daemon has said whether its log is complete."""
    with a_site() as site:
        program = _WRITE.format(count=count)
        job_id = site.insert({"commands": [f'python3 -c "{program}"']})
        began_s, memory_mib = time.monotonic(), 0.0
        while not verdict(site, job_id).startswith("complete"):
            memory_mib = max(memory_mib, runner_memory_mib(site))
            if time.monotonic() > began_s + DEADLINE_S:
                break
            time.sleep(0.2)
        seconds = time.monotonic() - began_s
        texts: list[str] = []
        with log_file(site, job_id).open("rb") as file:
            texts.extend(json.loads(line).get("log", "") for line in file)
        took_s = next((float(text) for text in texts if not text.startswith("line")), float("inf"))
        wanted = [f"line {n:07d} of a job that has a lot to say" for n in range(count)]
        return Written(
            lines_a_second=count / took_s,
            memory_mib=memory_mib,
            in_order=[text for text in texts if text.startswith("line")] == wanted,
            verdict=verdict(site, job_id),
            seconds=seconds,
        )
