"""Spec files: several jobs a file, places of syntax errors, and what YAML does to plain words."""

import json
from contextlib import suppress
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.files import load_spec_file
from dstackd.spec.limits import SPEC_FILE_BYTES_MAX
from dstackd.spec.model import Range, RetryCause
from dstackd.spec.parse import parse_spec


def error_of(text: str, *, path: str = "job.yaml") -> FieldError:
    with pytest.raises(SpecError) as caught:
        load_spec_file(path, text)
    return caught.value.errors[0]


@pytest.mark.parametrize(
    "text",
    [
        "commands: [a]\n---\ncommands: [b]\n",
        "---\ncommands: [a]\n---\n---\ncommands: [b]\n...\n",
        "jobs:\n- commands: [a]\n- commands: [b]\n",
        "jobs: [{commands: [a]}]\n---\ncommands: [b]\n",
        '{"jobs": [{"commands": ["a"]}, {"commands": ["b"]}]}',
    ],
)
def test_several_jobs(text: str) -> None:
    """Several documents, a list under `jobs`, or both; the order is that of the file."""
    assert load_spec_file("job.yaml", text) == [{"commands": ["a"]}, {"commands": ["b"]}]


def test_json_file() -> None:
    """A file whose name ends in .json is JSON, with one job or a list under `jobs`."""
    assert load_spec_file("job.JSON", '{"commands": ["a"]}') == [{"commands": ["a"]}]
    assert load_spec_file("x.json", '{"jobs": [{}, {}]}') == [{}, {}]


def test_words_that_older_yaml_changes() -> None:
    """`on`, `off`, `yes`, clock times, dates, modes and versions mean what they look like."""
    (source,) = load_spec_file(
        "job.yaml",
        """
commands: [true, no, "echo hi"]
env: {A: yes, B: 22:22, C: 0755, D: 1.10, E: 2024-01-01, F: 1_000, G: 0x1F, H: null, I: ""}
labels: {on: off, version: 1.20}
max_duration: off
retry: {on: [no-capacity]}
resources: {cpu: 4.., memory: 16GB.., gpu: A10G:2}
""",
    )
    env = source["env"]
    assert isinstance(env, dict)
    assert env.pop("H") is None
    spec = parse_spec(source)
    assert spec.commands == ("true", "no", "echo hi")
    texts = ["yes", "22:22", "0755", "1.10", "2024-01-01", "1_000", "0x1F", ""]
    assert [value for _, value in spec.env] == texts
    assert spec.labels == (("on", "off"), ("version", "1.20"))
    assert spec.max_duration_s is None
    assert spec.retry.on == {RetryCause.NO_CAPACITY}
    assert spec.resources.cpu == Range(4, None)


def test_an_anchor_keeps_its_kind_elsewhere() -> None:
    """A number that a variable shares with another field stays a number there."""
    (source,) = load_spec_file("job.yaml", "env: {N: &n 3}\narray: *n\n")
    assert source == {"env": {"N": "3"}, "array": 3}


def test_merge_keys() -> None:
    """Jobs of a file may share fields; a merged key that is also given is not a duplicate."""
    text = "jobs:\n- &base {commands: [a], name: x}\n- {<<: *base, name: y}\n"
    assert load_spec_file("job.yaml", text)[1] == {"commands": ["a"], "name": "y"}


@pytest.mark.parametrize(
    ("text", "field", "problem", "fix"),
    [
        ("name: a\nname: b\n", "job.yaml:2:1", 'the key "name" twice', "remove one"),
        ("env:\n  A: 1\n  A: 2\n", "job.yaml:3:3", 'the key "A" twice', "remove one"),
        ("a: &x {}\nb: {<<: *x, <<: *x}\n", "job.yaml:2:13", 'the key "<<" twice', "remove one"),
        ("a: b: c\n", "job.yaml:1:5", "mapping values are not allowed", "in quotes"),
        ("a:\n\t- b\n", "job.yaml:2:1", "cannot start any token", "spaces, not with tabs"),
        ("artifacts: [*.csv]\n", "job.yaml:1:14", "expected alphabetic", "* in quotes"),
        ("artifacts: [*csv]\n", "job.yaml:1:13", "undefined alias", "* in quotes"),
        ("commands: [a\n", "job.yaml:2:1", "is not YAML", "correct the YAML"),
        ("array: !!int abc\n", "job.yaml:1:8", "found a tag", "! in quotes"),
        ("array: !!python/name:os.system\n", "job.yaml:1:8", "found a tag", "! in quotes"),
        ("env: !!python/dict {}\n", "job.yaml:1:6", "constructor for the tag", "remove it"),
        ("? [a]\n: b\n", "job.yaml:1:3", "unhashable key", "correct the YAML"),
        ("name: a\x00b\n", "job.yaml:1", "does not allow", "remove it"),
        ("a\nb: \ud800\n", "job.yaml:2", "does not allow", "remove it"),
        ("a: " + "[" * 5000, "job.yaml", "nested too deeply", "levels"),
        ("a: " + "9" * 5000, "job.yaml", "too long", "levels"),
        ("", "job.yaml", "holds no job", "jobs:"),
        ("jobs: []\n", "job.yaml", "holds no job", "jobs:"),
        ("- a\n", "job.yaml", "a list of 1, not a job", "jobs:"),
        ("jobs: {}\n", "job.yaml: jobs", "is a mapping", "a list of jobs"),
        ("jobs: [{}, 3]\n", "job.yaml: jobs[1]", "3 is not a job", "jobs:"),
        ("jobs: [{}]\nname: x\n", "job.yaml: jobs", "beside other fields", "into each job"),
        ("#" * (SPEC_FILE_BYTES_MAX + 1), "job.yaml", "holds 1048577 bytes", "at most 1048576"),
    ],
)
def test_refusal(text: str, field: str, problem: str, fix: str) -> None:
    """What is wrong with a file is said with its place and the fix."""
    error = error_of(text)
    assert error.field == field
    assert problem in error.problem
    assert fix in error.fix


def test_json_refusal() -> None:
    """JSON files say line and column too."""
    assert error_of('{"a": 1,\n}', path="x.json").field.startswith("x.json:")
    assert error_of('{"a": 1, "a": 2}', path="x.json").problem.endswith('"a" is there twice')


FRAGMENTS = ["a", ":", " ", "\n", "- ", "[", "]", "{", "}", "&x ", "*x", "!!int ", "!", "'", '"']
FRAGMENTS += ["<<", "? ", "|\n", "\t", "#", "%", "---\n", "on", "1.5", "~", "env", "\x85", "\ud800"]


def jobs_or_none(path: str, text: str) -> list[dict[object, object]]:
    """The jobs of a text, none where it is refused; any other error is the test's failure."""
    with suppress(SpecError):
        return load_spec_file(path, text)
    return []


@settings(deadline=None)
@given(text=st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_any_text(text: str) -> None:
    """Whatever a file holds, it is jobs or a SpecError."""
    for path in ("job.yaml", "job.json"):
        for job in jobs_or_none(path, text):
            with suppress(SpecError):
                parse_spec(job)


def test_short_texts() -> None:
    """The same for every arrangement of four pieces of syntax."""
    for pieces in permutations(["a", ": ", "\n", "- ", "[", "}", "&x ", "*x", "!!int "], 4):
        jobs_or_none("job.yaml", "".join(pieces))


@settings(deadline=None)
@given(st.dictionaries(st.text("ab ~", min_size=1), st.integers() | st.text("on1.-:# ")))
def test_json_is_yaml(source: dict[str, object]) -> None:
    """A spec written as JSON reads the same from a YAML file."""
    text = json.dumps(source)
    assert load_spec_file("job.yaml", text) == load_spec_file("job.json", text)
