"""Entry of the zipapp. Law: whatever happens, the machine is told to end.

Exit code 0: the daemon has been told how it went. Anything else is for the script around it, which
reports and powers off in its turn.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

from dstackd import protocol
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import StageFailed
from dstackd.runner.identity import read_identity
from dstackd.runner.imds import DEFAULT_URL, Imds
from dstackd.runner.inbox import Reporter, fitting
from dstackd.runner.journal import Journal
from dstackd.runner.life import Machine, live
from dstackd.runner.logs import LogStream, logs_api
from dstackd.runner.power import LOCAL_VARIABLE, power_off
from dstackd.runner.s3 import Bucket, s3_endpoint
from dstackd.runner.stopping import INTERRUPTED, StopSwitch

REPORT_PATIENCE_S = 120.0
GOING_DOWN_GRACE_S = 15.0
"""When the machine itself is being shut down: well below systemd's 90 s for a unit."""


def main() -> NoReturn:
    """Live one machine's life and end the machine."""
    # The folder of the zipapp is the runner's own.
    base_dir = os.path.dirname(os.path.abspath(sys.argv[0]))
    code = 1
    try:
        code = run(base_dir, environ=os.environ)
    except BaseException:  # noqa: BLE001 - the last line of defence, and the process ends
        traceback.print_exc()
    finally:
        power_off(os.environ)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: that waits for threads that may be stuck in an upload.
        os._exit(code)


def run(base_dir: str, *, environ: Mapping[str, str]) -> int:
    """The exit code. Raises only when the daemon could not be told."""
    switch = StopSwitch()
    _obey_signals(switch)
    machine = _machine(base_dir, environ=environ, switch=switch)
    machine.reporter.start()
    try:
        live(machine)
    except StageFailed as failed:
        _report_failure(machine, failed)
    except Exception as error:  # noqa: BLE001 - reported, and the machine ends
        traceback.print_exc()
        _report_failure(machine, StageFailed("internal", repr(error)))
    told = machine.reporter.close(patience_s=REPORT_PATIENCE_S)
    machine.journal.ship(machine.journal_stream)
    for connected in (machine.bucket, machine.logs, machine.imds):
        connected.close()
    return 0 if told else 1


def _report_failure(machine: Machine, failed: StageFailed) -> None:
    machine.reporter.report(protocol.FAILED, failed.stage, fitting(failed.message))


def _machine(base_dir: str, *, environ: Mapping[str, str], switch: StopSwitch) -> Machine:
    imds = Imds(environ.get(LOCAL_VARIABLE) or DEFAULT_URL)
    identity = read_identity(imds)
    credentials = InstanceCredentials(imds)
    bucket = Bucket(
        identity.bucket,
        region=identity.region,
        credentials=credentials,
        endpoint_url=s3_endpoint(environ),
    )
    logs = logs_api(region=identity.region, credentials=credentials, environ=environ)
    journal = Journal()
    return Machine(
        identity=identity,
        imds=imds,
        bucket=bucket,
        logs=logs,
        journal=journal,
        journal_stream=LogStream(
            logs,
            group=protocol.runner_log_group(identity.bucket),
            stream=identity.instance_id,
        ),
        reporter=Reporter(bucket, instance_id=identity.instance_id, journal=journal),
        switch=switch,
        base_dir=base_dir,
        environ=environ,
    )


def _obey_signals(switch: StopSwitch) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # In a thread: the handler runs between two lines of the main thread, which may hold the
        # switch's lock.
        threading.Thread(
            target=switch.order, args=(INTERRUPTED,), kwargs={"grace_s": GOING_DOWN_GRACE_S}
        ).start()

    signal.signal(signal.SIGTERM, stop)
