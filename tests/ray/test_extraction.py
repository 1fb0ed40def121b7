"""Extraction on the nodes of a Ray cluster: the bytes of one process, whoever is killed meanwhile."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from features.cluster import ClusterError
from features.encoders import Encoder
from features.errors import FeatureError
from features.extraction import extract, main
from features.settings import EncoderSettings
from features.vectors import embeddings
from features.vectors.cluster import cluster_at
from features.vectors.embeddings import EmbeddingSummary, embed_images, embed_texts
from tests.conftest import REPOSITORY
from tests.features.conftest import catalogue, folder, sample_clip, tiny_clip
from tests.features.test_extraction import ITEMS, MODALITIES, palette, sources, table
from tests.features.work import Telltale, embed
from tests.ray.nodes import Cluster, cluster, nodes, running
from tests.ray.work import Preparing, dying, of_nodes, telltale
from tests.warehouse.stores import Place, bucket, server
from warehouse.artifacts.artifact import Recipe

pytestmark = pytest.mark.long
__all__ = ["bucket", "catalogue", "cluster", "folder", "nodes", "sample_clip", "server", "tiny_clip"]


@pytest.fixture
def items(catalogue, folder, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(embeddings, "SEGMENT", 16)
    return sources(catalogue, folder, palette(ITEMS))


def spread(
    cluster: Cluster, modality: str, source: Path, cache: Path, out: Path | None, opens: Any = telltale, **more: Any
) -> EmbeddingSummary:
    """As `embed`, on the cluster."""
    run = embed_texts if modality == "text" else embed_images
    with cluster_at(cluster.address, opens, source.joinpath) as nodes:
        encoder: Encoder = more.pop("encoder", None) or Telltale()
        return run(source, encoder, out, cache=cache, batch_size=4, chunk_size=8, cluster=nodes, **more)


@pytest.mark.parametrize("modality", MODALITIES)
def test_two_nodes_write_what_one_process_writes(
    cluster: Cluster, items, modality: str, tmp_path: Path, folder
) -> None:
    one, many, notes, seen = folder("one"), folder("many"), folder("notes"), []
    embed(modality, items[modality], tmp_path / "one cache", one)
    opens = partial(of_nodes, notes)
    told = {"progress": lambda *step: seen.append(step)}
    summary = spread(cluster, modality, items[modality], tmp_path / "cache", many, opens, **told)
    assert summary.encoded == ITEMS
    assert table(many, modality) == table(one, modality)
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.parquet")) == sorted(
        path.name for path in (tmp_path / "one cache").rglob("*.parquet")
    )
    assert {note.name.split()[0] for note in notes.iterdir()} == {*cluster.nodes}, "both nodes encode"
    assert sum(sum(map(int, note.read_text().split())) for note in notes.iterdir()) >= ITEMS
    assert seen[-1] == (ITEMS, ITEMS)
    again = spread(cluster, modality, items[modality], tmp_path / "cache", folder("again"), opens)
    assert (again.encoded, again.reused) == (0, ITEMS + 1)


def test_a_task_that_decodes_is_killed(cluster: Cluster, items, tmp_path: Path, folder) -> None:
    calm, out, note = folder("calm"), folder("out"), tmp_path / "died"
    embed("image", items["image"], tmp_path / "calm cache", calm)
    deadly = Telltale(preparation=Preparing(note=note))
    spread(cluster, "image", items["image"], tmp_path / "cache", out, encoder=deadly)
    assert note.exists()
    assert table(out, "image") == table(calm, "image")


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_actor_that_encodes_is_killed(cluster: Cluster, items, modality: str, tmp_path: Path, folder) -> None:
    calm, out, note = folder("calm"), folder("out"), tmp_path / "died"
    embed(modality, items[modality], tmp_path / "calm cache", calm)
    spread(cluster, modality, items[modality], tmp_path / "cache", out, partial(dying, note, 30))
    assert note.exists()
    assert table(out, modality) == table(calm, modality)


def test_a_node_is_killed(items, tmp_path: Path, folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is left has room for all of the work."""
    calm, out, notes = folder("calm"), folder("out"), folder("notes")
    embed("image", items["image"], tmp_path / "calm cache", calm)
    with running() as cluster:
        cluster.admit(monkeypatch)
        killed: list[int] = []

        def kill(done: int, total: int) -> None:
            if not killed and done >= 20:
                killed.append(cluster.kill(cluster.nodes[1]))

        slow = Telltale(preparation=Preparing(pause=0.02))
        opens = partial(of_nodes, notes)
        spread(cluster, "image", items["image"], tmp_path / "cache", out, opens, encoder=slow, progress=kill)
    assert killed[0] > 1
    assert table(out, "image") == table(calm, "image")


def test_the_process_that_asks_is_killed_and_asks_again(
    cluster: Cluster, items, tmp_path: Path, tiny_clip: Path
) -> None:
    """The command line, with a real model."""
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache"
    settings = EncoderSettings(model=str(tiny_clip), storage="float16")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        extract("image", items["image"], settings, tmp_path / "one cache", one, device="cpu", batch_size=5)
    finally:
        torch.set_num_threads(threads)
    command = [
        *(sys.executable, "-m", "features.extraction", "image", "--items", str(items["image"]), "--cache", str(cache)),
        *("--model", str(tiny_clip), "--storage", "float16", "--batch-size", "5", "--ray", cluster.address),
        *("--out", str(two)),
    ]
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ}, stderr=subprocess.PIPE, text=True) as first:
        while first.poll() is None and not list(cache.rglob("*.parquet")):
            time.sleep(0.02)
        first.kill()
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert table(two, "image") == table(one, "image")
    assert " encoded, " in done.stderr


def test_what_is_decoded_waits_in_memory_and_not_on_the_disk(cluster: Cluster, items, tmp_path: Path, folder) -> None:
    """The pixels are several times as many as the nodes' memory for objects; encoding is slow."""
    large = Preparing(side=512)
    calm, out = folder("calm"), folder("out")
    embed_images(items["image"], Telltale(preparation=large), calm, cache=tmp_path / "calm cache", batch_size=4)
    opens = partial(telltale, large, 0.1)
    spread(cluster, "image", items["image"], tmp_path / "cache", out, opens, encoder=Telltale(preparation=large))
    assert 2 * cluster.memory < ITEMS * 512 * 512 * 3 * 4
    assert table(out, "image") == table(calm, "image")
    spilled = [file for place in cluster.folder.rglob("ray_spilled_objects*") for file in place.rglob("*")]
    assert not [file for file in spilled if file.is_file()]


def test_each_node_fetches_the_shards_from_the_store(
    items, bucket: Place, tmp_path: Path, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes do not see this process's disk."""
    calm, out = folder("calm"), folder("out")
    embed("image", items["image"], tmp_path / "calm cache", calm)

    def build(made: Path) -> dict[str, Any]:
        for file in items["image"].iterdir():
            (made / file.name).write_bytes(file.read_bytes())
        return {}

    here = tmp_path / "worker0"
    here.mkdir()
    artifact, _ = bucket.open().publish(Recipe("features/item_images", "Toys", "c", {}, {}, {}), build)
    with running(hidden=here, **bucket.server.environment) as cluster:
        cluster.admit(monkeypatch)
        bucket.server.tell(forget=True)
        with cluster_at(cluster.address, telltale, artifact.file) as nodes:
            folder_here = artifact.main.parent
            embed_images(
                folder_here, Telltale(), out, cache=tmp_path / "cache", batch_size=4, chunk_size=8, cluster=nodes
            )
        fetched = [line for line in bucket.server.tell()["seen"] if line.startswith("GET") and "/files/" in line]
    assert table(out, "image") == table(calm, "image")
    assert len(fetched) >= len(list(items["image"].glob("*.tar")))


def test_what_is_wrong_with_a_picture_is_said(cluster: Cluster, items, tmp_path: Path, folder) -> None:
    shard = sorted(items["image"].glob("*.tar"))[-1]
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(FeatureError, match=r"^\S+: shards and table disagree at item 'i\d+'; rebuild item_images$"):
        spread(cluster, "image", items["image"], tmp_path / "cache", folder("out"))


def test_another_model_on_a_node_is_refused(cluster: Cluster, items, tmp_path: Path, sample_clip: str) -> None:
    opens = partial(_open, sample_clip)
    with pytest.raises(FeatureError, match=r"^node \S+: its files of the encoder 'telltale' are others than here"):
        spread(cluster, "text", items["text"], tmp_path / "cache", None, opens)
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def _open(model: str, device: str) -> Any:
    from features.encoders import open_encoder

    return open_encoder(EncoderSettings(model=model), device=device)


def test_a_cluster_that_is_not_there_is_said(
    items, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["text", "--items", str(items["text"]), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--ray", "auto", "--workers", "1"]) == 1
    assert "leave out --workers" in capsys.readouterr().err
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with (
        pytest.raises(ClusterError, match="no Ray cluster answers at 'auto'"),
        cluster_at("auto", telltale, tmp_path.joinpath),
    ):
        pass
