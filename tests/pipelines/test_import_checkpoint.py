"""A published checkpoint, imported, takes the place of pre-training: through the pipeline to a fine-tuned model."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from mmm4rec import checkpoint
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.published.exchange import export_checkpoint
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.planner.plan import plan
from pipelines.planner.step import all_steps
from tests.conftest import Cli
from warehouse.artifacts.store import ALL
from warehouse.catalogue.query import query
from warehouse.catalogue.questions import example

STEPS = all_steps()

pytestmark = pytest.mark.long

ITEMS = [f"elsewhere{n}" for n in range(7)]


@pytest.fixture
def published(tiny: Cli, tmp_path: Path) -> Path:
    """A checkpoint in the published layout: two layers and per-item weights, over vectors as wide as the sample's."""
    data_folder = DataFolder(tiny.data)
    kind = checkpoint.load(data_folder.store.require("models/pretrained", ALL).path).text
    config = replace(data_folder.settings.model, compat="published", layers=2)
    none = torch.zeros(0, dtype=torch.int64)
    features = Features(torch.zeros(len(ITEMS) + 1, kind.width), torch.ones(len(ITEMS) + 1, dtype=torch.bool))
    domain = DomainData("elsewhere", [], ITEMS, none, none, none, none, none, features, features)
    torch.manual_seed(5)
    weights = dict(MMM4Rec(config, domain).named_parameters())
    (tmp_path / "ours").mkdir()
    checkpoint.write(
        config, weights, replace(kind, encoder=None), replace(kind, encoder=None), ITEMS, tmp_path / "ours"
    )
    export_checkpoint(tmp_path / "ours", tmp_path / "published.ckpt")
    numbers = pa.array(range(1, len(ITEMS) + 1), pa.int32())
    pq.write_table(pa.table({"item_index": numbers, "item_id": ITEMS}), tmp_path / "items.parquet")
    return tmp_path / "published.ckpt"


@pytest.fixture
def cli(tiny: Cli, tmp_path: Path) -> Cli:
    """The command line over a copy of the tiny sample, built."""
    shutil.copytree(tiny.data, tmp_path / "data")
    return Cli(tmp_path / "data")


def use(data: Path, pretrained: str) -> DataFolder:
    settings = data / "domains.yaml"
    settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "pretrained": pretrained}))
    return DataFolder(data)


def test_a_published_checkpoint_is_fine_tuned(cli: Cli, published: Path) -> None:
    sizes = ["--items", str(published.with_name("items.parquet")), "--set", "model.groups=1"]
    sizes += [word for name in ("embedding", "hidden", "time") for word in ("--set", f"model.dropout_{name}=0.2")]
    said = cli("import-checkpoint", str(published), *sizes).stdout
    assert "2 layers, 7 items with own weights" in said
    assert "left out: decoder_ssd_layers.1.ssd.A_log (the shared block, which this model holds once)" in said
    assert f"next: `pretrained: imported/published` in {cli.data}/domains.yaml, then `mmm4rec run`" in said
    imported = cli.data / "imported/published"

    data_folder = use(cli.data, "imported/published")
    stale = {stage.domain: [step.key for step in stage.steps] for stage in plan(data_folder, data_folder.present())}
    assert stale["Sample_Toys"] == ["models/finetuned", "reports/metrics", "reports/recommendations"]
    assert "Sample_Kitchen" not in stale, "source domains play no part"
    cli("run", "Sample_Toys")
    store = DataFolder(cli.data).store
    pretrained, tuned = store.require("models/pretrained", ALL), store.require("models/finetuned", "Sample_Toys")
    assert pretrained.manifest.inputs == pretrained.manifest.parameters == {}
    assert pretrained.manifest.sources == {
        f"published/{name}": hashlib.sha256((imported / name).read_bytes()).hexdigest()
        for name in ("items.parquet", "model.safetensors")
    }
    assert tuned.manifest.inputs["models/pretrained@_all"] == pretrained.version
    transfer = json.loads((tuned.path / "model.json").read_text())["transfer"]
    assert "layers.0.cross.query.weight" in transfer["taken"]
    assert transfer["left_out"]["text_item"] == "one row per item: other items here"
    assert transfer["left_out"]["layers.1.cross.query.weight"] == "the model has 1 of its 2 layers"
    assert [unchecked.split()[0] for unchecked in transfer["unchecked"]] == ["text", "image"]
    asked = example("model_lineage")
    lineage = query(
        data_folder.catalogue, asked.sql, asked.bind({"domain": "Sample_Toys"}, lambda sql, known: [])
    ).to_pylist()
    assert {"published/model.safetensors", "Sample_Toys.csv"} <= {row["source"] for row in lineage}
    assert plan(DataFolder(cli.data), ["Sample_Toys"]) == []


def test_a_checkpoint_that_is_not_there_is_said_and_holds_up_no_table(cli: Cli) -> None:
    data_folder = use(cli.data, "nowhere")
    stale = {step.key for stage in plan(data_folder, ["Sample_Toys"]) for step in stage.steps}
    assert "models/pretrained" in stale
    assert not {"core/sequences", "features/text_embeddings", "models/scratch"} & stale
    missing = rf"domains\.yaml: pretrained: there is no model\.safetensors in {cli.data}/nowhere; .*import-checkpoint"
    with pytest.raises(SettingsError, match=missing):
        STEPS["models/pretrained"].publish(data_folder, ALL)
