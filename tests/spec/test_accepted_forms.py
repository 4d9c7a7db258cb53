"""Every way in which a value may be written, and what it means."""

from typing import Any

import pytest

from dstackd.spec.model import (
    ArtifactSpec,
    Dependency,
    DependencyEnd,
    GpuRequest,
    InputSpec,
    JobSpec,
    Range,
    Resources,
    RetryCause,
    RetryPolicy,
    SpotPolicy,
)
from dstackd.spec.parse import parse_spec, parse_spec_json

GB = 1024
DEFAULT_CAUSES = frozenset({RetryCause.NO_CAPACITY, RetryCause.INTERRUPTION})


def parsed(**fields: object) -> JobSpec:
    return parse_spec({"commands": ["true"], **fields})


def test_defaults_are_those_of_the_model() -> None:
    """A job that says only what to run gets the defaults of the product, and these are they."""
    assert parsed() == JobSpec(
        commands=("true",),
        resources=Resources(
            cpu=Range(2, None), memory_mib=Range(8 * GB, None), gpu=None, disk_gib=100
        ),
        spot_policy=SpotPolicy.AUTO,
        max_duration_s=72 * 3600,
        retry=RetryPolicy(on=DEFAULT_CAUSES, max_attempts=5),
        stop_grace_s=30,
        resume=False,
    )


def test_null_is_the_same_as_not_given() -> None:
    """A field with nothing behind it, as YAML users leave them, is a field that is not there."""
    empty = dict.fromkeys(
        ["name", "env", "inputs", "artifacts", "resources", "retry", "image", "array", "budget"]
    )
    assert parsed(**empty) == parsed()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a-1", (Dependency("a-1"),)),
        (["a", {"id": "b"}], (Dependency("a"), Dependency("b"))),
        ([{"id": "a", "on": "any"}], (Dependency("a", DependencyEnd.ANY),)),
        ({"id": "a", True: "success"}, (Dependency("a", DependencyEnd.SUCCESS),)),
        ([], ()),
    ],
)
def test_depends_on(written: object, expected: tuple[Dependency, ...]) -> None:
    """Ids, or mappings of an id and with which end of that job this one may begin."""
    assert parsed(depends_on=written).depends_on == expected


def test_row_text() -> None:
    """The JSON text of a row gives the same as the value."""
    assert parse_spec_json('{"commands": ["true"]}') == parsed()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("make all", ("make all",)),
        ("set -e\nmake all\n", ("set -e\nmake all\n",)),
        (["make", "make check"], ("make", "make check")),
    ],
)
def test_commands(written: object, expected: tuple[str, ...]) -> None:
    """A list is several commands; one text, of several lines or not, is one."""
    assert parse_spec({"commands": written}).commands == expected


@pytest.mark.parametrize("name", ["a", "Train ResNet_50.v2", "x" * 80, "train-1", "été", "1"])
def test_name(name: str) -> None:
    """People name jobs as they like, as long as a tag can hold it."""
    assert parsed(name=name).name == name


def test_name_that_is_a_number() -> None:
    """YAML reads `name: 17` as a number; it is a name all the same."""
    assert parsed(name=17).name == "17"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"B": "x", "A": "y"}, (("A", "y"), ("B", "x"))),
        (
            {"A": 1, "B": 1.5, "C": True, "D": False},
            (("A", "1"), ("B", "1.5"), ("C", "true"), ("D", "false")),
        ),
        (["A=1", "B=x=y", "C="], (("A", "1"), ("B", "x=y"), ("C", ""))),
        ({"_A9": "several\nlines"}, (("_A9", "several\nlines"),)),
    ],
)
def test_env(written: object, expected: object) -> None:
    """A mapping or a list of assignments; scalars become text; pairs come by name."""
    assert parsed(env=written).env == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (4, Range(4, 4)),
        ("4", Range(4, 4)),
        (4.0, Range(4, 4)),
        ("4..", Range(4, None)),
        ("2..8", Range(2, 8)),
        ("2 .. 8", Range(2, 8)),
        ("..8", Range(None, 8)),
        ("..", Range(None, None)),
    ],
)
def test_cpu(written: object, expected: Range[int]) -> None:
    """A plain number is exact; a range includes both ends, and either may be open."""
    assert parsed(resources={"cpu": written}).resources.cpu == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("16GB", Range(16 * GB, 16 * GB)),
        ("16gb..", Range(16 * GB, None)),
        ("8GB..32GB", Range(8 * GB, 32 * GB)),
        ("8..32GB", Range(8 * GB, 32 * GB)),
        ("..32 GB", Range(None, 32 * GB)),
        (16, Range(16 * GB, 16 * GB)),
        (0.5, Range(512, 512)),
        ("1.5GB", Range(1536, 1536)),
        ("512MB", Range(512, 512)),
        ("16GiB", Range(16 * GB, 16 * GB)),
        ("16G", Range(16 * GB, 16 * GB)),
        ("1TB", Range(GB * GB, GB * GB)),
    ],
)
def test_memory(written: object, expected: Range[int]) -> None:
    """1 GB is 1,024 MiB, a plain number is GB."""
    assert parsed(resources={"memory": written}).resources.memory_mib == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [("100GB", 100), (200, 200), ("1TB", 1024), ("8GB", 8), ("50GB..", 50), ("50GB..80GB", 50)],
)
def test_disk(written: object, expected: int) -> None:
    """The volume is the smallest one that the spec allows."""
    assert parsed(resources={"disk": written}).resources.disk_gib == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (1, GpuRequest()),
        ("2", GpuRequest(count=Range(2, 2))),
        ("1..", GpuRequest(count=Range(1, None))),
        ("A10G", GpuRequest(("A10G",))),
        ("A10G:2", GpuRequest(("A10G",), Range(2, 2))),
        ("A10G, L4:1..2", GpuRequest(("A10G", "L4"), Range(1, 2))),
        ("24GB", GpuRequest(memory_mib=Range(24 * GB, 24 * GB))),
        ("24GB..", GpuRequest(memory_mib=Range(24 * GB, None))),
        ("A100:40GB:2", GpuRequest(("A100",), Range(2, 2), Range(40 * GB, 40 * GB))),
        ("2:A100:40GB..80GB", GpuRequest(("A100",), Range(2, 2), Range(40 * GB, 80 * GB))),
        ("T4g", GpuRequest(("T4g",))),
        (
            {"name": ["A10G", "L4"], "count": "1..2", "memory": "24GB.."},
            GpuRequest(("A10G", "L4"), Range(1, 2), Range(24 * GB, None)),
        ),
        ({"name": "T4"}, GpuRequest(("T4",))),
        ({"memory": ".."}, GpuRequest()),
        ({}, GpuRequest()),
        (0, None),
        ("0", None),
        ({"count": 0}, None),
    ],
)
def test_gpu(written: object, expected: GpuRequest | None) -> None:
    """A count, a name, a memory, these with colons in any order, or a mapping; 0 is none."""
    assert parsed(resources={"gpu": written}).resources.gpu == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [("x86_64", "x86_64"), ("arm64", "arm64"), ("amd64", "x86_64"), ("aarch64", "arm64")],
)
def test_arch(written: str, expected: str) -> None:
    """The names that Docker and Linux use for the two architectures are understood."""
    assert parsed(resources={"arch": written}).resources.arch == expected


def test_instance_types_lift_the_default_size() -> None:
    """Who names a small type gets it: the default of 2 vCPU and 8 GB is for those who say nothing."""
    spec = parsed(instance_types=["t3.micro"], resources={"cpu": "2.."})
    assert spec.instance_types == ("t3.micro",)
    assert spec.resources.cpu == Range(2, None)
    assert spec.resources.memory_mib == Range(None, None)
    assert parsed(instance_types=["m7i.*"]).resources.cpu == Range(None, None)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("30s", 30),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (90, 90),
        (90.0, 90),
        ("90", 90),
        ("off", None),
        (False, None),
        ("false", None),
    ],
)
def test_max_duration(written: object, expected: int | None) -> None:
    """Durations have units, a plain number is seconds, and off is no limit in every spelling."""
    assert parsed(max_duration=written).max_duration_s == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (True, RetryPolicy(on=frozenset(RetryCause))),
        ("on", RetryPolicy(on=frozenset(RetryCause))),
        (False, RetryPolicy(on=frozenset(), max_attempts=1)),
        ("off", RetryPolicy(on=frozenset(), max_attempts=1)),
        ({}, RetryPolicy()),
        ({"max_attempts": 2}, RetryPolicy(max_attempts=2)),
        (
            {
                "on": ["no-capacity", "interruption", "error"],
                "max_attempts": 3,
                "within": "6h",
                "exit_codes": [137, 1, 1],
            },
            RetryPolicy(frozenset(RetryCause), 3, 6 * 3600, (1, 137)),
        ),
        (
            {"on": "error", "exit_codes": 137},
            RetryPolicy(frozenset({RetryCause.ERROR}), exit_codes=(137,)),
        ),
        ({"on": ["no_capacity"]}, RetryPolicy(frozenset({RetryCause.NO_CAPACITY}))),
        ({"on": []}, RetryPolicy(frozenset())),
        ({True: ["error"]}, RetryPolicy(frozenset({RetryCause.ERROR}))),
        ({"true": ["error"]}, RetryPolicy(frozenset({RetryCause.ERROR}))),
    ],
)
def test_retry(written: object, expected: RetryPolicy) -> None:
    """A switch or a mapping, also one whose key `on` went through an old YAML reader."""
    assert parsed(retry=written).retry == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("./data:data", InputSpec("./data", "data")),
        ("./data", InputSpec("./data", "data")),
        ("/srv/set.tar:in/set.tar", InputSpec("/srv/set.tar", "in/set.tar")),
        ("../shared/", InputSpec("../shared/", "shared")),
        (".", InputSpec(".", ".")),
        ("./code:.", InputSpec("./code", ".")),
        ({"source": "/abs", "target": "data/"}, InputSpec("/abs", "data")),
        ({"source": "with:colon", "target": "x"}, InputSpec("with:colon", "x")),
        ({"source": "/abs/x"}, InputSpec("/abs/x", "x")),
    ],
)
def test_inputs(written: object, expected: InputSpec) -> None:
    """source:target or a mapping; without a target it is the last part of the source."""
    assert parsed(inputs=[written]).inputs == (expected,)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("out/", "out"),
        ("./out//x", "out/x"),
        ("results/**/*.csv", "results/**/*.csv"),
        ({"path": "results/*.csv"}, "results/*.csv"),
        (".", "."),
    ],
)
def test_artifacts(written: object, expected: str) -> None:
    """Paths and globs, normalised."""
    assert parsed(artifacts=[written]).artifacts == (ArtifactSpec(expected),)
    assert parsed(artifacts=written).artifacts == (ArtifactSpec(expected),)


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("spot_policy", "on-demand", SpotPolicy.ON_DEMAND),
        ("spot_policy", "on_demand", SpotPolicy.ON_DEMAND),
        ("spot_policy", "spot", SpotPolicy.SPOT),
        ("max_price", 0.5, 0.5),
        ("max_price", 2, 2.0),
        ("max_price", "0.5", 0.5),
        ("budget", 5, 5.0),
        ("budget", "12.50", 12.5),
        ("resume", True, True),
        ("resume", "yes", True),
        ("resume", "off", False),
        ("array", 10_000, 10_000),
        ("working_dir", "src/", "src"),
        ("labels", {"b": 1, "a": "x"}, (("a", "x"), ("b", "1"))),
        ("instance_types", ["m7i.*", "c7g.large"], ("m7i.*", "c7g.large")),
        ("instance_types", "p4d*", ("p4d*",)),
    ],
)
def test_single_fields(field: str, written: object, expected: object) -> None:
    """The forms of the remaining fields."""
    assert getattr(parsed(**{field: written}), field) == expected


@pytest.mark.parametrize(("written", "expected"), [("0s", 0), ("10m", 600), (45, 45)])
def test_stop_grace(written: Any, expected: int) -> None:  # noqa: ANN401 - as written
    """From nothing to ten minutes."""
    assert parsed(stop_grace=written).stop_grace_s == expected
