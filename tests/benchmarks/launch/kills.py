"""kill -9 at each step of a launch. Law: the moment is made from outside, by what the fake holds back and by the database's lock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.benchmarks.launch.cloud import FakeCloud
from tests.benchmarks.launch.lives import LAUNCH_S, job
from tests.benchmarks.launch.site import QUICK, Site, a_site

SENT_S = 0.3
"""From the fake's answer to its arrival."""
MORE = f"{QUICK}\n[limits]\nbatch_max = 25\n"
"""Four launches for a hundred jobs, so that several are under way when the daemon dies."""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What 100 jobs look like when a second daemon has brought them to their end."""

    duplicates: int
    """Machines beyond one for each job."""
    orphans: int
    """Machines that the database does not know, or that are still there."""
    lost: int
    """Jobs that did not succeed."""


def before_intent(site: Site, insert: Callable[[], object]) -> None:
    """The daemon asks for the image, the last thing it needs for an intent; it never learns it."""
    site.cloud.plan(hold="ec2:DescribeImages")
    insert()
    _die_holding(site, arrive=False)


def before_call(site: Site, insert: Callable[[], object]) -> None:
    """The intent is committed; its document does not reach the bucket."""
    site.cloud.plan(hold="s3:PutObject", hold_key="dstackd/launches/")
    insert()
    _die_holding(site, arrive=False)


def call_sent(site: Site, insert: Callable[[], object]) -> None:
    """RunInstances is on its way, and is carried out when nobody waits for it any more."""
    site.cloud.plan(hold="ec2:RunInstances")
    insert()
    _die_holding(site, arrive=True)


def answer_lost(site: Site, insert: Callable[[], object]) -> None:
    """The machines boot already; the answer does not come."""
    site.cloud.plan(hold="ec2:RunInstances", hold_answer=True)
    insert()
    _die_holding(site, arrive=True)


def answer_not_saved(site: Site, insert: Callable[[], object]) -> None:
    """The answer has come; another writer holds the database while the daemon wants to save it."""
    site.cloud.plan(hold="ec2:RunInstances", hold_answer=True)
    insert()
    site.wait(lambda: site.cloud.held() > 0, "a held call", within_s=LAUNCH_S)
    with _locked(site):
        site.cloud.let_go(arrive=True)
        site.wait_for_call("ec2:RunInstances")
        time.sleep(SENT_S)
        site.kill()


@dataclass(frozen=True, slots=True)
class Step:
    """A moment, and what must be true of it: a kill at another moment would prove nothing."""

    reach: Callable[[Site, Callable[[], object]], None]
    intents: bool
    """Launches without a saved answer are in the database."""
    machines: bool
    """Instances boot."""


STEPS = {
    "before the intent": Step(before_intent, intents=False, machines=False),
    "before the call": Step(before_call, intents=True, machines=False),
    "call sent": Step(call_sent, intents=True, machines=True),
    "answer lost": Step(answer_lost, intents=True, machines=True),
    "answer not saved": Step(answer_not_saved, intents=True, machines=True),
}


def kill_at(step: str, *, jobs: int, **plan: object) -> Aftermath:
    """Kill the daemon at the step, start another one, and wait for every job's end. `plan`: fields of `plan.Plan`."""
    machines = {"boot_s": 2, "boot_spread_s": 1, "run_s": 6, "shutdown_s": 1}
    with a_site(more=MORE, **(machines | plan)) as site:
        STEPS[step].reach(site, lambda: site.insert([job()] * jobs))
        site.cloud.plan(hold="", hold_answer=False, hold_key="")
        _check_moment(site, STEPS[step])
        site.start()
        site.wait_for_end(within_s=LAUNCH_S)
        _wait_until_gone(site.cloud, site)
        return _aftermath(site, jobs)


def _check_moment(site: Site, step: Step) -> None:
    intents = bool(site.sql("SELECT 1 FROM launch WHERE state = 'intended' LIMIT 1"))
    machines = bool(site.cloud.machines())
    if (intents, machines) != (step.intents, step.machines):
        message = f"killed at another moment: intents {intents}, machines {machines}; {step}"
        raise RuntimeError(message)


def _die_holding(site: Site, *, arrive: bool) -> None:
    site.wait(lambda: site.cloud.held() > 0, "a held call", within_s=LAUNCH_S)
    site.kill()
    site.cloud.let_go(arrive=arrive)


@contextlib.contextmanager
def _locked(site: Site) -> Iterator[None]:
    with site.database() as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def _wait_until_gone(cloud: FakeCloud, site: Site) -> None:
    with contextlib.suppress(TimeoutError):  # what stays is counted as an orphan
        site.wait(
            lambda: all(one.state == "terminated" for one in cloud.machines()),
            "every machine's end",
            within_s=20,
        )


def _aftermath(site: Site, jobs: int) -> Aftermath:
    machines = site.cloud.machines()
    known = {row[0] for row in site.sql("SELECT instance_id FROM attempt")}
    return Aftermath(
        duplicates=max(len(machines) - jobs, 0),
        orphans=sum(one.instance_id not in known or one.state != "terminated" for one in machines),
        lost=jobs - site.phases()["succeeded"],
    )
