"""`mmm4rec fetch`, as a person calls it, from a real server and from folders."""

import gzip
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.fetch import fetch_categories
from tests.conftest import REPOSITORY, Cli
from tests.web import Fault, Site
from warehouse.raw import formats
from warehouse.raw.formats import RawFormat

RATINGS = b"B00005N7P0,AH2IFH762VY5U,5.0,1005177600\n" * 5000
METADATA = gzip.compress(b'{"asin": "B00005N7P0"}\n', mtime=0)
SCIENTIFIC = "/amazon/categoryFilesSmall/Industrial_and_Scientific.csv"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "*")
    files = {
        SCIENTIFIC: RATINGS,
        "/amazon/categoryFilesSmall/Industrial_and_Scientific_5.json.gz": METADATA,
        "/amazon/metaFiles2/meta_Industrial_and_Scientific.json.gz": METADATA,
        "/flat/Gift_Cards.csv": RATINGS,
        "/flat/meta_Gift_Cards.json.gz": METADATA,
    }
    with Site(files) as site:
        yield site


def _settings(cli: Cli, text: str) -> None:
    cli.data.mkdir(exist_ok=True)
    (cli.data / "domains.yaml").write_text(text)


def test_a_known_domain_from_the_location_of_the_settings(cli: Cli, site: Site) -> None:
    _settings(cli, f"location: {site.url}/amazon")
    shown = cli("fetch", "Scientific").stdout
    assert "Industrial_and_Scientific.csv" in shown
    assert f"{len(RATINGS):,}" in shown
    raw = cli.data / "raw_files"
    assert (raw / "Industrial_and_Scientific.csv").read_bytes() == RATINGS
    assert (raw / "meta_Industrial_and_Scientific.json.gz").read_bytes() == METADATA
    # What the fetch keeps for itself is no raw file.
    assert DataFolder(cli.data).present() == ["Scientific"]
    again = json.loads(cli("fetch", "Scientific", "Industrial_and_Scientific", "--format", "reviews", "--json").stdout)
    assert [(Path(file["path"]).name, file["kept"]) for file in again["files"]] == [
        ("Industrial_and_Scientific_5.json.gz", False),
        ("meta_Industrial_and_Scientific.json.gz", True),
    ]
    assert again["failures"] == {}
    assert len(site.asked) == 3


def test_one_that_fails_stops_no_other(cli: Cli, site: Site) -> None:
    done = cli("fetch", "Nothing", "../up", "Gift_Cards", "--from", f"{site.url}/flat/", "--json", code=1)
    answer = json.loads(done.stdout)
    assert [Path(file["path"]).name for file in answer["files"]] == ["Gift_Cards.csv", "meta_Gift_Cards.json.gz"]
    assert set(answer["failures"]) == {"Nothing.csv", "meta_Nothing.json.gz", "../up"}
    assert f"{site.url}/flat/categoryFilesSmall/Nothing.csv is not there (404)" in done.stderr
    assert "'../up' is not a category" in done.stderr
    assert sorted(path.name for path in (cli.data / "raw_files").iterdir()) == [
        ".fetched",
        "Gift_Cards.csv",
        "meta_Gift_Cards.json.gz",
    ]


def test_folders_are_relative_to_the_data_folder_or_to_here(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = cli.data / "mirror"
    mirror.mkdir(parents=True)
    (mirror / "Gift_Cards.csv").write_bytes(RATINGS)
    (mirror / "meta_Gift_Cards.json.gz").write_bytes(METADATA)
    _settings(cli, "location: mirror\nraw_folder: one")
    cli("fetch", "Gift_Cards")
    assert (cli.data / "one" / "Gift_Cards.csv").read_bytes() == RATINGS
    _settings(cli, "raw_folder: two")
    monkeypatch.chdir(mirror)
    cli("fetch", "Gift_Cards", "--from", ".")
    assert (cli.data / "two" / "Gift_Cards.csv").read_bytes() == RATINGS


def test_a_killed_command_goes_on(cli: Cli, site: Site) -> None:
    site.faults = [Fault("stall", 131_072)]
    command = ["fetch", "Scientific", "--from", f"{site.url}/amazon"]
    killed = subprocess.Popen(
        [REPOSITORY / ".venv/bin/mmm4rec", *command],
        env={**os.environ, "MMM4REC_DATA": str(cli.data)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    part = cli.data / "raw_files" / "Industrial_and_Scientific.csv.part"
    end = time.monotonic() + 300
    while not (part.exists() and part.stat().st_size == 131_072):
        assert time.monotonic() < end
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert DataFolder(cli.data).present() == []
    assert "continued from 131,072" in cli(*command).stdout
    assert [asked.range for asked in site.asked if asked.path == SCIENTIFIC] == [None, "bytes=131072-"]
    assert (cli.data / "raw_files" / "Industrial_and_Scientific.csv").read_bytes() == RATINGS


def test_names_of_domains_and_of_categories(tmp_path: Path) -> None:
    (tmp_path / "domains.yaml").write_text("domains: {Shop: {category: My-Shop.2024}, Arts: {k: 3}, Plain: }")
    data_folder = DataFolder(tmp_path)
    assert data_folder.category("Arts") == "Arts_Crafts_and_Sewing"
    assert data_folder.category("Food") == "Grocery_and_Gourmet_Food"
    assert data_folder.category("Shop") == "My-Shop.2024"
    assert data_folder.category("Plain") == "Plain"
    for name in ("", ".", "..", "a/b", "a\\b", "a\n", "-x", "x" * 201):
        with pytest.raises(SettingsError, match="is not a category"):
            data_folder.category(name)


def test_a_format_of_the_registry_that_is_published_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of its kind is fetched unless another one is asked for; what is not published cannot be asked for."""
    origin = "new/{}.jsonl"
    new = RawFormat("new", "ratings", ("{}.new",), "warehouse.raw.ratings:ingest_ratings", origin)
    at_home = RawFormat("at-home", "ratings", ("{}.home",), "warehouse.raw.ratings:ingest_ratings")
    mirror = tmp_path / "mirror"
    (mirror / "new").mkdir(parents=True)
    for name, content in {"new/Toys.jsonl": RATINGS, "Toys.csv": RATINGS, "meta_Toys.json.gz": METADATA}.items():
        (mirror / name).write_bytes(content)

    def fetched(*chosen: str) -> list[str]:
        found, failures = fetch_categories(DataFolder(tmp_path), ["Toys"], str(mirror), chosen=chosen, force=True)
        assert not failures
        return [file.path.name for file in found]

    before = formats.FORMATS
    monkeypatch.setattr(formats, "FORMATS", (*before, new, at_home))
    assert fetched() == ["Toys.csv", "meta_Toys.json.gz"]
    assert fetched("new") == ["Toys.jsonl", "meta_Toys.json.gz"]
    monkeypatch.setattr(formats, "FORMATS", (new, *before))
    assert fetched() == ["Toys.jsonl", "meta_Toys.json.gz"]
    for unpublished in ("at-home", "notes"):
        with pytest.raises(SettingsError, match=f"'{unpublished}' are published; formats: new, ratings, reviews, meta"):
            fetched(unpublished)


def test_settings_and_fetch_agree_on_what_a_category_is(tmp_path: Path, site: Site) -> None:
    """Also if a character of it means something in an address."""
    site.files |= {"/flat/Caf%C3%A9%3F.csv": RATINGS, "/flat/meta_Caf%C3%A9%3F.json.gz": METADATA}
    (tmp_path / "domains.yaml").write_text('domains: {Cafe: {category: "Café?"}}', encoding="utf-8")
    data_folder = DataFolder(tmp_path)
    assert data_folder.settings.domain("Cafe").category == data_folder.category("Cafe") == "Café?"
    _, failures = fetch_categories(data_folder, ["Cafe"], f"{site.url}/flat")
    assert not failures
    assert data_folder.present() == ["Cafe"]
