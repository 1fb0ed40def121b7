"""`mmm4rec compare`: trains over built domains, writes a page that opens by itself, and the figures behind it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmm4rec.comparison.trainings import ABLATIONS, NAMES
from mmm4rec.tables import COMPARISON, TABLES
from pipelines.compare import LABELS, _published
from pipelines.data_folder.folder import DataFolder
from pipelines.dictionary import sql_type
from pipelines.reports.charts import convergence, shares, svg
from tests.conftest import Cli
from tests.pages import breaches
from tests.pipelines.small import write_shop

pytestmark = pytest.mark.long

BUILT = (
    "raw/ratings",
    "raw/metadata",
    "core/items",
    "core/interactions",
    "core/sequences",
    "features/item_text",
    "features/item_images",
    "features/text_embeddings",
    "features/image_embeddings",
    "models/baselines",
)
"""What models learn from, what that is made from, and models that a comparison trains, too."""
VOID = {"meta", "link", "img", "br", "hr", "input"}
ARGUMENTS = ("--seeds", "1", "--models", "sasrec,scratch,finetuned", "--users", "50,100", "--epochs", "1")


class Page(HTMLParser):
    """A page whose tags all close, with the text of its tables' rows by the table's class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.outside += [v or "" for name, v in attrs if name in ("src", "href") and not (v or "").startswith("#")]
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(given.get("class") or "", [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A target and a source domain, built as far as models need it."""
    cli = Cli(tmp_path_factory.mktemp("shop"))
    baselines = {"sasrec": {"model": {"hidden": 8, "layers": 1, "inner": 8}}}
    write_shop(cli.data, "Toys", sources=("Mugs",), baselines=baselines)
    cli("run", *(part for key in BUILT for part in ("--only", key)))
    return cli


@pytest.fixture(scope="module")
def compared(shop: Cli) -> Page:
    done = shop("compare", "Toys", *ARGUMENTS)
    assert "finetuned" in done.stdout
    return Page((shop.data / "comparison.html").read_text())


def test_the_page_opens_by_itself_and_shows_every_table(shop: Cli, compared: Page) -> None:
    assert compared.outside == []
    assert breaches((shop.data / "comparison.html").read_text()) == []
    text = {name: [" ".join(row) for row in rows] for name, rows in compared.tables.items()}
    assert set(text) == {"accuracy", "costs", "transfer", "ablations"}
    for model in ("popularity", "item-kNN", "SASRec †", "MMM4Rec from scratch", "MMM4Rec, fine-tuned"):
        assert any(row.startswith(model) for row in text["accuracy"]), model
    assert sum("the best on validation" in row for row in text["accuracy"]) == 1
    assert any(row.startswith("attention in place of SSD") for row in text["ablations"])
    assert text["ablations"][1].startswith("MMM4Rec from scratch")
    assert len(text["transfer"]) == 1 + 2, "a row for each share of users"
    assert all(len({len(row) for row in rows}) == 1 for rows in compared.tables.values())


def test_the_page_says_when_it_was_compared_and_from_what(shop: Cli, compared: Page) -> None:
    text = " ".join((shop.data / "comparison.html").read_text().split())
    made = DataFolder(shop.data).store.require("reports/comparison", "Toys").manifest.created
    assert f"Compared on {made[:10]} {made[11:16]} UTC." in text
    days = "SELECT min(rated_at)::DATE::VARCHAR AS first, max(rated_at)::DATE::VARCHAR AS last FROM core.interactions"
    (known,) = json.loads(shop("sql", f"{days} WHERE domain = 'Toys'", "--json").stdout)
    assert f"Ratings from {known['first']} to {known['last']}." in text
    sources = "SELECT source, sha256[:12] AS sha FROM lineage.sources WHERE key LIKE 'raw/%' AND domain = 'Toys'"
    files = json.loads(shop("sql", sources, "--json").stdout)
    assert len(files) == 2
    assert all(f"{file['source']} ({file['sha']})" in text for file in files)


def test_the_figures_of_the_page_are_those_of_the_tables(shop: Cli, compared: Page) -> None:
    rows = json.loads(shop("sql", "FROM reports.comparison", "--json").stdout)
    shown = {row[0]: row for row in compared.tables["accuracy"]}
    head = compared.tables["accuracy"][0]
    for model, label in (("popularity", "popularity"), ("scratch", "MMM4Rec from scratch †")):
        for row in rows:
            column = f"{row['metric']}@{row['k']}"
            if (row["model"], row["percent"]) == (model, 100) and column in head:
                error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
                assert shown[label][head.index(column)] == f"{row['value']:.4f}{error}"


def test_the_counts_are_those_of_the_sequences(shop: Cli, compared: Page) -> None:
    store = DataFolder(shop.data).store
    summary = store.require("reports/comparison", "Toys").manifest.summary
    sequences = store.require("core/sequences", "Toys").path
    for table in ("users", "items", "interactions"):
        assert summary[table] == pq.read_metadata(sequences / f"{table}.parquet").num_rows > 0


def test_again_it_trains_nothing_and_writes_the_same(shop: Cli, compared: Page) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (shop.data / "cache" / "comparison").glob("*/finished/*")}
    page = (shop.data / "comparison.html").read_bytes()
    out = shop.data / "elsewhere.html"
    said = json.loads(shop("compare", "Toys", *ARGUMENTS, "--out", str(out), "--json").stdout)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((shop.data / "cache" / "comparison").glob("*/finished/*"))) == len(kept)
    assert out.read_bytes() == page
    assert said["page"] == str(out)
    assert said["domains"].keys() == {"Toys"}
    assert set(said["domains"]["Toys"]) == {"comparison", "tests", "curves", "costs"}
    assert {row["model"] for row in said["domains"]["Toys"]["comparison"]} >= {"popularity", "sasrec", "finetuned"}


def test_what_a_run_has_trained_is_tested_and_not_trained_again(shop: Cli, compared: Page) -> None:
    (summary,) = (shop.data / "cache" / "training").glob("*/finished/summary.json")  # nothing but sasrec's weights
    costs = json.loads(shop("sql", "FROM reports.comparison_costs WHERE model = 'sasrec'", "--json").stdout)
    assert [row["seconds"] for row in costs] == [json.loads(summary.read_text())["seconds"]]
    assert costs[0]["peak_bytes"] > 2**20


def test_a_comparison_stands_in_the_catalogue_and_in_lineage(shop: Cli, compared: Page) -> None:
    (row,) = json.loads(
        shop("sql", "SELECT count(*) AS rows, max(peak_bytes) AS bytes FROM reports.comparison_costs", "--json").stdout
    )
    assert row["rows"] > 10
    assert row["bytes"] > 2**20
    for stem in ("comparison", "tests", "curves", "costs"):
        schema = TABLES[f"{COMPARISON}/{stem}"]
        view = "reports.comparison" + f"_{stem}" * (stem != "comparison")
        answer = json.loads(shop("sql", f"DESCRIBE {view}", "--json").stdout)
        assert {row["column_name"]: row["column_type"] for row in answer} == {
            **{field.name: sql_type(field.type) for field in schema}, "domain": "VARCHAR", "v": "VARCHAR",
        }  # fmt: skip
    made = json.loads(shop("trace", "reports/comparison@Toys", "--json").stdout)
    known = {(one["key"], one["domain"]) for one in made}
    assert {("core/sequences", "Toys"), ("core/sequences", "Mugs"), ("raw/ratings", "Mugs")} <= known
    assert "reports/comparison" in shop("impact", "Toys.csv").stdout
    assert "reports/comparison" not in shop("gc", "--dry-run").stdout
    assert shop("verify").returncode == 0
    # It is nothing that a run makes.
    assert "reports/comparison" not in shop("run", "--dry-run", "--json").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("Mugs",), 1, "Mugs is a source domain"),
        (("Nothing",), 1, "there is no domain 'Nothing'"),
        (("Toys", "--models", "sasrek"), 1, "did you mean 'sasrec'"),
        (("Toys", "--users", "few"), 2, "percentages separated by commas"),
    ],
)
def test_what_cannot_be_compared_is_said(shop: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    assert message in re.sub(r"[\s│]+", " ", shop("compare", *arguments, code=code).stderr)


def test_every_model_has_a_name_for_people() -> None:
    assert LABELS.keys() == {*NAMES, *ABLATIONS}
    assert len(set(LABELS.values())) == len(LABELS)


def test_published_figures_stand_only_beside_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "domains.yaml").write_text("domains: {Scientific: {}, Toys: {}}")
    data_folder = DataFolder(tmp_path)
    same = _published(data_folder, "Scientific", (8442, 4385, 59427))
    assert [(row["label"], row["HR@10"], row["NDCG@10"]) for row in same] == [
        ("MMM4Rec, fine-tuned", 0.1348, 0.0724),
        ("MMM4Rec, fine-tuned, without ID", 0.1278, 0.0668),
    ]
    assert _published(data_folder, "Scientific", (8442, 4385, 59426)) == []
    assert _published(data_folder, "Toys", (8442, 4385, 59427)) == []


def test_the_charts_draw_what_was_measured_and_the_same_again() -> None:
    rows = [
        {"label": "one", "seed": seed, "ndcg_10": value, "optimiser_steps": step, "examples": step, "seconds": None}
        for seed in (1, 2)
        for step, value in enumerate((0.1, seed / 10, None))
    ]
    figures = convergence("curves", rows)
    drawn = [figure.axes[0].lines for figure in figures.values()]
    assert [len(lines) for lines in drawn] == [3, 3, 1], "two trainings and their mean; no seconds"
    assert [line.get_xydata().tolist() for line in drawn[0]] == [
        [[0, 0.1], [1, 0.1]], [[0, 0.1], [1, 0.2]], [[0, 0.1], [1, pytest.approx(0.15)]]
    ]  # fmt: skip
    again = convergence("curves", rows)
    assert {name: svg(figure, name) for name, figure in figures.items()} == {
        name: svg(figure, name) for name, figure in again.items()
    }
    points = [{"label": "one", "percent": p, "value": p / 100, "standard_error": 0.01} for p in (100, 1, 10)]
    assert shares("shares", points).axes[0].lines[0].get_xydata().tolist() == [[1, 0.01], [10, 0.1], [100, 1]]
