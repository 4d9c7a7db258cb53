"""config/dstackd.example.toml is the documentation of every key, so it has to be right."""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dstackd.config import Settings, load_settings
from dstackd.core.bounds import ProjectBounds
from tests.tidy.source_tree import ROOT

PATH = ROOT / "config" / "dstackd.example.toml"
TEXT = PATH.read_text()
UNCOMMENTED = re.sub(r"^#(?=\S)", "", TEXT, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DSTACKD_")]:
        monkeypatch.delenv(name)


def defaults() -> Settings:
    """What the code says, with the example's region and bucket, and its project of defaults."""
    written = tomllib.loads(TEXT)
    tables = {name: written[name] for name in ("backends", "projects")}
    return Settings(**tables)


def keys_of(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Every key, nested ones with dots; lists of tables count as one table."""
    keys: set[str] = set()
    for name, value in values.items():
        table = value[0] if isinstance(value, list) and value and type(value[0]) is dict else value
        keys |= keys_of(table, f"{prefix}{name}.") if type(table) is dict else {prefix + name}
    return keys


def test_as_it_is_it_changes_nothing(tmp_path: Path) -> None:
    """A copy with a region and a bucket is a configuration with every default."""
    copy = tmp_path / "dstackd.toml"
    copy.write_text(TEXT)
    written = tomllib.loads(TEXT)
    assert set(written["backends"][0]) == {"region", "bucket"}
    assert written["projects"] == {"main": {}}
    settings = load_settings(copy)
    assert settings.bounds.of("main") == ProjectBounds()
    assert settings.http.listen == defaults().http.listen
    assert settings.backends == defaults().backends


def test_uncommented_it_is_the_defaults() -> None:
    """Every value that the example shows is the one that the code has."""
    assert Settings(**tomllib.loads(UNCOMMENTED)) == defaults()


def test_no_key_is_missing() -> None:
    """Every key that the code knows is in the example, and no other."""
    expected = keys_of(defaults().model_dump(mode="json"))
    assert keys_of(tomllib.loads(UNCOMMENTED)) == expected


def test_every_key_is_explained() -> None:
    """Above each key stands what it is for."""
    lines = TEXT.splitlines()
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if re.match(r"#?\w+ = ", line) and not before.startswith("# ") and "type = " not in line
    ]
    assert bare == ['#secret_access_key = ""']


def test_the_bounds_are_those_of_the_code() -> None:
    """Where the comment names bounds, `(low to high)`, they are the ones that are checked."""
    documented = re.findall(
        r"\(([\d.]+) to (\d+)\)[^=]*?\n#(\w+_(?:s|mib|max|days|ahead|burst|machines|vcpus|minute|usd)) = ",
        TEXT,
    )
    sections = [
        getattr(each.annotation, "model_fields", {}) for each in Settings.model_fields.values()
    ]
    actual = {
        (key, float(low.ge), float(high.le))
        for section in sections
        for key, field in section.items()
        for low in field.metadata
        for high in field.metadata
        if hasattr(low, "ge") and hasattr(high, "le")
    }
    assert {(key, float(low), float(high)) for low, high, key in documented} == actual
