"""Extraction under disturbance: kills, ranks, worker processes that die, and the command line under torchrun."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, astuple
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from features.errors import FeatureError
from features.extraction import extract, main
from features.item_text import build_item_text
from features.pictures.item_images import collect_images
from features.pictures.shards import Place, shard_names
from features.settings import EncoderSettings
from features.vectors import embeddings
from features.vectors.cache import VectorCache
from features.vectors.embeddings import Share, embed_images, embed_texts
from features.vectors.loading import Original, choose_workers, prepared
from tests.conftest import REPOSITORY
from tests.features.conftest import png
from tests.features.vectors import read_embeddings
from tests.features.work import DEADLY, Telltale, average_or_die, average_or_linger, embed
from tests.forked import gone
from tests.warehouse.disturb import duration, killed_after, moments, processes

MODALITIES = ["text", "image"]
ITEMS = 150
PAUSE = 0.003
processes.set_forkserver_preload(["tests.warehouse.work", "tests.features.work"])


def sources(catalogue, folder, colours: dict[str, tuple[int, int, int]], name: str = "") -> dict[str, Path]:
    """item_text and item_images of items with these colours, in shards of a few pictures."""
    root, text, images = folder(f"root{name}"), folder(f"text{name}"), folder(f"images{name}")
    rows = []
    for item_id, colour in colours.items():
        (root / f"{item_id}.png").write_bytes(png(colour))
        rows.append({"item_id": item_id, "title": f"mug {colour}", "image_urls": [f"{item_id}.png"]})
    # Missing both, and the same as another: neither is ever encoded.
    rows.append({"item_id": "missing", "title": None, "image_urls": []})
    rows.append(rows[0] | {"item_id": "twin"})
    paths = catalogue(rows)
    build_item_text(*paths, text)
    collect_images(*paths, root, images, shard_bytes=40_000)
    return {"text": text, "image": images}


def palette(count: int, first: int = 0) -> dict[str, tuple[int, int, int]]:
    return {f"i{number:04d}": (number % 256, number // 256, 77) for number in range(first, first + count)}


@pytest.fixture
def items(catalogue, folder) -> dict[str, Path]:
    return sources(catalogue, folder, palette(ITEMS))


def table(out: Path, modality: str) -> dict[str, bytes]:
    assert sorted(path.name for path in out.iterdir()) == ["encoder.json", f"{modality}_embeddings.parquet"]
    return {path.name: path.read_bytes() for path in out.iterdir()}


def kept(cache: Path, modality: str) -> Counter[str]:
    """How often each content lies in the cache."""
    folder = VectorCache(cache, modality, Telltale.identity).folder
    return Counter(
        content for path in folder.glob("*.parquet") for content in pq.read_table(path)["content_sha256"].to_pylist()
    )


# kill -9


def _kills(items: dict[str, Path], modality: str, tmp_path: Path, folder, kills: int) -> None:
    source, report, calm = items[modality], tmp_path / "report", folder("calm")
    seconds = duration(embed, modality, source, tmp_path / "calm cache", calm, PAUSE, report=report)
    met = saved = 0
    for number, moment in enumerate(moments(kills, seconds)):
        cache, out = tmp_path / f"cache {number}", folder(f"out {number}")
        met += killed_after(moment, embed, modality, source, cache, folder(f"dead {number}"), PAUSE, report=report)
        before = kept(cache, modality)
        assert set(before.values()) <= {1}
        assert len(before) % 8 in (0, ITEMS % 8) or modality == "image"  # whole chunks
        summary = embed(modality, source, cache, out)
        assert summary.encoded == ITEMS - len(before)
        saved += len(before)
        assert kept(cache, modality) == dict.fromkeys(before | kept(cache, modality), 1)
        assert len(kept(cache, modality)) == ITEMS
        assert table(out, modality) == table(calm, modality)
        found = read_embeddings(out, f"{modality}_embeddings")
        assert found.item_ids == sorted([*palette(ITEMS), "missing", "twin"])
        assert found.present.sum() == ITEMS + 1
        assert found.vectors[found.present].any(axis=1).all()
    assert met  # how many do depends on what else the machine does
    assert saved


@pytest.mark.long
@pytest.mark.parametrize("modality", MODALITIES)
def test_killed_at_random_moments(items, modality: str, tmp_path: Path, folder) -> None:
    _kills(items, modality, tmp_path, folder, 5)


@pytest.mark.soak
@pytest.mark.parametrize("modality", MODALITIES)
def test_killed_at_thirty_random_moments(items, modality: str, tmp_path: Path, folder) -> None:
    _kills(items, modality, tmp_path, folder, 30)


# shares


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("world", [2, 3, 40])
def test_any_number_of_ranks_makes_the_same_bytes(
    items, modality: str, world: int, tmp_path: Path, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "SEGMENT", 16)
    assert len(shard_names(items["image"])) > 5
    one, many = folder("one"), folder("many")
    embed(modality, items[modality], tmp_path / "one cache", one)
    ranks = random.Random(world).sample(range(world), world)
    encoded = [
        embed(modality, items[modality], tmp_path / "cache", None, share=Share(rank, world)).encoded for rank in ranks
    ]
    assert sum(encoded) == ITEMS
    assert max(encoded) < ITEMS
    assert embed(modality, items[modality], tmp_path / "cache", many).encoded == 0
    assert table(many, modality) == table(one, modality)


def test_a_table_is_not_written_before_all_ranks_are_done(
    items, tmp_path: Path, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "SEGMENT", 16)
    out = folder("out")
    with pytest.raises(FeatureError, match=r"contents are not in the cache .* other ranks have not finished"):
        embed("text", items["text"], tmp_path / "cache", out, share=Share(1, 2))
    assert not list(out.iterdir())


# increments


@pytest.mark.parametrize("modality", MODALITIES)
def test_one_percent_more_items_cost_one_percent(catalogue, folder, modality: str, tmp_path: Path) -> None:
    first = sources(catalogue, folder, palette(200))
    embed(modality, first[modality], tmp_path / "cache", folder("first"))
    # New ones at either end, one gone, and one other content among the known.
    changed = palette(202, first=1) | {"a": (5, 5, 5), "i0100": (6, 6, 6)}
    second = sources(catalogue, folder, changed, " 2")
    summary = embed(modality, second[modality], tmp_path / "cache", folder("second"))
    assert (summary.items, summary.encoded, summary.missing) == (205, 5, 1)
    assert summary.reused == 199


def test_a_damaged_part_is_encoded_again_to_the_same_bytes(items, tmp_path: Path, folder) -> None:
    first, second = folder("first"), folder("second")
    embed("text", items["text"], tmp_path / "cache", first)
    parts = sorted(tmp_path.glob("cache/text-*/*.parquet"))
    for part in parts[3:6]:
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 8
        part.write_bytes(data)
    summary = embed("text", items["text"], tmp_path / "cache", second)
    assert (summary.encoded, summary.damaged) == (24, 3)
    assert table(second, "text") == table(first, "text")
    assert sorted(tmp_path.glob("cache/text-*/*.parquet")) == parts


# worker processes


@pytest.mark.long
def test_worker_processes_make_the_same_bytes(items, folder) -> None:
    here, there, seen = folder("here"), folder("there"), []
    embed_images(items["image"], Telltale(), here, workers=0, batch_size=16)
    embed_images(items["image"], Telltale(), there, workers=2, batch_size=16, progress=lambda *step: seen.append(step))
    assert table(there, "image") == table(here, "image")
    assert seen[-1] == (ITEMS, ITEMS)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_worker_process_that_dies_is_an_error(catalogue, folder, tmp_path: Path) -> None:
    images = sources(catalogue, folder, palette(40) | {"z": DEADLY})["image"]
    deadly = Telltale(preparation=average_or_die)
    cache = tmp_path / "cache"
    with pytest.raises(FeatureError, match=r"a process that decodes pictures died .*workers=0"):
        embed_images(images, deadly, folder("out"), cache=cache, workers=1, batch_size=4, chunk_size=8)
    # What was committed before it died is kept.
    out = folder("again")
    assert embed_images(images, Telltale(), out, cache=cache, workers=0, batch_size=4, chunk_size=8).encoded < 41
    assert len(kept(cache, "image")) == 41


def originals(folder: Path, count: int) -> list[list[Original]]:
    """The first pictures, each a batch."""
    rows = [row for row in pq.read_table(folder / "item_images.parquet").to_pylist() if row["shard"]]
    return [[Original(r["item_id"], r["sha256"], Place(r["shard"], r["offset"]), r["bytes"])] for r in rows[:count]]


def test_a_worker_process_that_does_not_end_when_asked_is_killed(items, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warehouse.artifacts.processes.GRACE", 0.5)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # how long torch waits, before us
    before = multiprocessing.active_children()
    batches = prepared(items["image"], originals(items["image"], 3), average_or_linger, workers=1)
    next(batches)
    (worker,) = [one for one in multiprocessing.active_children() if one not in before]
    batches.close()
    assert worker.exitcode == -signal.SIGKILL


DECODING = """
import json, multiprocessing, signal, sys
from pathlib import Path
from features.vectors.loading import Original, prepared
from features.pictures.shards import Place
from tests.features.work import average

if __name__ == "__main__":
    rows = [[Original(*o[:2], Place(*o[2]), o[3])] for o in json.loads(sys.argv[2])]
    batches = prepared(Path(sys.argv[1]), rows, average, workers=2)
    next(batches)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    signal.pause()
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_worker_processes_end_with_the_one_that_started_them(items, tmp_path: Path) -> None:
    (tmp_path / "decoding.py").write_text(DECODING)
    given = [astuple(original) for (original,) in originals(items["image"], 8)]
    command = [sys.executable, str(tmp_path / "decoding.py"), str(items["image"]), json.dumps(given)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        workers = [int(pid) for pid in started.stdout.readline().split()]
        started.kill()
    assert len(workers) == 2
    latest = time.monotonic() + 120
    while not all(map(gone, workers)):
        assert time.monotonic() < latest
        time.sleep(0.1)


def test_what_is_wrong_with_a_picture_is_said_by_a_worker_too(items, folder) -> None:
    name = shard_names(items["image"])[-1]
    shard = items["image"] / name
    shard.write_bytes(bytes(shard.stat().st_size))
    for workers in (0, 1):
        with pytest.raises(FeatureError, match=r"^\S+: shards and table disagree at item 'i\d+'; rebuild item_images$"):
            embed_images(items["image"], Telltale(), folder(f"out {workers}"), workers=workers)


@pytest.mark.parametrize(
    ("pictures", "device", "cores", "workers", "reason"),
    [
        (100, "cuda", 16, 0, "too few to start processes"),
        (100_000, "cuda:3", 16, 15, "GPU"),
        (100_000, "cuda", 1, 1, "GPU"),
        (100_000, "cpu", 2, 0, "same 2 cores"),
        (100_000, "cpu", 32, 4, "same 32 cores"),
    ],
)
def test_worker_processes_are_started_where_they_pay(pictures, device, cores, workers, reason) -> None:
    chosen, why = choose_workers(pictures, device, cores)
    assert chosen == workers
    assert reason in why


# the command line


@pytest.mark.long
def test_two_processes_of_torchrun_write_what_one_writes(items, tmp_path: Path, tiny_clip: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    command = [
        *("-m", "features.extraction", "image", "--items", str(items["image"]), "--model", str(tiny_clip)),
        *("--device", "cpu", "--storage", "float16"),
    ]
    ranks = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = EncoderSettings(model=str(tiny_clip), storage="float16")
        extract("image", items["image"], settings, tmp_path / "one cache", one, device="cpu")
    finally:
        torch.set_num_threads(threads)
    done = subprocess.run(
        [sys.executable, *ranks, *command, "--cache", str(tmp_path / "two cache"), "--out", str(two)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert table(two, "image") == table(one, "image")
    assert "rank 0 of 2" in done.stderr
    assert "rank 1 of 2" in done.stderr
    assert len(list((tmp_path / "two cache").glob("image-*/*.parquet"))) == len(shard_names(items["image"]))
    assert read_embeddings(two, "image_embeddings").present.sum() == ITEMS + 1


def test_what_cannot_be_used_is_said_in_a_line(items, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["text", "--items", str(items["text"]), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--out", str(items["text"])]) == 1
    assert "exists and is not empty; name a new folder with --out" in capsys.readouterr().err
    assert main([*command, "--model", "./nowhere"]) == 1
    assert "no folder nowhere" in capsys.readouterr().err
    for given in (["--path", "vectors.parquet"], ["--kind", "none", "--model", "./nowhere"]):
        assert main([*command, *given]) == 1
        assert f"{given[-2]}: not read for text by an encoder of kind" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_cache_alone_can_be_filled(items, tmp_path: Path, sample_clip: str, folder) -> None:
    settings = EncoderSettings(model=sample_clip)
    filled = extract("text", items["text"], settings, tmp_path / "cache", None, device="cpu")
    written = extract("text", items["text"], settings, tmp_path / "cache", tmp_path / "out", device="cpu")
    assert (filled.encoded, written.encoded, written.reused) == (ITEMS, 0, ITEMS + 1)
    json.dumps(asdict(written))
    assert read_embeddings(tmp_path / "out", "text_embeddings").present.sum() == ITEMS + 1
    assert embed_texts(items["text"], Telltale(), folder("other"), cache=tmp_path / "cache").encoded == ITEMS
