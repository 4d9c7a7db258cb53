"""What holds for every spec and for every input."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.spec import limits
from dstackd.spec.canonical import to_json, to_text
from dstackd.spec.errors import SpecError
from dstackd.spec.model import JobSpec, Range
from dstackd.spec.parse import CERTAINLY_SMALL_BYTES, parse_spec, parse_spec_json
from dstackd.spec.units import range_of, range_text, size_mib, size_text

T = TypeVar("T")

FIELDS = list(to_json(parse_spec({"commands": ["true"]})))
INNER = ["cpu", "memory", "gpu", "disk", "shm_size", "arch", "name", "count", "on", "max_attempts"]
INNER += ["within", "exit_codes", "source", "target", "path", "every", "username", "password", "A"]
WORDS = [
    "",
    "on",
    "off",
    "4..",
    "..",
    "16GB",
    "8GB..4GB",
    "A10G:2",
    "a:b",
    "/x",
    "../x",
    "s3://b/k",
]
WORDS += [
    "~",
    "1h30m",
    "spot",
    "error",
    "A=1",
    "\ud800",
    "\0",
    "${{ secrets.X }}",
    "arm64",
    "m7i.*",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.builds(pow, st.just(10), st.just(5000))
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.text("\ud800\udfff\0\n ", max_size=3)
    | st.sampled_from(WORDS)
)
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(INNER) | st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=8,
)
near_specs = st.dictionaries(st.sampled_from([*FIELDS, "\ud800", "jobs"]), junk, max_size=6)


def outcome(parse: Callable[[T], JobSpec], given_value: T) -> JobSpec | SpecError:
    """The spec or the refusal; any other error is the test's failure."""
    try:
        return parse(given_value)
    except SpecError as error:
        return error


@settings(deadline=None)
@given(value=junk | near_specs)
def test_parse_raises_nothing_else(value: object) -> None:
    """Whatever it is given, parsing gives a spec or a SpecError whose text can be written."""
    result = outcome(parse_spec, value)
    if isinstance(result, SpecError):
        assert result.errors
        assert all(each.field and each.problem and each.fix for each in result.errors)
        str(result).encode()
    else:
        assert parse_spec(to_json(result)) == result


@settings(deadline=None)
@given(text=st.text(st.characters()) | near_specs.map(lambda value: json.dumps(_small(value))))
def test_row_text_raises_nothing_else(text: str) -> None:
    """The same for the text of a row, with NaN, surrogates and all; defaults make no short text too long."""
    result = outcome(parse_spec_json, text)
    if isinstance(result, SpecError):
        assert result.errors
    else:
        assert parse_spec_json(to_text(result)) == result
        longest = len(to_text(result).encode()) * CERTAINLY_SMALL_BYTES
        assert longest / max(len(text.encode()), 100) < limits.SPEC_BYTES_MAX


def _small(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Without the integer that json cannot write."""
    match value:
        case dict():
            return {key: _small(each) for key, each in value.items()}
        case list():
            return [_small(each) for each in value]
        case int() if abs(value) > limits.NUMBER_MAX:
            return limits.NUMBER_MAX
    return value


def ranges(ends: st.SearchStrategy[int]) -> st.SearchStrategy[Range[int]]:
    def ordered(low: int | None, high: int | None) -> Range[int]:
        if low is not None and high is not None and low > high:
            return Range(high, low)
        return Range(low, high)

    return st.builds(ordered, st.none() | ends, st.none() | ends)


words = st.text("abcXYZ019-_é", min_size=1, max_size=8)
paths = st.lists(words, min_size=1, max_size=3).map("/".join)
sizes = st.integers(1, 70_000).map(size_text)
cpus = ranges(st.integers(1, limits.CPU_MAX)).map(range_text)
memories = ranges(st.integers(1, limits.MEMORY_MIB_MAX)).map(lambda r: range_text(r, unit="MB"))
durations = st.integers(1, limits.DURATION_S_MAX)
gpus = st.fixed_dictionaries(
    {},
    optional={
        "name": st.lists(st.sampled_from(["A10G", "L4", "RTX PRO 6000"]), max_size=2),
        "count": ranges(st.integers(1, limits.GPU_COUNT_MAX)).map(range_text),
        "memory": memories,
    },
)
resources = st.fixed_dictionaries(
    {},
    optional={
        "cpu": cpus,
        "memory": memories,
        "gpu": st.integers(0, 4) | st.just("A10G:24GB:2") | gpus,
        "disk": st.integers(limits.DISK_GIB_MIN, limits.DISK_GIB_MAX),
        "arch": st.sampled_from(["x86_64", "arm64"]),
    },
)
retries = st.booleans() | st.fixed_dictionaries(
    {
        "on": st.lists(st.sampled_from(["no-capacity", "interruption"])).map(
            lambda on: ["error", *on][:3]
        )
    },
    optional={
        "max_attempts": st.integers(1, 1000),
        "within": durations,
        "exit_codes": st.lists(st.integers(1, 255), min_size=1),
    },
)
values = st.text("abc \n'\"\\é€", max_size=8)
specs = st.fixed_dictionaries(
    {"commands": st.lists(st.text("ab \n$;'", min_size=1).map("x".__add__), min_size=1)},
    optional={
        "name": st.text("abZ09", min_size=1, max_size=80),
        "env": st.dictionaries(
            st.text("AB_", min_size=1), values | st.integers(-9, 9) | st.booleans()
        ),
        "working_dir": paths,
        "inputs": st.lists(
            st.fixed_dictionaries({"source": paths, "target": paths}),
            unique_by=lambda i: i["target"],
        ),
        "artifacts": st.lists(paths, unique=True),
        "resources": resources,
        "instance_types": st.lists(st.sampled_from(["m7i.*", "c7g.large", "*"]), max_size=3),
        "spot_policy": st.sampled_from(["spot", "on-demand", "auto"]),
        "max_price": st.floats(0.001, 1000),
        "budget": st.floats(0.001, 1000),
        "max_duration": durations | st.just("off"),
        "retry": retries,
        "stop_grace": st.integers(0, 600),
        "stop_signal": st.sampled_from(["SIGTERM", "sigusr1"]),
        "permissions": st.sampled_from(["job", "machine"]),
        "resume": st.booleans(),
        "array": st.integers(1, limits.ARRAY_MAX),
        "labels": st.dictionaries(
            words, words | st.integers(-limits.NUMBER_MAX, limits.NUMBER_MAX)
        ),
    },
).filter(lambda source: "budget" not in source or source.get("max_duration") != "off")


@settings(deadline=None)
@given(source=specs)
def test_round_trip(source: dict[str, object]) -> None:
    """What was frozen is what was accepted, and it freezes to the same text again."""
    spec = parse_spec(source)
    frozen = to_text(spec)
    assert parse_spec_json(frozen) == spec
    assert to_text(parse_spec_json(frozen)) == frozen
    assert json.loads(frozen) == to_json(spec)
    hash(spec)


@settings(deadline=None)
@given(source=specs, drawn=st.data())
def test_order_does_not_matter(source: dict[str, object], drawn: st.DataObject) -> None:
    """Equal wishes are equal specs, in whatever order the fields were written."""
    shuffled = dict(drawn.draw(st.permutations(list(source.items()))))
    assert to_text(parse_spec(shuffled)) == to_text(parse_spec(source))


@settings(deadline=None)
@given(amount=ranges(st.integers(1, limits.MEMORY_MIB_MAX)))
def test_ranges_read_what_they_write(amount: Range[int]) -> None:
    """A range of sizes has a text, and the text has that range."""
    read = range_of(size_mib(low_mib=1, high_mib=limits.MEMORY_MIB_MAX, fix="-"), fix="-")
    assert read(range_text(amount, unit="MB")) == amount


def test_every_default_is_written_out() -> None:
    """A frozen spec does not depend on a default of a later version."""
    frozen = to_json(parse_spec({"commands": ["true"]}))
    assert list(frozen) == sorted(frozen)
    assert frozen == {
        "array": None,
        "artifacts": [],
        "budget": None,
        "commands": ["true"],
        "depends_on": None,
        "env": {},
        "image": None,
        "inputs": [],
        "instance_types": [],
        "labels": {},
        "max_duration": 259_200,
        "max_price": None,
        "name": None,
        "permissions": "job",
        "registry_auth": None,
        "resources": {
            "arch": None,
            "cpu": "2..",
            "disk": "100GB",
            "gpu": None,
            "memory": "8192MB..",
            "shm_size": None,
        },
        "resume": False,
        "retry": {
            "exit_codes": None,
            "max_attempts": 5,
            "on": ["interruption", "no-capacity"],
            "within": None,
        },
        "reuse": None,
        "spot_policy": "auto",
        "stop_grace": 30,
        "stop_signal": "SIGTERM",
        "working_dir": ".",
    }


def test_a_spec_cannot_be_changed() -> None:
    """An accepted spec is a value."""
    spec = parse_spec({"commands": ["true"]})
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc] # the point of the test


@pytest.mark.parametrize(
    ("amount", "inside", "outside"),
    [
        (Range(2, 8), (2, 5, 8), (1, 9)),
        (Range(2, None), (2, 10**9), (1,)),
        (Range(None, 8), (0, 8), (9,)),
        (Range[int](), (0, 10**9), ()),
    ],
)
def test_range_holds_its_ends(
    amount: Range[int], inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    """Both ends belong to a range; an open end has no bound."""
    assert all(number in amount for number in inside)
    assert not any(number in amount for number in outside)
