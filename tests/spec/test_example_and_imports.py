"""The example file, and what importing the spec costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dstackd.spec
from dstackd.spec import model
from dstackd.spec.canonical import to_json
from dstackd.spec.files import load_spec_file
from dstackd.spec.parse import parse_spec
from dstackd.spec.units import duration_or_off, duration_s

EXAMPLE = Path(__file__).parents[2] / "config" / "job.example.yaml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
BARE = to_json(parse_spec({"commands": ["true"]}))
NESTED = {
    "resources": ["arch", "cpu", "disk", "gpu", "memory", "shm_size"],
    "gpu": ["count", "memory", "name"],
    "retry": ["exit_codes", "max_attempts", "on", "within"],
    "inputs": ["source", "target"],
    "artifacts": ["every", "path"],
    "depends_on": ["id", "on"],
}


def example() -> dict[object, object]:
    (source,) = load_spec_file("job.example.yaml", TEXT)
    return source


def test_example_is_accepted() -> None:
    """Whoever submits the example gets a job."""
    spec = parse_spec(example())
    assert spec.name == "train-resnet"
    assert len(spec.commands) == 2
    assert spec.resources.gpu is not None


@pytest.mark.parametrize("field", [*BARE, *(field for names in NESTED.values() for field in names)])
def test_example_has_every_field(field: str) -> None:
    """Each field is there."""
    assert re.search(rf"^[ #-]*{field}:", TEXT, re.MULTILINE)


def test_example_sets_what_can_be_set() -> None:
    """No field is commented out."""
    assert set(example()) == set(BARE)


def _default_of(field: str) -> str:
    match = re.search(rf"# Default: (\S+)[^\n]*\n *{field}:|Default: (\S+)[^\n]*\n *{field}:", TEXT)
    assert match is not None, field
    return (match[1] or match[2]).rstrip(".") if field != "working_dir" else "."


def test_example_states_the_defaults() -> None:
    """The defaults in the comments are those of the program."""
    source = {
        "commands": ["true"],
        "resources": {
            "cpu": re.findall(r"vCPUs\. Default: (\S+)", TEXT)[0],
            "memory": re.findall(r"Memory\. Default: (\S+)", TEXT)[0],
            "disk": _default_of("disk"),
        },
        "working_dir": _default_of("working_dir"),
        "spot_policy": _default_of("spot_policy"),
        "max_duration": _default_of("max_duration"),
        "retry": {"max_attempts": _default_of("max_attempts")},
        "stop_grace": _default_of("stop_grace"),
        "resume": _default_of("resume"),
    }
    assert to_json(parse_spec(source)) == BARE
    assert duration_or_off(_default_of("max_duration")) == 72 * 3600
    assert duration_s(low_s=0)(_default_of("stop_grace")) == 30


def test_model_is_pure() -> None:
    """The core imports the model, so the model imports the standard library only."""
    tree = ast.parse(Path(model.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert modules == {"dataclasses", "enum", "typing"}


def test_submitting_json_loads_no_yaml() -> None:
    """A client that submits JSON pays neither for PyYAML nor for anything that is not its own."""
    script = (
        "import sys; before = set(sys.modules); import dstackd.spec.files, dstackd.spec.parse;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    root = Path(dstackd.spec.__file__).parents[2]
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {script}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    foreign = set(loaded) - {"dstackd"} - sys.stdlib_module_names
    assert not foreign
    assert "difflib" not in loaded
