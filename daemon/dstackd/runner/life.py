"""A machine's life, in order: which job, its attempt, its last word, perhaps another job.

Law: a step that cannot be done raises StageFailed; the machine ends when this returns.
"""

from __future__ import annotations

from dstackd import launch_document, protocol
from dstackd.launch_document import DocumentError, JobDocument, LaunchDocument
from dstackd.runner.attempt import AttemptLife
from dstackd.runner.errors import RunnerError, StageFailed
from dstackd.runner.machine import Machine
from dstackd.runner.reuse import Idling, Place
from dstackd.runner.watchdog import SLACK_S

DOCUMENT_PATIENCE_S = 120.0


def live(machine: Machine) -> None:
    """Job after job, until nobody gives the machine another one. Raises StageFailed."""
    idling = Idling(machine)  # what lies in the runner's folder by now is the runner's own
    place: Place | None = Place(machine.identity.launch_id, machine.identity.launch_index)
    while place is not None:
        document, job = read_job(machine, place)
        lived = AttemptLife(machine, document, job).live()
        # From here on whoever wants the machine to stop means what comes next.
        heard, machine = machine.switch, machine.for_another_job()
        undisturbed = lived.undisturbed and heard.current() is None
        with idling.after(machine, document, job) as idle:
            offer = idle.offer() if undisturbed else ()
            machine.reporter.report(protocol.DONE, *lived.done_fields, *offer)
            place = idle.wait() if offer else None


def read_job(machine: Machine, place: Place) -> tuple[LaunchDocument, JobDocument]:
    """The job at this place. Raises StageFailed."""
    key = protocol.launch_key(place.launch_id)
    try:
        with machine.watchdog.within("document", DOCUMENT_PATIENCE_S + SLACK_S):
            content = machine.bucket.get(key, patience_s=DOCUMENT_PATIENCE_S)
        if content is None:
            raise StageFailed("document", f"{key} is not in the bucket")
        document = launch_document.decode(content)
        return document, launch_document.job_at(document, place.index)
    except (RunnerError, DocumentError) as error:
        if isinstance(error, StageFailed):
            raise
        raise StageFailed("document", str(error)) from error
