"""A job's lines: how soon `dstackd logs -f` shows them, how many a runner takes, and what a hundred jobs cost in calls.

A real daemon with its default pace on the cloud on this machine, without injected lag; the part with a hundred jobs
is in simulated time, a tenth of its events 25 s late and a tenth of them twice. `baseline` is the bar that the figure
is held to; a table with both goes to standard error. `PARTS="latency many" make bench BENCH=logs` runs some parts:
latency, runner, million, many. All of them take about four minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from tests.benchmarks.figure import Figure
from tests.benchmarks.logs.latency import latencies_s
from tests.benchmarks.logs.many import follow
from tests.benchmarks.logs.million import runner_alone, whole_way

LINES = 1_000_000
JOBS = 100
LINES_A_JOB = 200
P50_S, P99_S = 1.0, 2.5
LINES_A_SECOND = 20_000
MEMORY_MIB = 100
CALLS_A_SECOND = 2.0


def measure() -> Iterator[Figure]:
    """Every part, or those that PARTS names."""
    chosen = os.environ.get("PARTS", "").split() or list(PARTS)
    for name in chosen:
        for figure, at_most in PARTS[name]():
            _show(figure, at_most=at_most)
            yield figure


Held = Iterator[tuple[Figure, bool]]
"""A figure, and whether it is to be at most (else at least) its baseline."""


def measure_latency() -> Held:
    """From the job's write to the follower's standard output."""
    ages_s = latencies_s()
    for name, share, bar_s in (("p50", 0.5, P50_S), ("p99", 0.99, P99_S)):
        at = min(int(len(ages_s) * share), len(ages_s) - 1)
        yield _figure(f"line to `logs -f`, {name} of {len(ages_s)}", ages_s[at], "s", bar_s), True


def measure_runner() -> Held:
    """The runner's part alone."""
    done = runner_alone(LINES)
    yield _figure("lines through the runner", done.lines_a_second, "lines/s", LINES_A_SECOND), False
    yield _figure("runner's memory at most", done.memory_mib, "MiB", MEMORY_MIB), True
    yield _figure("runner: all sent, in order", float(done.in_order), "yes", 1), False


def measure_million() -> Held:
    """All the way."""
    done = whole_way(LINES)
    name = f"{LINES} lines of one job"
    yield (
        _figure(f"{name}: taken by the runner", done.lines_a_second, "lines/s", LINES_A_SECOND),
        False,
    )
    yield _figure(f"{name}: runner's memory", done.memory_mib, "MiB", MEMORY_MIB), True
    yield _figure(f"{name}: all here, in order", float(done.in_order), "yes", 1), False
    yield _figure(f"{name}: {done.verdict}", float(done.verdict == "complete"), "yes", 1), False
    yield _figure(f"{name}: insert to verdict", done.seconds, "s", None), True


def measure_many() -> Held:
    """Many jobs at once."""
    done = follow(jobs=JOBS, lines=LINES_A_JOB)
    name = f"{JOBS} jobs with {LINES_A_JOB} lines"
    calls = "FilterLogEvents calls"
    yield _figure(f"{name}: {calls}", done.calls_a_second, "calls/s", CALLS_A_SECOND), True
    yield _figure(f"{name}: {calls} in any second", done.calls_in_a_second_max, "calls", 5), True
    yield _figure(f"{name}: each line once, in order", done.in_order, "jobs", JOBS), False
    yield _figure(f"{name}: complete", done.complete, "jobs", JOBS), False


def _figure(name: str, value: float, unit: str, bar: float | None) -> Figure:
    return Figure(figure=name, value=round(value, 3), unit=unit, baseline=bar)


def _show(figure: Figure, *, at_most: bool) -> None:
    bar, value = figure.baseline, figure.value
    held = "" if bar is None else f"{'<=' if at_most else '>='} {bar:g}"
    good = bar is None or (value <= bar if at_most else value >= bar)
    print(
        f"{figure.figure:<60} {value:>12g} {figure.unit:<8} {held:<10} {'' if good else 'MISSED'}"
    )


PARTS: dict[str, Callable[[], Held]] = {
    "latency": measure_latency,
    "runner": measure_runner,
    "million": measure_million,
    "many": measure_many,
}
