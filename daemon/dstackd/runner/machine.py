"""What every step on this machine needs. Law: made once, by main; holds no job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.identity import Identity
from dstackd.runner.imds import Imds
from dstackd.runner.inbox import Reporter
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.s3 import Bucket
from dstackd.runner.stopping import StopSwitch, obey_signals
from dstackd.runner.watchdog import Watchdog


@dataclass(frozen=True)
class Machine:
    """This machine, and its ways to AWS."""

    identity: Identity
    imds: Imds
    credentials: InstanceCredentials
    bucket: Bucket
    logs: AwsApi
    secrets: AwsApi
    journal: Journal
    journal_stream: LogStream
    reporter: Reporter
    switch: StopSwitch
    watchdog: Watchdog
    base_dir: str
    environ: Mapping[str, str]

    @property
    def job_dir(self) -> str:
        """The job's folder; DSTACKD_JOB_DIR for the job."""
        return os.path.join(self.base_dir, "job")

    def for_another_job(self) -> Machine:
        """The same machine with a fresh switch, which signals turn from now on: what stopped one job does not
        stop the next. In the main thread only.
        """
        switch = StopSwitch()
        obey_signals(switch)
        return replace(self, switch=switch)

    def close(self) -> None:
        """Close what is connected."""
        for connected in (self.bucket, self.logs, self.secrets, self.imds):
            connected.close()
