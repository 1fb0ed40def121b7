"""Data folders that were moved or copied, damage that must stop nobody else, and domains that are forgotten.

Over two domains without models, built once.
"""

import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from pipelines import forget, lineage
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.garbage import collect
from pipelines.planner.plan import plan
from pipelines.running import runs
from pipelines.survey import survey
from tests.conftest import REPOSITORY, Cli
from tests.warehouse.work import write_raw
from warehouse.artifacts.store import ALL
from warehouse.catalogue.query import check_place, query
from warehouse.errors import DataError

pytestmark = pytest.mark.long  # tests/warehouse/test_places.py has a short form

KEYS = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences", "warehouse/catalogue")
FILES = "SELECT DISTINCT domain FROM core.items ORDER BY ALL"


@dataclass(frozen=True)
class Shop:
    """A data folder, its instance, and what `mmm4rec run` does there."""

    data: Path
    instance: dg.DagsterInstance

    @property
    def data_folder(self) -> DataFolder:
        """As the files say now."""
        return DataFolder(self.data)

    def stale(self) -> list[str]:
        """What a run would build."""
        return [f"{step.key}@{stage.domain}" for stage in self._plan() for step in stage.steps]

    def run(self) -> None:
        """Nothing fails."""
        outcomes = list(runs.execute(self.data_folder, self._plan(), self.instance))
        assert [outcome.errors for outcome in outcomes if outcome.errors or outcome.waited_for] == []

    def domains(self) -> list[str]:
        """The domains that the catalogue shows."""
        check_place(self.data_folder.catalogue, self.data)
        return [row["domain"] for row in query(self.data_folder.catalogue, FILES).to_pylist()]

    def _plan(self) -> list[runs.Stage]:
        return plan(self.data_folder, self.data_folder.present(), KEYS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the others are copies of."""
    data = tmp_path_factory.mktemp("original") / "data"
    for domain in ("Mugs", "Toys"):
        write_raw(data / "raw_files", domain, 0)
    (data / "domains.yaml").write_text("defaults: {k: 3}\n")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("MMM4REC_DATA", str(data))
        Shop(data, instance).run()
    return data


@pytest.fixture
def shop(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A copy of it, after a run of its own."""
    data = tmp_path / "data"
    shutil.copytree(original, data)
    monkeypatch.setenv("MMM4REC_DATA", str(data))
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(data, instance)
        with pytest.raises(DataError, match="was moved or copied"):
            shop.domains()
        assert shop.stale() == [f"warehouse/catalogue@{ALL}"]
        shop.run()
        yield shop


def _delete_raw_files(shop: Shop, domain: str) -> None:
    for path in (shop.data / "raw_files").glob(f"*{domain}*"):
        path.unlink()


def _damage(shop: Shop, domain: str) -> None:
    (shop.data_folder.store.require("core/items", domain).path / "manifest.json").write_text("{")


def test_a_copy_reads_its_own_files_once_it_was_run_and_so_does_a_moved_one(
    shop: Shop, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = original.rename(original.with_name("aside"))
    try:
        assert shop.domains() == ["Mugs", "Toys"]
        assert shop.stale() == []
        paths = query(shop.data_folder.catalogue, "SELECT path FROM lineage.artifacts")["path"].to_pylist()
        assert all(Path(path).is_relative_to(shop.data) and Path(path).is_dir() for path in paths)
        views = query(shop.data_folder.catalogue, "SELECT sql FROM duckdb_views() WHERE NOT internal")[
            "sql"
        ].to_pylist()
        assert not [text for text in views if str(original) in text]
    finally:
        aside.rename(original)
    moved = Shop(shop.data.rename(shop.data.with_name("moved")), shop.instance)
    monkeypatch.setenv("MMM4REC_DATA", str(moved.data))
    with pytest.raises(DataError, match="was moved or copied"):
        moved.domains()
    moved.run()
    assert moved.domains() == ["Mugs", "Toys"]


def test_going_back_to_old_raw_files_is_a_change_that_the_catalogue_shows(shop: Shop) -> None:
    """All versions are there already; what was current in between is to be seen all the same."""
    file = shop.data / "raw_files" / "Mugs.csv"
    before = file.read_text()
    for text in (before.split("\n", 1)[1], before):
        file.write_text(text)
        shop.run()
        assert shop.stale() == []
    asked = "SELECT rows, until IS NULL AS current FROM lineage.versions WHERE key = 'raw/ratings' AND domain = 'Mugs'"
    rows = [tuple(row.values()) for row in query(shop.data_folder.catalogue, asked).to_pylist()]
    whole = before.count("\n")
    assert rows == [(whole, False), (whole - 1, False), (whole, True)]


def test_a_catalogue_whose_versions_were_deleted_is_built_again(shop: Shop) -> None:
    for version in shop.data.glob("warehouse/catalogue/domain=_all/v=*"):
        shutil.rmtree(version)
    assert survey(shop.data_folder)
    assert shop.stale() == [f"warehouse/catalogue@{ALL}"]
    shop.run()
    assert shop.data_folder.damaged() == []
    assert shop.domains() == ["Mugs", "Toys"]


def test_what_is_damaged_is_built_again(shop: Shop) -> None:
    _damage(shop, "Toys")
    shop.run()
    assert shop.data_folder.damaged() == []
    assert shop.domains() == ["Mugs", "Toys"]


def test_damage_of_a_domain_that_is_gone_stops_nobody_until_it_is_forgotten(shop: Shop) -> None:
    _damage(shop, "Toys")
    _delete_raw_files(shop, "Toys")
    write_raw(shop.data / "raw_files", "Pots", 0)
    shop.run()
    assert shop.domains() == ["Mugs", "Pots"]
    assert shop.stale() == []
    (said,) = shop.data_folder.damaged()
    assert said.startswith("core/items of Toys is damaged and left out: ")
    assert said.endswith("put its raw files back first, or `mmm4rec forget Toys`")
    assert shop.data_folder.gone() == ["Toys"]
    assert collect(shop.data_folder) != []
    assert [name for name, wrong in lineage.verify(shop.data_folder).items() if wrong] == [
        name for name in lineage.verify(shop.data_folder) if name.startswith("core/items@Toys:")
    ]

    shop.instance.add_dynamic_partitions("domain", ["Toys"])
    assert forget.why_it_comes_back(shop.data_folder, "Toys") is None
    forgotten = forget.forget(shop.data_folder, "Toys", shop.instance)
    assert len(forgotten.versions) == 5
    assert [outcome.errors for outcome in forgotten.outcomes] == [{}]
    assert shop.instance.get_dynamic_partitions("domain") == ["Pots"]
    assert shop.data_folder.damaged() == shop.data_folder.gone() == []
    shown = query(shop.data_folder.catalogue, "SELECT DISTINCT domain FROM lineage.artifacts ORDER BY ALL")
    assert shown["domain"].to_pylist() == ["Mugs", "Pots"]
    collect(shop.data_folder)
    assert {domain for _, domain, _ in shop.data_folder.store.versions()} == {"Mugs", "Pots", ALL}
    with pytest.raises(SettingsError, match="no domain 'Toys'"):
        forget.check(shop.data_folder, "Toys", shop.instance)


def test_a_domain_with_raw_files_is_forgotten_until_the_next_run(shop: Shop) -> None:
    mugs = shop.data_folder.store.require("core/items", "Mugs").named
    shop.data_folder.store.mark(mugs, "pin")
    forget.check(shop.data_folder, "Mugs", shop.instance)
    assert "the next `mmm4rec run` builds it again" in str(forget.why_it_comes_back(shop.data_folder, "Mugs"))
    assert forget.forget(shop.data_folder, "Mugs", shop.instance).pinned == [lineage.named(mugs)]
    assert shop.domains() == ["Toys"]
    assert (shop.data / "raw_files/Mugs.csv").is_file()
    shop.run()
    assert shop.domains() == ["Mugs", "Toys"]

    (shop.data / "domains.yaml").write_text("domains: {Cups: {}}\n")
    assert "domains.yaml names Cups" in str(forget.why_it_comes_back(shop.data_folder, "Cups"))
    for strange in (ALL, "../x", "Nothing"):
        with pytest.raises(SettingsError, match="there is no domain"):
            forget.check(shop.data_folder, strange, shop.instance)


def test_the_commands_ask_before_they_forget_and_refuse_a_copy(original: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "data")
    shutil.copytree(original, cli.data)
    assert f"shows the files of {original}: the data folder was moved" in cli("sql", "FROM core.items", code=1).stderr
    assert "give --yes" in cli("forget", "Toys", code=2).stderr
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    asked = subprocess.run(
        [REPOSITORY / ".venv/bin/mmm4rec", "forget", "Toys", "--data", cli.data],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    assert "builds it again" in asked.stderr
    assert "Forget Toys?" in asked.stderr
    assert DataFolder(cli.data).store.is_published("core/items", "Toys")
