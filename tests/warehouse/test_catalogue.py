"""The analysts' catalogue: complete, commented, read-only, swapped under its readers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from warehouse.catalogue import build_catalogue
from warehouse.errors import WarehouseError
from warehouse.query import query
from warehouse.store import Recipe, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, materialise: Callable[..., Any]) -> Store:
    """Two small domains, in a folder whose name is hard on SQL and on globs."""
    folder = tmp_path_factory.mktemp("raw")
    store = Store(tmp_path_factory.mktemp("data") / "it's [1]*")
    for domain, users in (("Mugs", 4), ("Pots", 5)):
        ratings, metadata = folder / f"{domain}.csv", folder / f"meta_{domain}.json"
        lines = [
            f"{domain}{item},U{user},{item % 5}.0,{10 * item + user}" for user in range(users) for item in range(3)
        ]
        ratings.write_text("\n".join([*lines, "broken"]))
        products = [
            {"asin": f"{domain}{item}", "title": f"{domain} {item}", "imageURL": ["u"] * item} for item in range(3)
        ]
        metadata.write_text("\n".join(map(json.dumps, products)))
        materialise(store, domain, ratings, metadata, 3)
    return store


@pytest.fixture(scope="module")
def catalogue(store: Store) -> Path:
    final = store.root / "warehouse.duckdb"
    summary = build_catalogue(store.all_current(), store.root / "next.duckdb")
    (store.root / "next.duckdb").replace(final)
    assert (summary.artifacts, summary.domains, summary.views) == (10, 2, 12)
    assert not (store.root / "next.duckdb").exists()
    return final


def test_views_span_the_domains(catalogue: Path) -> None:
    answer = query(
        catalogue,
        "SELECT domain, split, count(*) AS n FROM core.sequences_interactions GROUP BY ALL ORDER BY ALL",
    ).to_pylist()
    assert [tuple(row.values()) for row in answer] == [
        (domain, split, users)
        for domain, users in (("Mugs", 4), ("Pots", 5))
        for split in ("test", "train", "validation")
    ]
    assert query(catalogue, "SELECT reason FROM raw.ratings_quarantine").num_rows == 2


def test_statistics_of_each_domain(catalogue: Path) -> None:
    (mugs, pots) = query(catalogue, "FROM domains").to_pylist()
    assert mugs == {
        "domain": "Mugs",
        "users": 4,
        "items": 3,
        "interactions": 12,
        "sparsity": 0.0,
        "mean_length": 3.0,
        "longest": 3,
        "text_coverage": 1.0,
        "picture_coverage": pytest.approx(2 / 3),
    }
    assert (pots["domain"], pots["interactions"]) == ("Pots", 15)


def test_every_table_and_column_has_a_comment(catalogue: Path) -> None:
    for source in ("duckdb_columns()", "duckdb_tables()", "duckdb_views()"):
        bare = query(catalogue, f"FROM {source} WHERE NOT internal AND comment IS NULL")
        assert not bare.num_rows, bare.to_pylist()


def test_lineage_leads_from_sequences_to_raw_files(catalogue: Path, store: Store) -> None:
    answer = query(
        catalogue,
        """
        WITH RECURSIVE upstream AS (
            SELECT key, domain, version
            FROM lineage.artifacts
            WHERE key = 'core/sequences' AND domain = 'Mugs'
            UNION
            SELECT input_key, input_domain, input_version
            FROM lineage.inputs JOIN upstream USING (key, domain, version)
        )
        SELECT source FROM lineage.sources JOIN upstream USING (key, domain, version) ORDER BY source
        """,
    )
    assert answer["source"].to_pylist() == ["Mugs.csv", "meta_Mugs.json"]
    sequences = store.require("core/sequences", "Mugs")
    files = query(
        catalogue, f"FROM lineage.files WHERE version = '{sequences.version}' AND domain = 'Mugs'"
    ).to_pylist()
    assert {row["name"]: row["sha256"] for row in files} == {
        name: facts["sha256"] for name, facts in sequences.manifest["files"].items()
    }


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x AS SELECT 1",
        "COPY (SELECT 1) TO 'x.csv'",
        "SET threads = 1",
        "ATTACH 'x.duckdb'",
        "SELECT 1; SELECT 2",
        "",
        "SELEC 1",
        "FROM read_csv('/etc/passwd')",
        "FROM glob('/*')",
        "FROM no_such_table",
        "FROM sql",
    ],
)
def test_a_query_can_only_read_the_catalogue(catalogue: Path, sql: str) -> None:
    with pytest.raises(WarehouseError):
        query(catalogue, sql)


def test_a_missing_catalogue_says_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="mmm4rec run"):
        query(tmp_path / "warehouse.duckdb", "SELECT 1")


def test_it_opens_with_plain_duckdb_from_another_directory(catalogue: Path, tmp_path: Path) -> None:
    script = (
        "import duckdb, sys; reader = duckdb.connect(sys.argv[1], read_only=True); "
        "print(reader.sql('SELECT count(*) FROM core.sequences').fetchall()[0][0])"
    )
    ran = subprocess.run([sys.executable, "-c", script, catalogue], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == "9", ran.stderr


def test_a_swap_disturbs_no_reader(catalogue: Path, store: Store) -> None:
    with duckdb.connect(catalogue, read_only=True) as reader:
        count = "SELECT count(*) FROM core.sequences"
        assert reader.sql(count).fetchall() == [(9,)]
        for number in range(3):
            new = store.root / f"next-{number}.duckdb"
            build_catalogue([a for a in store.all_current() if a.domain == "Mugs"], new)
            new.replace(catalogue)
            assert reader.sql(count).fetchall() == [(9,)]
            assert query(catalogue, count).to_pylist() == [{"count_star()": 4}]
        new = store.root / "last.duckdb"
        build_catalogue(store.all_current(), new)
        new.replace(catalogue)
    assert query(catalogue, count).to_pylist() == [{"count_star()": 9}]


def test_layers_not_built_yet_are_absent(store: Store, tmp_path: Path) -> None:
    raw = [artifact for artifact in store.all_current() if artifact.key == "raw/ratings"]
    summary = build_catalogue(raw, tmp_path / "some.duckdb")
    assert summary.views == 2
    assert build_catalogue([], tmp_path / "none.duckdb").views == 0
    assert query(tmp_path / "none.duckdb", "FROM lineage.files").num_rows == 0


def test_another_package_brings_its_own_comments(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("k", pa.int32(), metadata={"comment": "it's the cut-off"})], {"comment": "Metrics"})

    def build(out: Path) -> dict[str, int]:
        pq.write_table(pa.table({"k": pa.array([10], pa.int32())}), out / "metrics.parquet")
        return {"rows": 1}

    store = Store(tmp_path)
    store.publish(Recipe("reports/metrics", "Mugs", "code", {}, {}, {}), build)
    file = tmp_path / "w.duckdb"
    build_catalogue(store.all_current(), file, {"reports/metrics/metrics": schema})
    comments = query(file, "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'metrics'").to_pylist()
    assert comments[0] == {"column_name": "k", "comment": "it's the cut-off"}


def test_a_file_that_cannot_name_a_view_is_refused(tmp_path: Path) -> None:
    def build(out: Path) -> dict[str, int]:
        pq.write_table(pa.table({"a": [1]}), out / 'x"; DROP TABLE y.parquet')
        return {}

    store = Store(tmp_path)
    store.publish(Recipe("core/items", "Mugs", "code", {}, {}, {}), build)
    with pytest.raises(WarehouseError, match="cannot name a table"):
        build_catalogue(store.all_current(), tmp_path / "w.duckdb")


def test_a_vanished_file_is_an_error(store: Store, tmp_path: Path) -> None:
    artifact = store.require("raw/ratings", "Mugs")
    gone = type(artifact)(artifact.key, artifact.domain, artifact.version, tmp_path, artifact.manifest)
    with pytest.raises(WarehouseError, match="catalogue cannot be built"):
        build_catalogue([gone], tmp_path / "w.duckdb")
