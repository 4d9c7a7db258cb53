"""`python -m tests.fuzz TARGET SECONDS`: coverage-guided fuzzing of one target with atheris. Law: writes below a temporary folder only.

What it finds it leaves there and names; a file of it that is copied to `corpus/TARGET/` is a regression test from then on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.fuzz import targets

INPUT_BYTES_MAX = 65_536
INPUT_S_MAX = 10
MEMORY_MB_MAX = 2_048


def main(arguments: list[str]) -> None:
    """Fuzz until the time is over, or something is found. Ends the process."""
    if len(arguments) != 2 or arguments[0] not in targets.NAMES:
        print(f"usage: python -m tests.fuzz TARGET SECONDS; targets: {' '.join(targets.NAMES)}")
        raise SystemExit(2)
    try:
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore] # not on every platform
    except ImportError:
        print(
            "atheris is not here (it has wheels for Linux on x86-64); pytest tests/fuzz needs none"
        )
        raise SystemExit(2) from None
    name, seconds = arguments
    with atheris.instrument_imports(include=["dstackd"]):
        run = targets.run_of(name)
    folder = Path(tempfile.mkdtemp(prefix=f"dstackd-fuzz-{name}-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    kept = [path.read_bytes() for path in targets.kept_of(name)]
    for number, content in enumerate([*targets.samples_of(name), *kept]):
        (corpus / f"sample-{number}").write_bytes(content)
    print(
        f"findings: {folder}; what is copied to {targets.CORPUS / name} is a test from then on",
        flush=True,
    )
    options = [
        f"-max_total_time={int(seconds)}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
