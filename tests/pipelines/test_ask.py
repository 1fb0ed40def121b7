"""What analysts ask on the command line: answers for people and for programs, files, and recommendations.

Over two small domains whose recommendations are written by hand.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmm4rec.tables import TABLES
from pipelines.cli.parquet import check_target
from pipelines.errors import CommandError
from tests.conftest import Cli
from tests.warehouse.work import publish_catalogue, publish_domain, write_raw
from warehouse.artifacts.store import Recipe, Store

KEPT = 3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """U0 of Mugs is recommended three items by each of two models, U1 none, as none is left; Pots has none.

    U_ONCE rated one item, so the k-core does not have this user.
    """
    data = tmp_path_factory.mktemp("shop")
    for domain in ("Mugs", "Pots"):
        write_raw(data / "raw_files", domain, 0)
        with (data / "raw_files" / f"{domain}.csv").open("a") as file:
            file.write(f"\n{domain}1,U_ONCE,5.0,9\n")
        publish_domain(data, data / "raw_files", domain)
    listed = [
        {"model": model, "user_id": "U0", "rank": n, "item_id": f"Mugs{n + more}", "score": 1 / n}
        for model, more in (("scratch", 0), ("finetuned", 1))
        for n in range(1, KEPT + 1)
    ]

    def build(out: Path) -> dict[str, Any]:
        schema = TABLES["reports/recommendations/recommendations"]
        pq.write_table(pa.Table.from_pylist(listed, schema), out / "recommendations.parquet")
        return {"model": "scratch"}

    parameters = {"k": KEPT, "exclude_seen": True}
    Store(data).publish(Recipe("reports/recommendations", "Mugs", "code", {}, {}, parameters), build)
    publish_catalogue(data)
    return Cli(data)


def test_recommendations_name_their_model(shop: Cli) -> None:
    said = shop("recommend", "Mugs", "--user", "U0").stdout
    assert "Mugs, ranked by scratch" in said
    assert said.count("of 0") == KEPT
    rows = json.loads(shop("recommend", "Mugs", "--user", "U0", "-k", "2", "--json").stdout)
    assert [(row["rank"], row["item_id"], row["model"]) for row in rows] == [
        (1, "Mugs1", "scratch"),
        (2, "Mugs2", "scratch"),
    ]


def test_each_model_has_a_list_of_its_own(shop: Cli) -> None:
    said = shop("recommend", "Mugs", "--user", "U0", "--model", "finetuned", "-k", "1").stdout
    assert "Mugs, ranked by finetuned" in said
    assert "Mugs2" in said
    said = shop("recommend", "Mugs", "--user", "U0", "--model", "sasrec", code=1).stderr
    assert "Mugs has recommendations by finetuned and scratch, not by sasrec" in said


def test_more_than_are_kept_is_an_error_that_says_how_to_keep_more(shop: Cli) -> None:
    said = shop("recommend", "Mugs", "--user", "U0", "-k", "20", code=1).stderr
    assert "Mugs has 3 recommendations per user, so 20 cannot be shown" in said
    assert "`recommendations: {k: 20}` in domains.yaml" in said


def test_who_has_no_recommendations_is_told_why(shop: Cli) -> None:
    assert "U1 has all 9 items of Mugs: no item is left" in shop("recommend", "Mugs", "--user", "U1").stdout
    assert json.loads(shop("recommend", "Mugs", "--user", "U1", "--json").stdout) == []
    assert "whom its ratings do not name: give an id" in shop("recommend", "Mugs", "--user", "U99", code=1).stderr
    said = shop("recommend", "Mugs", "--user", "U_ONCE", code=1).stderr
    assert "is not in its k-core: too few of this user's ratings (1) are left" in said
    assert "Pots has no recommendations yet" in shop("recommend", "Pots", "--user", "U0", code=1).stderr


NUMBERS = (
    "SELECT 0.123456789::FLOAT AS a, 1234.56789::DOUBLE AS b, [1e-7 / 3] AS c, 'NaN'::DOUBLE AS d, 1234567 AS e, "
    "1.1::FLOAT AS f"
)


def test_people_get_rounded_numbers_and_programs_all_digits(shop: Cli) -> None:
    shown = shop("sql", NUMBERS).stdout.splitlines()[-2].split()
    assert shown == ["0.1235", "1234.5679", "[3.333e-08]", "nan", "1234567", "1.1"]
    (row,) = json.loads(shop("sql", NUMBERS, "--json").stdout)
    assert row["b"] == 1234.56789
    assert row["c"] == [1e-7 / 3]
    assert "1234.56789" in shop("sql", NUMBERS, "--csv").stdout


def test_an_example_says_what_it_takes_by_default(shop: Cli) -> None:
    took = shop("sql", "--example", "popular_items", "--json")
    assert "domain = Mugs (the domain; by default the first one); --param domain=... sets another" in took.stderr
    assert {row["item_id"][:4] for row in json.loads(took.stdout)} == {"Mugs"}
    given = shop("sql", "--example", "popular_items", "--param", "domain=Pots", "--csv")
    assert "domain" not in given.stderr
    bought = shop("sql", "--example", "history_and_recommendations", "--json")
    assert "user = U0" in bought.stderr
    assert [row["title"] for row in json.loads(bought.stdout) if row["what"] == "recommended"] == [
        f"{n} of 0" for n in range(1, KEPT + 1)
    ]


def test_an_answer_is_written_as_parquet(shop: Cli, tmp_path: Path) -> None:
    file = tmp_path / "answer.parquet"
    asked = "SELECT domain, rated_at, rating FROM core.interactions ORDER BY ALL"
    said = shop("sql", asked, "--out", str(file)).stdout
    written = pq.read_table(file)
    assert f"wrote {written.num_rows:,} rows to {file}" in said
    assert written.schema.field("rated_at").type == pa.timestamp("us")
    assert written["domain"].unique().to_pylist() == ["Mugs", "Pots"]
    shop("sql", "--example", "popular_items", "--param", "top=2", "--out", str(file))
    assert pq.read_table(file).num_rows == 2
    shop("sql", "FROM domains LIMIT 0", "--out", str(file))
    assert pq.read_table(file).num_rows == 0
    assert [path.name for path in tmp_path.iterdir()] == ["answer.parquet"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("SELECT 1 AS a, 2 AS a", "two columns are named a"),
        ("SELECT INTERVAL 1 DAY AS a", "cannot be written"),
        ("SELECT error('no') AS a FROM range(9)", "refuses the query"),
        ("COPY (SELECT 1) TO 'x.parquet'", "read-only"),
    ],
)
def test_an_answer_that_cannot_be_written_leaves_what_was_there(
    shop: Cli, tmp_path: Path, asked: str, said: str
) -> None:
    file = tmp_path / "answer.parquet"
    file.write_text("before")
    assert said in shop("sql", asked, "--out", str(file), code=1).stderr
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["answer.parquet"]


def test_no_artifact_is_written_over(shop: Cli, tmp_path: Path) -> None:
    artifact = Store(shop.data).require("core/items", "Mugs").main
    before = artifact.read_bytes()
    linked, hard, folder = tmp_path / "linked.parquet", tmp_path / "hard.parquet", tmp_path / "folder.parquet"
    linked.symlink_to(artifact)
    hard.hardlink_to(artifact)
    folder.mkdir()
    (tmp_path / "way").symlink_to(artifact.parent)
    for target, why in (
        (artifact, "lies in the data folder"),
        (shop.data / "new.parquet", "lies in the data folder"),
        (tmp_path / "way" / "new.parquet", "lies in the data folder"),
        (linked, "not a regular file"),
        (hard, "is read-only"),
        (folder, "not a regular file"),
        (tmp_path / "nowhere" / "x.parquet", "there is no folder"),
        (tmp_path / "x.csv", "ends with .parquet"),
    ):
        with pytest.raises(CommandError, match=why):
            check_target(target, shop.data)
    assert "lies in the data folder" in shop("sql", "SELECT 1", "--out", str(artifact), code=1).stderr
    assert artifact.read_bytes() == before


@pytest.mark.parametrize("more", [["--csv"], ["--json"], ["--examples"], []])
def test_out_is_for_one_answer(shop: Cli, tmp_path: Path, more: list[str]) -> None:
    asked = ["SELECT 1"] if more in (["--csv"], ["--json"]) else []
    assert "--out is for one query" in shop("sql", *asked, "--out", str(tmp_path / "x.parquet"), *more, code=2).stderr


def test_an_answer_with_too_many_columns_is_shown_row_by_row(shop: Cli) -> None:
    said = Cli(shop.data, columns=80)("sql", "FROM domains ORDER BY domain").stdout
    lines = said.splitlines()
    first, second = lines.index("row 1"), lines.index("row 2")
    assert [line.split() for line in lines[first + 1 : first + 3]] == [["domain", "Mugs"], ["users", "12"]]
    assert second - first > 20
    assert lines[second + 1].split() == ["domain", "Pots"]
    assert "row 1" not in Cli(shop.data, columns=400)("sql", "FROM domains").stdout


def test_long_values_null_and_empty_text(shop: Cli) -> None:
    shop = Cli(shop.data, columns=80)
    wide = ", ".join(f"NULL AS c{number}" for number in range(20))
    lines = shop("sql", f"SELECT repeat('long ', 40) AS text, '' AS nothing, {wide}").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("text     long long")
    assert lines[1].endswith("…")
    assert [line.split() for line in lines[2:4]] == [["nothing", "''"], ["c0", "NULL"]]
    assert shop("sql", "SELECT '' AS a, NULL AS b").stdout.split()[-2:] == ["''", "NULL"]
    assert "''" not in shop("sql", "--examples").stdout, "a list is no answer: an example without parameters"
