"""`make demo`: the whole job on the sample catalogue, and what a person finds afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from features.sample import DOMAINS
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import NOT_MADE
from pipelines.planner.step import upstream_first
from tests.conftest import REPOSITORY, Cli, make_demo
from tests.pages import breaches
from warehouse.artifacts.files import sha256_file
from warehouse.catalogue.query import query

TARGETS = [domain.name for domain in DOMAINS if domain.role == "target"]


def _ask(demo: Cli, question: str, **bound: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = query(demo.data / "warehouse.duckdb", question, bound).to_pylist()
    return rows


def test_every_asset_of_every_domain_stands(demo: Cli) -> None:
    data_folder = DataFolder(demo.data)
    assert len(upstream_first()) == 17
    for step in upstream_first():
        for domain in step.domains(data_folder, [d.name for d in DOMAINS]):
            artifact = data_folder.store.require(step.key, domain)
            for name, entry in artifact.manifest.files.items():
                assert sha256_file(artifact.path / name) == entry.sha256, artifact.path / name


def test_the_models_beat_popularity_and_pretraining_pays(demo: Cli) -> None:
    results = {row["domain"]: row for row in json.loads(demo("report", "--json").stdout)["results"]}
    assert set(results) == {domain.name for domain in DOMAINS}
    for domain in TARGETS:
        row = results[domain]
        assert row["scratch_ndcg"] > 1.2 * row["popularity_ndcg"], row
        assert row["finetuned_ndcg"] > 1.2 * row["popularity_ndcg"], row
        assert row["finetuned_ndcg"] > row["scratch_ndcg"], row


def test_the_pretrained_model_learns_a_new_catalogue_faster(demo: Cli) -> None:
    """It passes the best that training from scratch reaches in at most half of its epochs."""
    question = "SELECT domain, model, list(ndcg_10 ORDER BY epoch) AS curve FROM reports.metrics_curves GROUP BY ALL"
    rows = json.loads(demo("sql", question, "--json").stdout)
    curves = {(row["domain"], row["model"]): row["curve"] for row in rows}
    for domain in TARGETS:
        scratch, finetuned = curves[domain, "scratch"], curves[domain, "finetuned"]
        best = max(scratch)
        reached = next(epoch for epoch, value in enumerate(finetuned) if value >= best)
        assert reached <= scratch.index(best) / 2, (domain, scratch, finetuned)


def test_a_second_demo_finds_nothing_to_do(demo: Cli) -> None:
    pointers = {path: path.read_text() for path in demo.data.glob("*/*/*/CURRENT")}
    again = make_demo(demo.data)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert {path: path.read_text() for path in demo.data.glob("*/*/*/CURRENT")} == pointers


def test_everybody_gets_ten_new_items(demo: Cli) -> None:
    (counts,) = _ask(
        demo,
        """
        WITH whole AS (
            SELECT domain, user_id FROM reports.recommendations GROUP BY ALL HAVING count(DISTINCT item_id) = 10
        ),
        known AS (
            FROM reports.recommendations SEMI JOIN core.sequences_interactions USING (domain, user_id, item_id)
        )
        SELECT
            (SELECT count(*) FROM core.sequences_users) AS users,
            (SELECT count(*) FROM core.sequences_users ANTI JOIN whole USING (domain, user_id)) AS short,
            (SELECT count(*) FROM known) AS seen
        """,
    )
    assert counts["users"] > 1000
    assert (counts["short"], counts["seen"]) == (0, 0)


def test_no_line_of_the_raw_files_is_lost(demo: Cli) -> None:
    data_folder = DataFolder(demo.data)
    for domain in DOMAINS:
        lines = (data_folder.raw_folder / data_folder.raw_file(domain.name, "ratings")).read_bytes().rstrip(
            b"\n"
        ).count(b"\n") + 1
        summary = data_folder.store.require("raw/ratings", domain.name).manifest.summary
        assert summary["lines"] == lines == summary["rows"] + summary["quarantined"]
        assert summary["quarantined"] > 0
        rejected = data_folder.store.require("core/interactions", domain.name).manifest.summary["rejected"]
        assert rejected["exact_duplicate"] > 0
        assert rejected["no_metadata"] > 0


def test_unusable_pictures_are_counted_and_masked(demo: Cli) -> None:
    counts = _ask(demo, "SELECT status, count(*) AS items FROM features.item_images GROUP BY ALL")
    statuses = {row["status"]: row["items"] for row in counts}
    assert statuses["ok"] > 900
    assert {"no_url", "unreachable", "not_an_image", "broken", "too_small"} <= set(statuses)
    (wrong,) = _ask(
        demo,
        """
        SELECT count(*) AS items
        FROM features.item_images AS i
        JOIN features.image_embeddings AS e USING (domain, item_id)
        WHERE (i.status = 'ok') <> e.present OR (NOT e.present AND list_max(e.vector::FLOAT[]) <> 0)
        """,
    )
    assert wrong["items"] == 0


def test_search_finds_what_the_words_say(demo: Cli, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    hits = json.loads(
        demo(
            "search", "--domain", TARGETS[0], "--text", "striped red robot", "-k", "5", "--sheet", str(sheet), "--json"
        ).stdout
    )
    assert len(hits) == 5
    found = _ask(
        demo,
        "SELECT title || ' ' || description AS text FROM core.items WHERE domain = $domain AND item_id IN $items",
        domain=TARGETS[0],
        items=[hit["item_id"] for hit in hits],
    )
    assert sum("robot" in row["text"].lower() for row in found) >= 4
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_search_by_picture_finds_the_picture(demo: Cli) -> None:
    data_folder = DataFolder(demo.data)
    picture = sorted((data_folder.raw_folder / "images" / TARGETS[0]).iterdir())[20]
    hits = json.loads(demo("search", "--domain", TARGETS[0], "--image", str(picture), "--json").stdout)
    assert picture.stem in [hit["item_id"] for hit in hits[:3]]


def test_recommendations_of_a_user(demo: Cli) -> None:
    (first,) = _ask(demo, "SELECT min(user_id) AS id FROM core.sequences_users WHERE domain = $d", d=TARGETS[0])
    rows = json.loads(demo("recommend", TARGETS[0], "--user", first["id"], "-k", "5", "--json").stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["title"] for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recommend", "Sample_Toys", "--user", "nobody"], "whom its ratings do not name"),
        (["recommend", "Nowhere", "--user", "U1"], "no domain 'Nowhere'"),
        (["run", "Nowhere"], "no domain 'Nowhere'"),
        (["run", "--only", "core/nothing"], "no asset"),
        (["sql", "DROP VIEW core.items"], "read-only"),
        (["sql", "SELECT * FROM nowhere"], "nowhere"),
        (["search", "--domain", "Sample_Toys", "--item", "nothing"], "nothing"),
    ],
)
def test_errors_say_what_is_wrong(demo: Cli, arguments: list[str], said: str) -> None:
    failed = demo(*arguments, code=1)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_report_is_one_whole_page(demo: Cli) -> None:
    page = (demo.data / "report.html").read_text()
    assert page.count("<svg") == len(TARGETS)
    assert page.count('src="data:image/') > 50
    assert breaches(page) == []
    for domain in DOMAINS:
        assert domain.name in page


ASKED = """
import json
import dagster as dg

with dg.DagsterInstance.get() as instance:
    versions = {}
    for key in instance.all_asset_keys():
        for record in instance.fetch_materializations(key, limit=100).records:
            ref = f"{'/'.join(key.path)}@{record.partition_key or '_all'}"
            versions.setdefault(ref, record.asset_materialization.tags["dagster/data_version"])
    told = {
        "runs": sorted({run.status.value for run in instance.get_runs()}),
        "versions": versions,
        "partitions": sorted(instance.get_dynamic_partitions("domain")),
    }
    print(json.dumps(told))
"""


def test_dagster_knows_what_happened(demo: Cli) -> None:
    """The instance holds the runs, and each materialisation with its data version."""
    environment = {**os.environ, "DAGSTER_HOME": str(REPOSITORY), "MMM4REC_DAGSTER": str(demo.data / ".dagster")}
    asked = subprocess.run([sys.executable, "-c", ASKED], env=environment, capture_output=True, check=True, text=True)
    told = json.loads(asked.stdout)
    assert told["runs"] == ["SUCCESS"]
    assert told["partitions"] == sorted(domain.name for domain in DOMAINS)
    current = {artifact.ref: artifact.version for artifact in DataFolder(demo.data).store.all_current()}
    made = {ref: version for ref, version in told["versions"].items() if version != NOT_MADE}
    assert made == current
    not_made = {f"models/{noun}@{d.name}" for noun in ("scratch", "finetuned") for d in DOMAINS if d.role == "source"}
    not_asked_for = {f"models/baselines@{d.name}" for d in DOMAINS}
    assert told["versions"].keys() - made.keys() == not_made | not_asked_for
