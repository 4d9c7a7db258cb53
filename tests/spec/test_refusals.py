"""What a person is told: the field by its path, what is wrong with it, and what to write."""

import pytest

from dstackd.spec import limits
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.parse import parse_spec, parse_spec_json

LONE_SURROGATE = "\ud800"
HUGE = 10**5000


def errors_of(value: object) -> tuple[FieldError, ...]:
    with pytest.raises(SpecError) as caught:
        parse_spec(value)
    return caught.value.errors


def error_of(**fields: object) -> FieldError:
    (error,) = errors_of({"commands": ["true"], **fields})
    return error


REFUSALS = [
    ("name", "a/b", "name", '"a/b" is not a name', 'write "a-b"'),
    ("name", "x" * 81, "name", "81 characters", "at most 80"),
    ("name", "a\nb", "name", "control character", "one line"),
    ("name", "-x-", "name", "begins and ends", "letters, digits"),
    ("name", "///", "name", '"///" is not a name', "use letters"),
    ("name", 1.5, "name", "1.5 is not text", "letters"),
    ("name", HUGE, "name", "a number of 16610 bits", "letters"),
    ("name", LONE_SURROGATE, "name", "surrogate", "letters"),
    ("depends_on", ["A_1"], "depends_on[0]", '"A_1" is not the id', "as the table has it"),
    ("depends_on", [7], "depends_on[0]", "7 is not text", "in quotes"),
    ("depends_on", ["a", "a"], "depends_on[1]", "names a again", "once"),
    ("depends_on", [{"on": "any"}], "depends_on[0].id", "is missing", "the id of a job"),
    ("depends_on", {"id": "a", "on": "x"}, "depends_on.on", '"x" is not', "success"),
    ("depends_on", {"id": "a", "end": "any"}, "depends_on.end", "no such field", "id, on"),
    ("depends_on", ["a"] * 101, "depends_on", "101 members", "at most 100"),
    ("commands", [], "commands", "is empty", "write a list"),
    ("commands", None, "commands", "is missing", "echo hello"),
    ("commands", ["a", "  "], "commands[1]", "is empty", "write a list"),
    ("commands", ["a", {"echo b": "c"}], "commands[1]", "is a mapping", "in quotes"),
    ("commands", ["a", "b", True], "commands[2]", "true is not text", "in quotes"),
    ("commands", ["a", None], "commands[1]", "null is not text", "write a list"),
    ("commands", ["a\0b"], "commands[0]", "NUL", "remove it"),
    ("commands", ["a"] * 1001, "commands", "1001 members", "at most 1000"),
    ("commands", ["a" * 70_000] * 2, "commands", "140002 bytes", "at most 131072"),
    ("env", "A=1", "env", '"A=1" is not a mapping', "NAME=value"),
    ("env", {"1A": "x"}, "env.1A", '"1A" is not the name', "letters, digits and _"),
    ("env", {"DSTACKD_X": "x"}, "env.DSTACKD_X", "DSTACKD_ are reserved", "another name"),
    ("env", {"A": None}, "env.A", "is not text, a number", 'NAME: "value"'),
    ("env", {"A": ["secret"]}, "env.A", "is not text, a number", 'NAME: "value"'),
    ("env", {"A": "x\0"}, "env.A", "no variable can hold", "remove it"),
    ("env", {"A": LONE_SURROGATE}, "env.A", "no variable can hold", "remove it"),
    ("env", {"A": HUGE}, "env.A", "is not text, a number", 'NAME: "value"'),
    ("env", {"A": float("nan")}, "env.A", "is not text, a number", 'NAME: "value"'),
    ("env", {"A": "x" * 65_537}, "env.A", "65537 bytes", "at most 65536"),
    ("env", {"A" * 256: "x"}, f'env."{"A" * 60}…"', "too long a name", "at most 255"),
    ("env", {3: "x"}, "env.3", "3 is not the name", "letters, digits and _"),
    ("env", ["A=1", "B"], "env[1]", "has no =", "NAME=value"),
    ("env", [7], "env[0]", "7 is not text", "NAME=value"),
    ("env", ["A=1", "A=2"], "env.A", "is there twice", "remove one"),
    ("env", {f"A{n}": n for n in range(501)}, "env", "501 variables", "at most 500"),
    ("working_dir", "/srv", "working_dir", '"/srv" is not relative', "inside the job's folder"),
    ("working_dir", "a/../b", "working_dir", "leads out of", "inside the job's folder"),
    ("working_dir", "~/x", "working_dir", "~, which is not expanded", "inside the job's folder"),
    ("working_dir", "é" * 500, "working_dir", "too long", "at most 800 bytes"),
    ("inputs", "a:b:c", "inputs", "more than one colon", "{source:"),
    ("inputs", ["x:../y"], "inputs[0]", "leads out of", "inside the job's folder"),
    ("inputs", ["x:"], "inputs[0]", "is empty", "inside the job's folder"),
    ("inputs", ["/"], "inputs[0]", "not a source with a name", "give the target"),
    ("inputs", ["~/x"], "inputs[0]", "~, which is not expanded", "whole path"),
    ("inputs", ["https://x/y"], "inputs[0]", "not a path of the control host", "download it"),
    ("inputs", ["a:x", "b:x"], "inputs[1]", "target of two inputs", "change one"),
    ("inputs", [3], "inputs[0]", "3 is not text", "source:target"),
    ("inputs", [{"target": "x"}], "inputs[0].source", "is missing", "source:target"),
    ("inputs", [{"source": "x", "target": "/y"}], "inputs[0].target", "not relative", "inside"),
    ("inputs", [{"source": "x", "to": "y"}], "inputs[0].to", "no such field", "source, target"),
    ("inputs", [{"source": "é" * 2500}], "inputs[0].source", "too long", "at most 4095 bytes"),
    ("artifacts", ["../x"], "artifacts[0]", "leads out of", "inside the job's folder"),
    ("artifacts", ["/x"], "artifacts[0]", "not relative", "inside the job's folder"),
    ("artifacts", ["x", "./x/"], "artifacts[1]", "is there twice", "remove one"),
    ("artifacts", [{"path": "a\0"}], "artifacts[0].path", "NUL", "remove it"),
    ("artifacts", [{"pth": "a", "path": "b"}], "artifacts[0].pth", "no such field", "artifacts[0].path?"),
    ("artifacts", [{}], "artifacts[0].path", "is missing", "inside the job's folder"),
    ("resources", "4 cpus", "resources", "is not a mapping", "{cpu: 4.."),
    ("resources", {"cpus": 4}, "resources.cpus", "no such field", "did you mean resources.cpu?"),
    ("resources", {"cpu": 0.5}, "resources.cpu", "0.5 is not a whole number of vCPUs", "4.."),
    ("resources", {"cpu": "8..2"}, "resources.cpu", '"8..2" is not a range', "2..8"),
    ("resources", {"cpu": "2-8"}, "resources.cpu", '"2-8" is not a whole number', "2..8"),
    ("resources", {"cpu": "1...3"}, "resources.cpu", "is not a whole number", "2..8"),
    ("resources", {"cpu": 0}, "resources.cpu", "0 is not between 1 and 4096", "2..8"),
    ("resources", {"cpu": True}, "resources.cpu", "true is not a whole number", "2..8"),
    ("resources", {"cpu": HUGE}, "resources.cpu", "is not between 1 and 4096", "2..8"),
    ("resources", {"memory": "16 Bananas"}, "resources.memory", '"16 Bananas" is not a size', "16GB.."),
    ("resources", {"memory": "512B"}, "resources.memory", '"512B" is not a size', "16GB.."),
    ("resources", {"memory": HUGE}, "resources.memory", "bits is not a size", "16GB.."),
    ("resources", {"memory": -1}, "resources.memory", "-1 is not a size", "16GB.."),
    ("resources", {"memory": "1.3GB"}, "resources.memory", "whole number of MB", "write 1332MB"),
    ("resources", {"memory": "99999TB"}, "resources.memory", "not between 1MB and 65536GB", "16GB"),
    ("resources", {"disk": "4GB"}, "resources.disk", "not between 8GB and 16384GB", "100GB"),
    ("resources", {"disk": "..100GB"}, "resources.disk", "no lower end", "100GB"),
    ("resources", {"disk": "9000MB"}, "resources.disk", "whole number of GB", "write 9GB"),
    ("resources", {"arch": "mips"}, "resources.arch", '"mips" is not a processor', "arm64"),
    ("resources", {"gpu": True}, "resources.gpu", "true is not a GPU request", "A10G:2"),
    ("resources", {"gpu": "A10G:L4"}, "resources.gpu", "two parts for the name", "A10G:2"),
    ("resources", {"gpu": "A10G::2"}, "resources.gpu", "an empty part", "A10G:2"),
    ("resources", {"gpu": "A10G:99"}, "resources.gpu", "not between 1 and 64", "1..2"),
    ("resources", {"gpu": {"name": ["A10G", 7]}}, "resources.gpu.name[1]", "7 is not text", "A10G"),
    ("resources", {"gpu": {"model": "L4"}}, "resources.gpu.model", "no such field", "count, memory, name"),
    ("instance_types", ["m7i"], "instance_types[0]", '"m7i" is not an instance type', "m7i.*"),
    ("instance_types", "m7i.*, c5.*", "instance_types", "is not an instance type", "c7g.large"),
    ("instance_types", ["M7i.large"], "instance_types[0]", "is not an instance type", "c7g.large"),
    ("spot_policy", "cheap", "spot_policy", '"cheap" is not a word', "spot, on-demand, auto"),
    ("max_price", 0, "max_price", "0 is not a price above 0", "such as 0.5"),
    ("max_price", float("inf"), "max_price", "inf is not a price", "such as 0.5"),
    ("max_price", float("nan"), "max_price", "nan is not a price", "such as 0.5"),
    ("max_price", HUGE, "max_price", "bits is not a price", "such as 0.5"),
    ("max_price", "$1", "max_price", '"$1" is not a price', "such as 0.5"),
    ("max_price", True, "max_price", "true is not a price", "such as 0.5"),
    ("budget", 0, "budget", "0 is not a budget above 0 and up to 10000000", "such as 5"),
    ("budget", float("inf"), "budget", "inf is not a budget", "such as 5"),
    ("budget", "5 USD", "budget", '"5 USD" is not a budget', "such as 5"),
    ("max_duration", 0, "max_duration", "not between 1 and", "off means no limit"),
    ("max_duration", "soon", "max_duration", '"soon" is not a duration', "1h30m"),
    ("max_duration", "1.5h", "max_duration", '"1.5h" is not a duration', "1h30m"),
    ("max_duration", True, "max_duration", "true is not a duration", "1h30m"),
    ("max_duration", "", "max_duration", '"" is not a duration', "1h30m"),
    ("stop_grace", "11m", "stop_grace", "not between 0 and 600 seconds", "30s"),
    ("retry", 3, "retry", "3 is not a retry policy", "on: [no-capacity"),
    ("retry", "always", "retry", '"always" is not true or false', "true or false"),
    ("retry", {"on": ["crash"]}, "retry.on[0]", '"crash" is not a word', "no-capacity, interruption, error"),
    ("retry", {"max_attempts": 0}, "retry.max_attempts", "not between 1 and 1000", "such as 5"),
    ("retry", {"exit_codes": [1]}, "retry.exit_codes", "errors are not", "add error to on"),
    ("retry", {"on": "error", "exit_codes": [0]}, "retry.exit_codes[0]", "0 is not between", "1 to 255"),
    ("retry", {"on": "error", "exit_codes": []}, "retry.exit_codes", "is empty", "1 to 255"),
    ("retry", {"on": "error", True: "error"}, "retry.true", "no such field", "the fields here are"),
    ("retry", {"whithin": "1h"}, "retry.whithin", "no such field", "did you mean retry.within?"),
    ("resume", 1, "resume", "1 is not true or false", "write true or false"),
    ("array", 0, "array", "0 is not between 1 and 10000", "such as 8"),
    ("array", 10_001, "array", "10001 is not between", "such as 8"),
    ("labels", ["a"], "labels", "a list of 1 is not a mapping", "{team: vision}"),
    ("labels", {"k" * 64: "v"}, f'labels."{"k" * 60}…"', "64 characters", "at most 63"),
    ("labels", {"a": "v" * 256}, "labels.a", "256 characters", "at most 255"),
    ("labels", {"a": "x\ny"}, "labels.a", "control character", "one line"),
    ("labels", {"a": {}}, "labels.a", "a mapping is not text", "write text"),
    ("labels", {str(n): n for n in range(65)}, "labels", "65 labels", "at most 64"),
    ("priority", 5, "priority", "is a column of the job table", "INSERT INTO job (spec, priority)"),
    ("prioritty", 5, "prioritty", "no such field", "the fields here are"),
    ("spot-policy", "spot", "spot-policy", "no such field", "did you mean spot_policy?"),
    (LONE_SURROGATE, 1, '"\\ud800"', "no such field", "the fields here are"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "value", "field", "problem", "fix"),
    REFUSALS,
    ids=[f"{number}-{case[2]!a}" for number, case in enumerate(REFUSALS)],
)
def test_refusal(given: str, value: object, field: str, problem: str, fix: str) -> None:
    """Each slip gives one error, which names the field, the problem and the fix."""
    error = error_of(**{given: value})
    assert error.field == field
    assert problem in error.problem
    assert fix in error.fix
    error.sentence.encode()


def test_a_budget_needs_an_end() -> None:
    """Nothing bounds what a job without max_duration costs, so its budget could not be kept."""
    error = error_of(budget=5, max_duration="off")
    assert (error.field, error.fix) == ("budget", "set max_duration, not off")


def test_all_errors_at_once() -> None:
    """A person who made several slips mends them in one go."""
    errors = errors_of({"comands": ["x"], "array": 0, "resources": {"cpu": "many", "memory": []}})
    fields = {error.field for error in errors}
    assert fields == {"commands", "array", "resources.cpu", "resources.memory", "comands"}
    assert all(error.problem and error.fix for error in errors)


def test_text_of_many_errors_is_bounded() -> None:
    """The text that goes into a row's reason shows twenty errors and counts the others."""
    with pytest.raises(SpecError) as caught:
        parse_spec({f"field{n}": n for n in range(50)})
    assert len(caught.value.errors) == 51
    assert len(str(caught.value).splitlines()) == 21
    assert str(caught.value).endswith("and 31 more")


def test_no_value_of_a_variable_is_shown() -> None:
    """A password in a variable that is refused does not appear in the message."""
    password = "hunter2"
    errors = errors_of(
        {"env": {"1A": password, "A": [password], "B": password + "\0", "DSTACKD_B": password}}
    )
    assert password not in str(errors)


@pytest.mark.parametrize("value", [None, 3, [], "x", True])
def test_not_a_mapping(value: object) -> None:
    """What is no mapping is no spec."""
    (error,) = errors_of(value)
    assert error.field == "spec"
    assert "is not a mapping" in error.problem
    assert '{"commands"' in error.fix


def test_nesting_without_end() -> None:
    """Depth is refused like anything else."""
    deep: object = []
    for _ in range(100_000):
        deep = [deep]
    assert error_of(name=deep).problem == "a list of 1 is not text"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("{", "spec:1:2", "is not JSON"),
        ('{"commands": ["a"],\n "x" 1}', "spec:2:6", "is not JSON"),
        ('{"max_price": NaN}', "spec", "NaN is no JSON number"),
        ('{"name": "a", "name": "b"}', "spec", 'the key "name" is there twice'),
        ("[" * 100_000, "spec", "nested too deeply"),
        ("1" * 10_000, "spec", "is not JSON"),
        ('"{}"', "spec", "is a JSON text, not a mapping"),
        (" " * (limits.SPEC_BYTES_MAX + 1), "spec", "holds 262145 bytes"),
    ],
)
def test_row_text(text: str, field: str, problem: str) -> None:
    """The text of a row that is not JSON, or not plainly so, is refused with its place."""
    with pytest.raises(SpecError) as caught:
        parse_spec_json(text)
    (error,) = caught.value.errors
    assert error.field == field
    assert problem in error.problem
    assert error.fix


def test_size_of_the_whole() -> None:
    """A value that came without text is measured as well."""
    env = {f"A{number}": "x" * 60_000 for number in range(5)}
    (error,) = errors_of({"commands": ["true"], "env": env})
    assert error.field == "spec"
    assert "bytes of JSON" in error.problem
    assert f"at most {limits.SPEC_BYTES_MAX}" in error.fix
