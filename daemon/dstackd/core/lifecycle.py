"""Which lifecycle rules the bucket shall have, and how they join those of others. Law: pure; what is not ours comes back unchanged.

A rule is a mapping as the S3 API spells it. Ours are those whose id begins with `dstackd-`. They are the same in every installation,
whatever its configuration says, so that two daemons on one bucket do not take turns at changing them: an object says by its tag when
it may go, and each number of days has its rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dstackd import protocol
from dstackd.errors import InvalidRequest

Rule = Mapping[str, Any]

OUR_IDS: Final = "dstackd-"
RULES_MAX: Final = 1000
"""S3's limit for a bucket (S3 User Guide, "Managing your storage lifecycle")."""
ABORT_DAYS: Final = 1
"""An upload that takes longer than a day is not one of ours: a machine sends the largest object that S3 takes in less."""
LEFTOVER_DAYS: Final = 30
"""What a daemon removes within minutes is left only where none runs. One that comes back within this finds every report."""
INPUT_DAYS: Final = 30
INPUT_RENEWED_DAYS: Final = INPUT_DAYS // 2
"""An input that is this old and still needed is written again, so that none goes between that and a boot."""
KEEP_DAYS: Final = (7, 14, 21, 30, 45, 60, 90, 120, 180, 365, 730, 1825, 3650)
"""What the tag on an artifact may say."""

_DAY_S: Final = 86_400
_PREFIXES: Final = {
    "control": protocol.CONTROL_PREFIX,
    "heartbeats": protocol.HEARTBEAT_PREFIX,
    "inbox": protocol.INBOX_PREFIX,
    "launches": protocol.LAUNCH_PREFIX,
    "reuse": protocol.REUSE_PREFIX,
}


def keep_days(days: int, *, attempt_s: float) -> int | None:
    """What the tag on an attempt's artifacts says; None: no tag, they are kept.

    `days` (0: for ever) count from the end, S3 counts from the upload, and a file may be uploaded when the attempt begins and not
    change any more. `attempt_s`: how long it can last. Where no rule reaches that far, they are kept.
    """
    if not days:
        return None
    needed = days + math.ceil(attempt_s / _DAY_S) + 1
    return next((allowed for allowed in KEEP_DAYS if allowed >= needed), None)


def our_rules() -> tuple[Rule, ...]:
    """Every rule of ours, in order of id."""
    rules = [
        _rule("incomplete-uploads", {"Prefix": protocol.PREFIX}, _abort(ABORT_DAYS)),
        _rule("inputs", {"Prefix": protocol.INPUT_PREFIX}, _expire(INPUT_DAYS)),
        *(
            _rule(f"leftovers-{name}", {"Prefix": prefix}, _expire(LEFTOVER_DAYS))
            for name, prefix in _PREFIXES.items()
        ),
        *(_rule(f"artifacts-{days}-days", _tagged(days), _expire(days)) for days in KEEP_DAYS),
    ]
    return tuple(sorted(rules, key=_id))


def is_current(existing: Iterable[Rule], ours: Sequence[Rule]) -> bool:
    """Whether the rules of ours are there, exactly and alone."""
    found = [rule for rule in existing if _is_ours(rule)]
    return sorted(found, key=_id) == sorted(ours, key=_id)


def merge(existing: Iterable[Rule], ours: Sequence[Rule]) -> list[Rule]:
    """The rules of others as they are and in their order, then ours. Raises InvalidRequest where they are too many for S3.

    S3 refuses rules with the old `Prefix` beside rules with a `Filter`, which ours have; `Filter: {Prefix}` means the same
    (S3 API reference, LifecycleRule), so old rules are written in the new form.
    """
    merged = [*(_with_filter(rule) for rule in existing if not _is_ours(rule)), *ours]
    if len(merged) > RULES_MAX:
        raise InvalidRequest(
            "TooManyRules",
            f"the bucket has {len(merged) - len(ours)} lifecycle rules, and S3 allows {RULES_MAX}",
            operation="s3:PutBucketLifecycleConfiguration",
            advice=f"remove some, so that there is room for {len(ours)}",
        )
    return merged


def _rule(name: str, which: Rule, what: Rule) -> Rule:
    return {"ID": f"{OUR_IDS}{name}", "Status": "Enabled", "Filter": which, **what}


def _expire(days: int) -> Rule:
    return {"Expiration": {"Days": days}}


def _abort(days: int) -> Rule:
    return {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}}


def _tagged(days: int) -> Rule:
    tag = {"Key": protocol.TAG_KEEP_DAYS, "Value": str(days)}
    return {"And": {"Prefix": protocol.ARTIFACT_PREFIX, "Tags": [tag]}}


def _with_filter(rule: Rule) -> Rule:
    if "Prefix" not in rule or "Filter" in rule:
        return rule
    rest = {name: value for name, value in rule.items() if name != "Prefix"}
    return {**rest, "Filter": {"Prefix": rule["Prefix"]}}


def _is_ours(rule: Rule) -> bool:
    return _id(rule).startswith(OUR_IDS)


def _id(rule: Rule) -> str:
    return str(rule.get("ID", ""))
