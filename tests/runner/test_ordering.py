"""What goes up first when time may end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dstackd.runner.collect import Found, Seen
from dstackd.runner.ordering import most_valuable_first


def found(path: str, size: int, mtime_s: float) -> Found:
    mtime_ns = int(mtime_s * 1e9)
    return Found(path, Seen(1, 1, size, mtime_ns, mtime_ns))


files = st.lists(
    st.builds(
        found,
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
        st.integers(0, 2**40),
        st.floats(0, 2e9),
    ),
    max_size=8,
)


@given(files)
def test_smaller_and_newer_never_comes_after(files: list[Found]) -> None:
    """Whatever else there is; and every file comes once."""
    ordered = most_valuable_first(files)
    assert sorted(ordered) == sorted(files)
    for at, later in enumerate(ordered):
        for earlier in ordered[:at]:
            assert not (
                later.seen.size < earlier.seen.size
                and later.seen.mtime_ns > earlier.seen.mtime_ns + 1
            )


def test_of_checkpoints_the_newest_and_before_them_what_is_small() -> None:
    """Five checkpoints of a gigabyte, ten minutes apart, a state file and a log."""
    checkpoints = [found(f"step{n}", 2**30 + n, n * 600) for n in range(5)]
    small = [found("log", 50_000, 2400), found("state.json", 100, 2390)]
    assert [file.path for file in most_valuable_first([*checkpoints, *small])] == [
        "log",
        "state.json",
        "step4",
        "step3",
        "step2",
        "step1",
        "step0",
    ]
