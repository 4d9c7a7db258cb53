"""`dstackd prices`."""

from __future__ import annotations

import json
from pathlib import Path

from dstackd.prices.table import table_path
from tests.cli.program import dstackd
from tests.prices.price_lists import GOOD, price_list, published

REGION = "eu-west-1"


def variables(folder: Path, region: str = REGION) -> dict[str, str]:
    """A configuration without a file."""
    backends = json.dumps([{"region": region, "bucket": "prices"}])
    return {"DSTACKD_STATE__DIRECTORY": str(folder), "DSTACKD_BACKENDS": backends}


def test_prices_are_read_and_shown(tmp_path: Path) -> None:
    """From a URL into the state directory; then they are what `show` shows, with date and source, and no longer estimates."""
    before = dstackd("prices", "show", "m5.large", variables=variables(tmp_path))
    assert before.code == 0
    assert "m5.large  ~0." in before.out
    assert "estimates: AWS's own are read by dstackd prices refresh" in before.err
    with published(price_list()) as url:
        done = dstackd("prices", "refresh", "--from", url, variables=variables(tmp_path))
    assert (done.code, done.out) == (0, "")
    assert "3 prices of 2026-11-05T22:10:02Z for eu-west-1" in done.err
    after = dstackd("prices", "show", "m5.*", variables=variables(tmp_path))
    assert after.out.splitlines() == ["TYPE       USD/H", "m5.large   0.1070", "m5.xlarge  0.2140"]
    assert after.err == f"eu-west-1, on-demand, Linux, as of 2026-11-05T22:10:02Z: {url}\n"
    shown = dstackd("prices", "show", "--json", variables=variables(tmp_path))
    answer = json.loads(shown.out)
    assert answer["usd_h"] == GOOD
    assert (answer["estimated"], answer["source"]) == (False, url)


def test_the_region_is_that_of_the_configured_backend(tmp_path: Path) -> None:
    """As the daemon's configuration file names it."""
    (tmp_path / "dstackd.toml").write_text(
        f'[[backends]]\nregion = "{REGION}"\nbucket = "prices"\n'
    )
    done = dstackd("prices", "show", "m5.large", folder=tmp_path, variables={})
    assert (done.code, done.err.split(",")[0]) == (0, REGION)


def test_a_file_will_do(tmp_path: Path) -> None:
    """For hosts without a way to AWS's list; --region chooses another region than the backend's."""
    (tmp_path / "index.csv").write_text(price_list())
    done = dstackd(
        *("prices", "refresh", "--region", REGION, "--from", "index.csv"),
        folder=tmp_path,
        variables=variables(tmp_path / "state", region="us-east-1"),
    )
    assert done.code == 0
    assert table_path(tmp_path / "state" / "cache", REGION).is_file()


def test_newer_prices_stay_in_use(tmp_path: Path) -> None:
    """A list older than the shipped one is kept, and said to be older."""
    old = price_list(about={"Publication Date": "2020-01-01T00:00:00Z"}).replace(
        "eu-west-1", "us-east-1"
    )
    (tmp_path / "index.csv").write_text(old)
    done = dstackd(
        *("prices", "refresh", "--from", "index.csv"),
        folder=tmp_path,
        variables=variables(tmp_path, region="us-east-1"),
    )
    assert done.code == 0
    assert "they are older than those of" in done.err


def test_a_wrong_list_changes_nothing(tmp_path: Path) -> None:
    """What was read before stays; the exit code and the text say why."""
    (tmp_path / "good.csv").write_text(price_list())
    (tmp_path / "bad.csv").write_text("SKU,PricePerUnit\n")
    known = variables(tmp_path)
    dstackd("prices", "refresh", "--from", "good.csv", folder=tmp_path, variables=known)
    kept = table_path(tmp_path / "cache", REGION).read_bytes()
    done = dstackd("prices", "refresh", "--from", "bad.csv", folder=tmp_path, variables=known)
    assert (done.code, done.out) == (1, "")
    assert "bad.csv: is not a price list of AmazonEC2" in done.err
    assert table_path(tmp_path / "cache", REGION).read_bytes() == kept


def test_a_region_is_needed(tmp_path: Path) -> None:
    """From the configuration or the option, and one that can be part of a file's name."""
    state = {"DSTACKD_STATE__DIRECTORY": str(tmp_path)}
    missing = dstackd("prices", "show", folder=tmp_path, variables=state)
    assert missing.code == 2
    assert "give --region" in missing.err
    odd = dstackd("prices", "show", "--region", "../x", folder=tmp_path, variables=state)
    assert odd.code == 2
    assert "is not a region" in odd.err


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The state directory is the daemon's."""
    (tmp_path / "index.csv").write_text(price_list())
    (tmp_path / "state").write_text("a file")
    done = dstackd(
        *("prices", "refresh", "--from", "index.csv"),
        folder=tmp_path,
        variables=variables(tmp_path / "state"),
    )
    assert done.code == 1
    assert "run this as the daemon's user" in done.err


def test_unknown_types_are_said_to_be(tmp_path: Path) -> None:
    """An empty table would look like a broken one."""
    done = dstackd("prices", "show", "nosuch.*", variables=variables(tmp_path))
    assert (done.code, done.out) == (0, "")
    assert "no price is known for nosuch.*" in done.err
