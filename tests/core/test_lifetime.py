"""How long a machine may exist without a daemon."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.lifetime import lifetime_s
from dstackd.core.limits import Limits
from dstackd.spec.model import JobSpec
from tests.builders import SPEC

SPECS = st.builds(
    lambda duration_s, grace_s, reuse_s: replace(
        SPEC, max_duration_s=duration_s, stop_grace_s=grace_s, reuse_s=reuse_s
    ),
    st.none() | st.integers(1, 10**7),
    st.integers(0, 600),
    st.none() | st.integers(1, 3600),
)
BATCHES = st.lists(SPECS, min_size=1, max_size=5)
LIMITS = st.builds(
    Limits,
    boot_timeout_s=st.floats(1, 7200),
    seal_timeout_s=st.floats(1, 604_800),
    duration_margin_s=st.floats(1, 86_400),
    machine_lifetime_s=st.floats(1, 31_622_400),
)


@given(BATCHES, LIMITS)
def test_it_is_never_longer_than_configured(specs: list[JobSpec], limits: Limits) -> None:
    """Nothing that a job asks for keeps a machine beyond the configured bound."""
    assert 1 <= lifetime_s(specs, limits=limits) <= limits.machine_lifetime_s


@given(BATCHES, LIMITS)
def test_every_job_has_the_time_that_it_was_given(specs: list[JobSpec], limits: Limits) -> None:
    """No job is cut short by it but where the configured bound itself is shorter."""
    lived_s = lifetime_s(specs, limits=limits)
    for spec in specs:
        asked_s = spec.max_duration_s or 0
        needed_s = limits.boot_timeout_s + asked_s + spec.stop_grace_s + limits.seal_timeout_s
        assert lived_s >= min(needed_s, math.floor(limits.machine_lifetime_s))


@given(SPECS, LIMITS)
def test_what_has_no_end_of_its_own_has_the_configured_one(spec: JobSpec, limits: Limits) -> None:
    """A job without max_duration, and a machine that may take further jobs."""
    ends = spec.max_duration_s is not None and spec.reuse_s is None
    full_s = lifetime_s([replace(spec, max_duration_s=None)], limits=limits)
    assert full_s == math.floor(limits.machine_lifetime_s)
    assert ends or lifetime_s([spec], limits=limits) == full_s


@given(BATCHES, LIMITS)
def test_a_launch_has_the_longest_of_its_jobs(specs: list[JobSpec], limits: Limits) -> None:
    """One launch, one tag: the order of the jobs does not matter, and none has less than alone."""
    together_s = lifetime_s(specs, limits=limits)
    assert together_s == max(lifetime_s([spec], limits=limits) for spec in specs)
    assert together_s == lifetime_s(reversed(specs), limits=limits)


def test_figures() -> None:
    """An hour's job at the defaults: 10 min to boot, 30 min to prepare, 30 s grace, 5 min margin, an hour to seal."""
    hour = replace(SPEC, max_duration_s=3600, stop_grace_s=30)
    assert lifetime_s([hour], limits=Limits()) == 600 + 1800 + 3600 + 30 + 300 + 3600
    assert lifetime_s([replace(hour, max_duration_s=None)], limits=Limits()) == 7 * 86_400
