"""The alert rules name metrics that there are, and say what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from dstackd.http.metric_table import METRICS, Kind
from tests.tidy.source_tree import ROOT
from tests.tools import missing

PATH = ROOT / "config" / "prometheus-alerts.yml"
WORDS = frozenset(
    {"up", "absent", "increase", "sum", "by", "on", "unless", "and", "or", "job", "instance"}
    | {"loop", "code", "operation", "m", "h"}
)


def rules() -> list[dict[str, Any]]:
    """Every rule of the file."""
    groups = yaml.safe_load(PATH.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_is_about_what_there_is(rule: dict[str, Any]) -> None:
    """Each word of its expression is PromQL's or a metric of ours; a counter is never looked at without its increase."""
    expression = re.sub(r'"[^"]*"', "", rule["expr"])
    for word in re.findall(r"[a-z_]+", expression):
        assert word in WORDS or word in METRICS, word
    for name, metric in METRICS.items():
        if metric.kind is Kind.COUNTER:
            bare = re.sub(rf"increase\({name}[^\]]*\]\)", "", expression)
            assert name not in bare
    for label in re.findall(r"(\w+)(?:=|!=|!~)\"", rule["expr"]):
        named = [METRICS[each] for each in METRICS if each in rule["expr"]]
        assert label == "job" or any(label in metric.labels for metric in named)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_says_what_to_do(rule: dict[str, Any]) -> None:
    """A name of ours, a severity, a summary and an action."""
    assert re.fullmatch(r"Dstackd[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["action"].endswith((".", ")"))


def test_there_is_one_for_each_promise() -> None:
    """The daemon, the queue's age, orphans, machines that stay, launches and money are watched."""
    watched = " ".join(rule["expr"] for rule in rules())
    for name in (
        *("up{", "dstackd_queue_oldest_age_seconds", "dstackd_orphans_terminated_total"),
        *("dstackd_terminations_stuck", "RunInstances", "dstackd_cost_usd_per_hour"),
    ):
        assert name in watched


def test_promtool_accepts_the_file() -> None:
    """Prometheus' own check, where it is installed."""
    if shutil.which("promtool") is None:
        missing("promtool is not installed")
    done = subprocess.run(
        ["promtool", "check", "rules", str(PATH)],  # from the PATH, as an operator would
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
