"""The daemon is dead and stays dead: no machine runs on, and nothing that a job wrote is lost."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import pytest

from dstackd import artifact_manifest, protocol
from tests.end_to_end.hostility import sealed, wait_until_gone
from tests.end_to_end.installation import BUCKET, Installation, installation, wait_until

JOBS = 20
LINES = 5
WRITES = f"for i in $(seq {LINES}); do echo line $i; done; echo result > out"
ENDS = {"commands": [WRITES], "artifacts": ["out"]}
ENDLESS = {"commands": [WRITES, "sleep 3600"], "artifacts": ["out"], "max_duration": "3s"}


@pytest.mark.timeout(120)
def test_twenty_machines_end_without_a_daemon() -> None:
    """The daemon is killed as soon as EC2 has the machines: each runs its job, seals it, sends its lines, and ends itself, those whose
    job would go on for ever at their max_duration.
    """
    with installation() as site:
        site.start_daemon()
        job_ids = [site.insert(ENDLESS if number % 4 == 0 else ENDS) for number in range(JOBS)]
        wait_until(
            lambda: len(site.cloud.control.machines()) == JOBS,
            what=lambda: f"{JOBS} machines; {site.log()[-2000:]}",
        )
        site.end_daemon(signal.SIGKILL)
        wait_until_gone(site)

        assert lines_of(site) == Counter(dict.fromkeys(job_ids, LINES))
        for job_id in job_ids:
            manifest = sealed(site, job_id)
            assert manifest.verdict == artifact_manifest.COMPLETE
            assert [file.path for file in manifest.files] == ["out"]
        causes = Counter(event.fields[1] for event in inbox(site) if event.kind == protocol.EXITED)
        assert causes == {"exit": JOBS * 3 // 4, "timed_out": JOBS // 4}


def lines_of(site: Installation) -> Counter[str]:
    """Different lines in CloudWatch, by job."""
    pages: Any = site.client("logs").get_paginator("filter_log_events")
    seen = {
        (event["logStreamName"], line.n)
        for page in pages.paginate(logGroupName=protocol.job_log_group(BUCKET))
        for event in page["events"]
        if (line := protocol.decode_log_line(event["message"])) is not None
    }
    return Counter(stream.partition("/")[0] for stream, _ in seen)


def inbox(site: Installation) -> list[protocol.InboxEvent]:
    """What the machines have said since the daemon's death."""
    pages = site.client("s3").get_paginator("list_objects_v2")
    events = [
        protocol.decode_inbox_key(entry["Key"])
        for page in pages.paginate(Bucket=BUCKET, Prefix=protocol.INBOX_PREFIX)
        for entry in page.get("Contents", ())
    ]
    return [event for event in events if event is not None]
