"""Baselines that the settings ask for are trained on targets and measured beside the model; without, nothing is."""

import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan
from pipelines.planner.step import all_steps
from tests.conftest import Cli
from warehouse.catalogue.query import Session

STEPS = all_steps()

pytestmark = pytest.mark.long

TOYS = "Sample_Toys"
ASKED = {
    "item_knn": {"model": {"neighbours": 5}},
    "sasrec": {"model": {"hidden": 8, "layers": 1}, "training": {"epochs": 2}},
    "gru4rec": {"model": {"hidden": 8, "inner": 8}},
}


def ask(data: Path, baselines: object) -> None:
    path = data / "domains.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"baselines": baselines}))


def stale(data: Path, *domains: str) -> dict[str, set[str]]:
    """Keys of the stale steps by domain."""
    found: dict[str, set[str]] = {}
    for stage in plan(DataFolder(data), domains):
        found.setdefault(stage.domain, set()).update(step.key for step in stage.steps)
    return found


@pytest.fixture
def data(tiny: Cli, tmp_path: Path) -> Path:
    """A copy of what was built without baselines."""
    return Path(shutil.copytree(tiny.data, tmp_path / "data", symlinks=True))


def test_nothing_is_trained_that_is_not_asked_for(tiny: Cli) -> None:
    data_folder = DataFolder(tiny.data)
    assert not STEPS["models/baselines"].applies(data_folder, TOYS)
    assert "models/baselines" not in {artifact.key for artifact in data_folder.store.all_current()}
    metrics = data_folder.store.require("reports/metrics", TOYS)
    assert metrics.manifest.parameters == {"trained": [], "item_knn": None}
    assert set(metrics.manifest.summary["ndcg_10"]) == {"popularity", "scratch", "finetuned"}


def test_what_is_asked_for_is_trained_measured_and_shown(data: Path) -> None:
    ask(data, ASKED)
    missing = stale(data, TOYS, "Sample_Kitchen")
    assert missing.pop(TOYS) == {"models/baselines", "reports/metrics"}
    assert set(missing) == {"_all"}, "a source domain has none"
    cli = Cli(data)
    said = cli("run", TOYS).stdout.splitlines()[-1]
    assert re.fullmatch(r"built \d+ artifacts of 1 domain in .*; `mmm4rec report` shows the results", said)
    assert stale(data, TOYS) == {}
    data_folder = DataFolder(data)
    made = data_folder.store.require("models/baselines", TOYS)
    assert data_folder.store.verify(made) == []
    assert made.manifest.parameters["asked"]["sasrec"]["model"]["hidden"] == 8
    epochs = {name: found["epochs"] for name, found in made.manifest.summary["models"].items()}
    assert epochs == {"sasrec": 2, "gru4rec": 1}
    metrics = data_folder.store.require("reports/metrics", TOYS)
    assert set(metrics.manifest.summary["ndcg_10"]) == {"popularity", "scratch", "finetuned", *ASKED}
    curves = pq.read_table(metrics.path / "curves.parquet").to_pylist()
    assert {row["model"] for row in curves} == {"scratch", "finetuned", "sasrec", "gru4rec"}
    with Session(data / "warehouse.duckdb") as session:
        rows = session.ask("SELECT model, max(epoch) AS epochs FROM models.baselines_history GROUP BY model")
        assert {row["model"]: row["epochs"] for row in rows.to_pylist()} == epochs
        assert session.ask("SELECT * FROM results WHERE domain = 'Sample_Toys'").num_rows == 1
    assert "models/baselines@Sample_Toys" in cli("trace", "reports/metrics@Sample_Toys").stdout

    # What is no longer asked for is left out; the models stay as they are.
    ask(data, {name: given for name, given in ASKED.items() if name != "item_knn"})
    assert stale(data, TOYS)[TOYS] == {"reports/metrics"}
