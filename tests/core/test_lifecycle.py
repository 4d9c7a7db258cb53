"""The bucket's lifecycle rules: ours exactly, those of others as they are."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.core import lifecycle
from dstackd.core.lifecycle import Rule, is_current, keep_days, merge, our_rules
from dstackd.errors import InvalidRequest
from dstackd.intent import LaunchTerms, document_for
from dstackd.spec.parse import parse_spec
from tests.builders import a_job
from tests.core.foreign_rules import configurations

OURS = our_rules()


@given(configurations())
def test_others_survive(existing: list[Rule]) -> None:
    """Whatever others have, it stays, in its order and in meaning, and ours stand behind it, once each."""
    before = copy.deepcopy(existing)
    merged = merge(existing, OURS)
    assert existing == before
    foreign = merged[: -len(OURS)]
    assert merged[-len(OURS) :] == list(OURS)
    assert [meaning(rule) for rule in foreign] == [
        meaning(rule) for rule in existing if not str(rule["ID"]).startswith("dstackd-")
    ]


@given(configurations())
def test_merging_is_idempotent(existing: list[Rule]) -> None:
    """What was merged is current, and merging it again changes nothing."""
    merged = merge(existing, OURS)
    assert is_current(merged, OURS)
    assert merge(merged, OURS) == merged


@given(configurations())
def test_old_rules_and_new_ones_never_meet(existing: list[Rule]) -> None:
    """S3 refuses rules with a Prefix beside rules with a Filter: after a merge all have a Filter."""
    assert all("Filter" in rule and "Prefix" not in rule for rule in merge(existing, OURS))


def meaning(rule: Rule) -> Rule:
    """The rule with an old Prefix read as the Filter that it stands for."""
    if "Filter" in rule:
        return rule
    return {
        **{k: v for k, v in rule.items() if k != "Prefix"},
        "Filter": {"Prefix": rule["Prefix"]},
    }


def test_what_is_missing_or_changed_is_noticed() -> None:
    """One of ours that is gone, changed, or one of an older version that is still there: not current."""
    changed: dict[str, Any] = {**OURS[0], "Status": "Disabled"}
    obsolete: Rule = {**OURS[0], "ID": "dstackd-of-an-older-version"}
    assert is_current(reversed(OURS), OURS)
    assert not is_current(OURS[1:], OURS)
    assert not is_current([changed, *OURS[1:]], OURS)
    assert not is_current([obsolete, *OURS], OURS)
    assert merge([obsolete, changed], OURS) == list(OURS)


def test_there_may_be_too_many() -> None:
    """S3 takes a thousand rules: beyond that nothing is written, and the error says how many are in the way."""
    room = lifecycle.RULES_MAX - len(OURS)
    rules: list[Rule] = [{"ID": f"r{n}", "Filter": {}} for n in range(room + 1)]
    assert len(merge(rules[:room], OURS)) == lifecycle.RULES_MAX
    with pytest.raises(InvalidRequest, match=f"has {room + 1} lifecycle rules"):
        merge(rules, OURS)


def test_no_rule_reaches_beyond_our_prefix() -> None:
    """Each of ours names a prefix below `dstackd/`; only uploads that never ended go by the prefix alone. Artifacts go by tag."""
    for rule in OURS:
        which = rule["Filter"]
        prefix = which.get("Prefix") or which["And"]["Prefix"]
        assert prefix.startswith(protocol.PREFIX)
        if "Expiration" in rule:
            assert prefix != protocol.PREFIX
            assert rule["Expiration"]["Days"] >= 7
        if prefix.startswith(protocol.ARTIFACT_PREFIX):
            days = str(rule["Expiration"]["Days"])
            assert which["And"]["Tags"] == [{"Key": protocol.TAG_KEEP_DAYS, "Value": days}]


@given(st.integers(0, 3000), st.integers(1, 366 * 86_400))
def test_artifacts_outlive_their_attempt(days: int, attempt_s: int) -> None:
    """The tag covers the longest that the attempt can last and the days behind it, and there is a rule for it."""
    tag = keep_days(days, attempt_s=attempt_s)
    if days == 0:
        assert tag is None
        return
    assert tag is not None
    assert tag * 86_400 >= days * 86_400 + attempt_s
    assert f"dstackd-artifacts-{tag}-days" in {rule["ID"] for rule in OURS}


def test_what_no_rule_reaches_is_kept() -> None:
    """Three days of a job and thirty behind it are the rule of 45; ten years are none."""
    assert keep_days(30, attempt_s=72 * 3600) == 45
    assert keep_days(30, attempt_s=10 * 365 * 86_400) is None


def test_the_launch_document_says_it() -> None:
    """By the job's own bound, else by that of its machine; nothing where artifacts are kept for ever."""
    terms = LaunchTerms(
        backend="aws",
        bucket="b",
        region="eu-central-1",
        owner="o",
        instance_profile="p",
        runner_sha256="0" * 64,
        user_data="",
        security_group_ids=(),
        heartbeat_s=60,
        watch_s=5,
        log_flush_s=1,
    )
    for days, spec, expected in (
        (0, {}, None),
        (10, {"max_duration": "1h"}, 14),
        (10, {"max_duration": "off"}, 21),
        (10, {"max_duration": "90d"}, 21),
    ):
        job = a_job(spec=parse_spec({"commands": ["true"], **spec}))
        document = json.loads(document_for("l", [job], replace(terms, artifact_days=days)))
        assert document["jobs"][0]["artifact_keep_days"] == expected
