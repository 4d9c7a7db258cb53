"""The texts that a job counts the words of, and the same count made here.

Law: the count is written in Python and shares nothing with the job's shell commands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TEXTS: Final[Mapping[str, str]] = {
    "anchor.txt": """The anchor has one duty, and it is to be heavy. It does not steer, it does not
row, and it has never seen the sky for longer than a morning. But when the wind comes down from the
hills and the whole harbour begins to turn, it is the anchor that every boat remembers.
""",
    "clock.txt": """A clock in an empty room still goes. It does not ask whether anybody looks. When the
door opens after a year, it can say how long that was; the room cannot.
""",
    "ferry.txt": """The ferry leaves when the last seat is taken or when the bell has rung twice,
whichever comes first. Nobody has ever been left on the bank, because the ferry comes back. It comes
back empty, it comes back full, and once it came back with a piano and no explanation.
""",
    "ledger.txt": """Write it down first. Then do it. Then write down that it was done. If the lamp goes
out between the first line and the second, whoever comes next can read what was meant, look at what
is there, and go on from the line where the ink stops.
""",
    "orchard.txt": """In the orchard they count the apples twice: once on the tree and once in the basket.
The two numbers are never the same in a wind, and the difference has a name. They call it the
deer's share, and they write it down as well.
""",
}

WORDS_FILE: Final = "words.tsv"
FILES_FILE: Final = "files.tsv"

COUNTING: Final = (
    "mkdir -p out",
    r"cat texts/*.txt | tr 'A-Z' 'a-z' | tr -cs 'a-z' '\n' | grep . > all",
    rf"""LC_ALL=C sort all | uniq -c | awk '{{ print $2 "\t" $1 }}' > out/{WORDS_FILE}""",
    "for text in texts/*.txt; do",
    r"  words=$(tr -cs 'A-Za-z' '\n' < $text | grep -c .)",
    rf"""  printf '%s\t%s\n' "$(basename "$text")" "$words" >> out/{FILES_FILE}""",
    "done",
    f"cat out/{FILES_FILE}",
)
"""The job's commands: how often each word occurs, and how many words each text has."""

_WORD = re.compile("[a-z]+")


def write_texts(folder: Path) -> None:
    """Make `folder` and put the texts into it."""
    folder.mkdir(parents=True)
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="ascii")


def count_words(folder: Path) -> dict[str, bytes]:
    """What the job's artifacts have to contain, by file name, for the texts in `folder`."""
    words: Counter[str] = Counter()
    lengths: list[tuple[str, int]] = []
    for path in sorted(folder.glob("*.txt")):
        found = _WORD.findall(path.read_text(encoding="ascii").lower())
        words.update(found)
        lengths.append((path.name, len(found)))
    return {WORDS_FILE: _table(sorted(words.items())), FILES_FILE: _table(lengths)}


def _table(rows: list[tuple[str, int]]) -> bytes:
    return "".join(f"{name}\t{count}\n" for name, count in rows).encode()
