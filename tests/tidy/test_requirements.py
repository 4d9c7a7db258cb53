"""The locked requirements agree with pyproject.toml, with each other, and name no address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.tidy.source_tree import ROOT

FOLDER = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==(?P<version>\S+)")


def pins(name: str) -> dict[str, str]:
    """The version of each package that a requirements file locks."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return {found["name"]: found["version"] for line in lines if (found := LOCKED.match(line))}


def asked_for(requirements: list[str]) -> set[str]:
    """The names in a list of requirements of pyproject.toml, as the locked files write them."""
    names = (re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.name)
def test_no_address(path: Path) -> None:
    """A requirements file says what is installed, never from where."""
    text = path.read_text()
    assert re.findall(r"\S*://\S*|^\s*--(?!hash=)\S+|\S+ @ \S+", text, flags=re.MULTILINE) == []


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.name)
def test_everything_is_hashed(path: Path) -> None:
    """Each package is pinned to one version and to the hashes of its files."""
    joined = path.read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not LOCKED.match(line) or "--hash=sha256:" not in line] == []


def test_sets_are_nested() -> None:
    """One version of a package is in use everywhere, so .venv can grow without replacing any."""
    runtime, local, dev, build = (pins(name) for name in ("runtime", "local", "dev", "build"))
    assert runtime.items() <= local.items() <= dev.items()
    assert build.items() <= local.items()


def test_every_dependency_is_locked() -> None:
    """A dependency that was added to pyproject.toml is in the files too: `make lock`."""
    project = PROJECT["project"]
    extras, groups = project["optional-dependencies"], PROJECT["dependency-groups"]
    runtime = asked_for(project["dependencies"])
    local = runtime | asked_for(extras["local"]) | asked_for(groups["build"])
    everything = local | asked_for(extras["postgres"]) | asked_for(groups["dev"])
    assert runtime - pins("runtime").keys() == set()
    assert local - pins("local").keys() == set()
    assert everything - pins("dev").keys() == set()
    assert asked_for(groups["image"]) == pins("image").keys()
