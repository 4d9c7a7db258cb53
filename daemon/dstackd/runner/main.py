"""Entry of the zipapp. Law: whatever happens, the machine is told to end.

Exit code 0: the daemon has been told how it went. Anything else is for the script around it, which
reports and powers off in its turn.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import MutableMapping
from typing import NoReturn

from dstackd import protocol
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import StageFailed
from dstackd.runner.flush import flush
from dstackd.runner.identity import read_identity
from dstackd.runner.imds import DEFAULT_URL, Imds
from dstackd.runner.inbox import Reporter, fitting
from dstackd.runner.journal import Journal
from dstackd.runner.life import live
from dstackd.runner.logs import LogStream, logs_api
from dstackd.runner.machine import Machine
from dstackd.runner.power import LOCAL_VARIABLE, power_off
from dstackd.runner.s3 import Bucket, s3_endpoint
from dstackd.runner.secrets import secrets_api
from dstackd.runner.stopping import StopSwitch, obey_signals
from dstackd.runner.watchdog import Watchdog

REPORT_PATIENCE_S = 120.0
END_S = 600.0
"""From the last job's end to that of the process: more than all of its bounded waits."""


def main() -> NoReturn:
    """Live one machine's life and end the machine; or, called with `flush`, send what a runner that died has
    left in its spool, and do nothing else.
    """
    # The folder of the zipapp is the runner's own.
    base_dir = os.path.dirname(os.path.abspath(sys.argv[0]))
    if sys.argv[1:] == ["flush"]:
        flush(base_dir, environ=os.environ)
        sys.stdout.flush()
        os._exit(0)
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


def run(base_dir: str, *, environ: MutableMapping[str, str]) -> int:
    """The exit code. Raises only when the daemon could not be told."""
    watchdog = Watchdog(environ)
    watchdog.start()
    switch = StopSwitch()
    obey_signals(switch)
    machine = _machine(base_dir, environ=environ, switch=switch, watchdog=watchdog)
    machine.reporter.start()
    try:
        live(machine)
    except StageFailed as failed:
        _report_failure(machine, failed)
    except Exception as error:  # noqa: BLE001 - reported, and the machine ends
        traceback.print_exc()
        _report_failure(machine, StageFailed("internal", repr(error)))
    watchdog.expect("end", within_s=END_S)
    told = machine.reporter.close(patience_s=REPORT_PATIENCE_S)
    machine.journal.ship(machine.journal_stream)
    machine.close()
    return 0 if told else 1


def _report_failure(machine: Machine, failed: StageFailed) -> None:
    final = (protocol.FINAL,) if failed.final else ()
    machine.reporter.report(protocol.FAILED, failed.stage, fitting(failed.message), *final)


def _machine(
    base_dir: str, *, environ: MutableMapping[str, str], switch: StopSwitch, watchdog: Watchdog
) -> Machine:
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
        credentials=credentials,
        bucket=bucket,
        logs=logs,
        secrets=secrets_api(region=identity.region, credentials=credentials, environ=environ),
        journal=journal,
        journal_stream=LogStream(
            logs,
            group=protocol.runner_log_group(identity.bucket),
            stream=identity.instance_id,
        ),
        reporter=Reporter(bucket, instance_id=identity.instance_id, journal=journal),
        switch=switch,
        watchdog=watchdog,
        base_dir=base_dir,
        environ=environ,
    )
