"""Raw files of a shop of its own: what the commands say if a file is missing, or has another name or place."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cli.options import with_data
from pipelines.data_folder.folder import DataFolder
from pipelines.data_folder.raw_files import concerns
from pipelines.errors import SettingsError
from pipelines.planner.plan import plan
from tests.conftest import REPOSITORY, Cli
from tests.pipelines.small import write_settings
from tests.warehouse.work import write_raw
from warehouse.errors import DataError
from warehouse.raw.metadata import _Fields, ingest_metadata
from warehouse.raw.ratings import ingest_ratings


def test_the_command_to_call_next_has_the_data_folder_that_was_given() -> None:
    assert with_data("mmm4rec run", None) == "mmm4rec run"
    assert with_data("mmm4rec run", Path("my shop")) == "mmm4rec run --data 'my shop'"


def test_a_domain_with_one_of_its_files_is_told_which_is_missing(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw_files", "Toys", 0)
    (tmp_path / "raw_files" / "meta_Toys.json").unlink()
    said = r"no domain 'Toys': 'Toys.csv' is left out: there is no meta_Toys.json or meta_Toys.json.gz beside it$"
    with pytest.raises(SettingsError, match=said):
        plan(DataFolder(tmp_path), ["Toys"])


def test_a_mistyped_domain_is_told_the_nearest(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw_files", "Toys", 0)
    with pytest.raises(SettingsError, match=re.escape("no domain 'Toy' (did you mean 'Toys'?)")):
        plan(DataFolder(tmp_path), ["Toy"])


def test_a_domain_of_the_settings_without_files_is_told_what_is_similar(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw_files", "Toys", 0)
    write_settings(tmp_path, domains={"Toy": {}, "Cars": {}})
    found = DataFolder(tmp_path).missing()
    assert list(found) == ["Cars", "Toy"]
    assert found["Cars"] == (
        "there is no Cars.csv, Cars.csv.gz, Cars_5.json or Cars_5.json.gz and no meta_Cars.json or meta_Cars.json.gz "
        f"in {tmp_path / 'raw_files'}"
    )
    assert found["Toy"].endswith("; similar: 'Toys.csv', 'meta_Toys.json'")
    with pytest.raises(DataError, match=r"domain Toy has no ratings file: .* similar: 'Toys.csv'"):
        plan(DataFolder(tmp_path), ["Toy"])


@pytest.mark.parametrize(
    ("file", "category", "does"),
    [
        ("Toys.csv", "Toys", True),
        ("meta_Toys.json.gz", "Toys", True),
        ("../TOYS.CSV", "Toys", True),
        ("meta_Toys.csv", "Toys", True),
        ("reviews_Toys_5.json.gz", "Toys", True),
        ("Toys.json.gz", "Toys", True),
        ("Cars.csv", "Toys", False),
        ("meta_Cars.csv", "Toys", False),
        ("Toys_more.csv", "Toys", False),
    ],
)
def test_a_file_concerns_the_category_in_its_name(file: str, category: str, does: bool) -> None:
    assert concerns(file, [category]) is does


def test_a_run_speaks_of_the_files_that_concern_what_was_asked(cli: Cli) -> None:
    raw = cli.data / "raw_files"
    write_raw(raw, "Toys", 0)
    write_settings(cli.data, domains={"Pots": {"role": "source"}})
    for name in ("Toys_5.json", "Cars.csv", "Pots.csv"):
        (raw / name).touch()
    asked = ("--only", "core/items", "--dry-run")
    assert re.findall("left out '(.*?)'", cli("run", "Toys", *asked).stderr) == ["Pots.csv", "Toys_5.json"]
    assert re.findall("left out '(.*?)'", cli("run", *asked).stderr) == ["Cars.csv", "Pots.csv", "Toys_5.json"]
    said = cli("domains").stderr
    assert "Pots has no data: there is no meta_Pots.json or meta_Pots.json.gz in " in said
    cli("run", "Toys", *asked[:2])
    assert "nothing to do: what was asked for is up to date" in cli("run", "Toys", *asked[:2]).stdout


PAGE = (REPOSITORY / "docs" / "settings.md").read_text().partition("## Your own files")[2].partition("\n## ")[0]


def test_the_page_s_files_are_read_as_it_says(tmp_path: Path) -> None:
    ratings, product = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[:2]
    (tmp_path / "Shop.csv").write_text(ratings)
    (tmp_path / "meta_Shop.json").write_text(product)
    summary = ingest_ratings(tmp_path / "Shop.csv", tmp_path)
    assert (summary.rows, summary.quarantined) == (2, 0)
    ingest_metadata(tmp_path / "meta_Shop.json", tmp_path)
    assert [name for name in _Fields.__struct_fields__ if f"`{name}`" not in PAGE] == []
    (row,) = pq.read_table(tmp_path / "metadata.parquet").to_pylist()
    assert all(row.values()), "every field of the example is read"
    assert row["item_id"] == pq.read_table(tmp_path / "ratings.parquet")["item_id"][0].as_py() == "0004711"


def test_the_page_s_program_turns_orders_with_dates_into_ratings(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "orders.csv").write_text(
        'ordered_at,customer,product\n2023-11-14 22:13:20,"c 1",0004711\n1970-01-02,c\'2,"x""y"\n'
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert ingest_ratings(tmp_path / "Shop.csv", tmp_path).quarantined == 0
    rows = pq.read_table(tmp_path / "ratings.parquet").drop_columns("line").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("0004711", "c 1", 1.0, 1_700_000_000),
        ('x"y', "c'2", 1.0, 86_400),
    ]


def test_the_cause_comes_before_what_was_not_reached(cli: Cli) -> None:
    write_raw(cli.data / "raw_files", "Toys", 0)
    (cli.data / "raw_files" / "Toys.csv").write_text("item,user\n")
    said = cli("run", "Toys", "--only", "core/sequences", code=1).stderr
    found = re.findall(r"Toys: (\w+/\w+): (none of its 1 line|not reached)?", said)
    assert [key for key, _ in found] == ["raw/ratings", "core/interactions", "core/sequences"]
    assert [why for _, why in found[1:]] == ["not reached"] * 2
