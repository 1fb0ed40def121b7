"""Bad input: a clear error or a counted rejection, nothing half-written, and the other domains go on."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data_folder.folder import DataFolder
from tests.conftest import Cli
from tests.pipelines.small import write_settings, write_shop

pytestmark = pytest.mark.long

ROLES = {"Pots": {"role": "source"}}


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """Two target domains and a source, the products of one of them compressed."""
    write_shop(cli.data, "Toys", "Mugs", sources=("Pots",))
    plain = cli.data / "raw_files" / "meta_Toys.json"
    plain.with_suffix(".json.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return cli


def _whole(cli: Cli) -> None:
    """Whatever was published is whole, and nothing else is there."""
    for pointer in cli.data.glob("*/*/domain=*/CURRENT"):
        version = pointer.parent / f"v={pointer.read_text()}"
        manifest = json.loads((version / "manifest.json").read_text())
        assert {path.name for path in version.iterdir()} == {*manifest["files"], "manifest.json"}
    for folder in cli.data.glob("*/*/domain=*"):
        assert (folder / "CURRENT").exists(), f"{folder} has versions and no CURRENT"
    staging = cli.data / ".staging"
    assert not staging.exists() or not any(staging.iterdir())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(b"\x00\xff\xfe no gzip\n" * 20)


@pytest.mark.parametrize(
    ("file", "spoil", "asset", "said"),
    [
        ("Toys.csv", _zero, "raw/ratings", "empty"),
        ("Toys.csv", _noise, "raw/ratings", "none of its"),
        ("meta_Toys.json.gz", _zero, "raw/metadata", "empty"),
        ("meta_Toys.json.gz", _cut, "raw/metadata", "cut"),
        ("meta_Toys.json.gz", _noise, "raw/metadata", "gz"),
    ],
)
def test_a_spoilt_raw_file(shop: Cli, file: str, spoil: Callable[[Path], None], asset: str, said: str) -> None:
    spoil(shop.data / "raw_files" / file)
    failed = shop("run", "--only", asset, code=1)
    assert file in failed.stderr.replace("\n", "")
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
    store = DataFolder(shop.data).store
    assert store.current(asset, "Toys") is None
    assert store.current(asset, "Mugs") is not None
    _whole(shop)


def test_a_missing_raw_file(shop: Cli) -> None:
    write_settings(shop.data, domains={"Toys": {"role": "target"}})
    (shop.data / "raw_files" / "Toys.csv").unlink()
    failed = shop("run", "Toys", code=1)
    assert "Toys.csv" in failed.stderr.replace("\n", "")
    assert "mmm4rec run Toys" in failed.stderr.replace("\n", " ")
    assert DataFolder(shop.data).store.all_current() == []


def test_nothing_at_all(cli: Cli) -> None:
    assert "mmm4rec sample" in cli("run", code=1).stderr
    assert "mmm4rec run" in cli("report", code=1).stderr
    assert "mmm4rec run" in cli("sql", "SELECT 1", code=1).stderr


def test_a_core_that_leaves_nothing_holds_up_only_its_domain(shop: Cli) -> None:
    write_settings(shop.data, domains={**ROLES, "Toys": {"k": 500}})
    failed = shop("run", code=1)
    said = " ".join(failed.stderr.split())
    assert "Toys: core/sequences: the 500-core of the" in said
    assert "lower k" in said
    store = DataFolder(shop.data).store
    assert store.current("core/sequences", "Toys") is None
    assert store.require("core/interactions", "Toys")
    assert store.require("reports/recommendations", "Mugs")
    assert {row["domain"] for row in json.loads(shop("report", "--json").stdout)["results"]} == {"Mugs", "Pots"}
    _whole(shop)
    write_settings(shop.data, domains=ROLES)
    shop("run")
    assert len(json.loads(shop("report", "--json").stdout)["results"]) == 3


def test_other_counts_than_published_are_a_warning(shop: Cli) -> None:
    published = {"users": 1, "items": 2, "interactions": 3}
    write_settings(shop.data, domains={**ROLES, "Toys": {"published": published}})
    layers = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences")
    said = shop("run", "Toys", *(f"--only={asset}" for asset in layers)).stderr
    summary = DataFolder(shop.data).store.require("core/sequences", "Toys").manifest.summary
    assert f"users {summary['users']} (published: 1)" in said
    assert f"interactions {summary['interactions']} (published: 3)" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("domains: {Toys: {rol: target}}", "role"),
        ("modell: {}", "model"),
        ("domains: {Toys: {k: five}}", "k"),
        ("domains: {'../Toys': {role: target}}", "no domain name"),
        ("finetuning: {metric: NDCG@11}", "NDCG@10"),
        ("- a list", "mapping"),
        ("{", "not YAML"),
    ],
)
def test_settings_that_mean_nothing(cli: Cli, settings: str, said: str) -> None:
    cli.data.mkdir()
    (cli.data / "domains.yaml").write_text(settings)
    failed = cli("domains", code=1)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_hostile_category_never_becomes_a_path(cli: Cli) -> None:
    raw = cli.data / "raw_files"
    raw.mkdir(parents=True)
    (raw / "a'; DROP TABLE x --.csv").write_text("i,u,5,1\n")
    (raw / "meta_a'; DROP TABLE x --.json.gz").write_bytes(gzip.compress(b"{}\n"))
    assert "no domain name" in cli("run", code=1).stderr


def test_the_sample_keeps_out_of_a_folder_in_use(cli: Cli) -> None:
    raw = cli.data / "raw_files"
    raw.mkdir(parents=True)
    (raw / "Mine.csv").write_text("i,u,5,1\n")
    assert "other files" in cli("sample", code=1).stderr
    assert [path.name for path in raw.iterdir()] == ["Mine.csv"]


def test_wrong_usage_is_exit_code_2(cli: Cli) -> None:
    cli("search", "--domain", "X", code=2)
    cli("run", "--nonsense", code=2)
    cli("recommend", "X", code=2)
