"""Lifecycle rules as others may have written them, in every form that S3 has. Law: hypothesis strategies, no test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from dstackd.core.lifecycle import Rule, our_rules

_NAMES = st.text(alphabet="abcxyz/-_ é&<", min_size=1, max_size=12).map(lambda name: f"x{name}x")
_DAYS = st.integers(1, 4000)
_SIZES = st.integers(1, 10**12)
_DATES = st.dates(datetime(2020, 1, 1).date(), datetime(2100, 1, 1).date()).map(  # noqa: DTZ001
    lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC)
)
_CLASSES = st.sampled_from(["GLACIER", "STANDARD_IA", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"])
_TAG = st.fixed_dictionaries({"Key": _NAMES, "Value": _NAMES})


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the fields, at least one."""
    return st.fixed_dictionaries({}, optional=fields).filter(bool)


_AND = _some(
    Prefix=_NAMES,
    Tags=st.lists(_TAG, min_size=1, max_size=3),
    ObjectSizeGreaterThan=_SIZES,
    ObjectSizeLessThan=_SIZES,
)
_FILTERS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"Prefix": st.one_of(st.just(""), _NAMES)}),
    st.fixed_dictionaries({"Tag": _TAG}),
    st.fixed_dictionaries({"ObjectSizeGreaterThan": _SIZES}),
    st.fixed_dictionaries({"ObjectSizeLessThan": _SIZES}),
    st.fixed_dictionaries({"And": _AND}),
)
_WHEN = st.one_of(
    st.fixed_dictionaries({"Days": _DAYS, "StorageClass": _CLASSES}),
    st.fixed_dictionaries({"Date": _DATES, "StorageClass": _CLASSES}),
)
_ACTIONS = _some(
    Expiration=st.one_of(
        st.fixed_dictionaries({"Days": _DAYS}),
        st.fixed_dictionaries({"Date": _DATES}),
        st.just({"ExpiredObjectDeleteMarker": True}),
    ),
    Transitions=st.lists(_WHEN, min_size=1, max_size=2),
    NoncurrentVersionTransitions=st.lists(
        st.fixed_dictionaries(
            {"NoncurrentDays": _DAYS, "StorageClass": _CLASSES},
            optional={"NewerNoncurrentVersions": st.integers(1, 100)},
        ),
        min_size=1,
        max_size=2,
    ),
    NoncurrentVersionExpiration=st.fixed_dictionaries(
        {"NoncurrentDays": _DAYS}, optional={"NewerNoncurrentVersions": st.integers(1, 100)}
    ),
    AbortIncompleteMultipartUpload=st.fixed_dictionaries({"DaysAfterInitiation": _DAYS}),
)


@st.composite
def configurations(draw: st.DrawFn) -> list[Rule]:
    """A whole configuration that S3 takes: all rules in the old form, or all in the new one with some of ours among them."""
    old = draw(st.booleans())
    rules: list[Rule] = []
    for number in range(draw(st.integers(0, 5))):
        scope = {"Prefix": draw(_NAMES)} if old else {"Filter": draw(_FILTERS)}
        status = draw(st.sampled_from(["Enabled", "Disabled"]))
        rules.append({"ID": f"foreign {number}", "Status": status, **scope, **draw(_ACTIONS)})
    if not old:
        rules += draw(st.lists(st.sampled_from(our_rules()), unique_by=lambda rule: rule["ID"]))
        rules = draw(st.permutations(rules))
    return rules
