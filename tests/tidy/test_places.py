"""No file knows the machine or the place where it was written."""

from __future__ import annotations

import re

from tests.tidy.source_tree import ROOT, shown, text_files

# Put together here, so that this file does not contain what it looks for.
HOMES = re.compile(r"/(?:home|Users)/(?!\b(?:user|ec2-user|ubuntu|admin|dstackd)\b)[a-z]\w*/")
WORKPLACES = re.compile("/" + r"work/(?:main|shared|\.library)|/" + r"root/\.pyenv|bash_" + "jobs")
REGISTRIES = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            "registry" + r"\.npmjs",
            r"deb\." + r"debian\.org",
            r"--(?:extra-)?" + r"index-url[ =]",
            r"/sim" + r"ple/",
        )
    )
)


def found(pattern: re.Pattern[str]) -> list[str]:
    """Each place where a file contains the pattern."""
    return [
        f"{shown(path)}:{number}: {match[0]}"
        for path in text_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (match := pattern.search(line))
    ]


def test_no_path_of_one_machine() -> None:
    """A path that exists on one person's machine only is in no file."""
    assert (places := found(HOMES) + found(WORKPLACES)) == [], "\n".join(["", *places])


def test_no_address_of_a_registry() -> None:
    """Where packages come from is the business of the machine that installs them."""
    assert (places := found(REGISTRIES)) == [], "\n".join(["", *places])


def test_folders_of_tests_are_explained() -> None:
    """tests/README.md has a line for each folder of tests."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"}
    listed = re.findall(r"^\| `(\w+)/` ", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE)
    assert folders <= set(listed)
