"""Reading a domain, cutting examples, batching them."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmm4rec.data import reading
from mmm4rec.data.domain import DomainData, merge_domains
from mmm4rec.data.reading import load_domain
from mmm4rec.errors import ModelError


def load(folder: Path) -> DomainData:
    return load_domain(folder, folder / "text.parquet", folder / "image.parquet", "Toys")


def rewrite(path: Path, change: Callable[[dict[str, list]], None]) -> None:
    """Change a Parquet file through its columns as lists, keeping its types."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    schema = pa.schema([field for field in table.schema if field.name in columns])
    pq.write_table(pa.table(columns, schema=schema), path)


def test_features_are_joined_by_id(domain_folder: Path) -> None:
    domain = load(domain_folder)
    rows = {row["item_id"]: row for row in pq.read_table(domain_folder / "image.parquet").to_pylist()}
    assert list(rows) != domain.item_ids
    for n, item in enumerate(domain.item_ids, start=1):
        assert domain.image.vectors[n].tolist() == rows[item]["vector"]
        assert bool(domain.image.present[n]) == rows[item]["present"]
    assert not domain.image.vectors[0].any()
    assert not domain.image.present[0]
    assert domain.text.width == 6


def test_more_features_than_items_are_allowed(domain_folder: Path) -> None:
    def add(columns: dict[str, list]) -> None:
        columns["item_id"].append("stranger")
        columns["vector"].append([1.0] * 6)
        columns["present"].append(True)

    rewrite(domain_folder / "text.parquet", add)
    assert load(domain_folder).text.vectors.shape == (16, 6)


def test_vectors_of_any_size_are_held_once(tmp_path: Path) -> None:
    """Shuffled, some absent, among strangers: each is at its item, and the peak is little more than the result."""
    rows, wanted, width = 40_000, 30_000, 64
    chance = np.random.default_rng(0)
    ids = np.array([f"I{number:05d}" for number in chance.permutation(rows)])
    vectors, present = chance.standard_normal((rows, width)).astype(np.float32), chance.random(rows) > 0.1
    path = tmp_path / "vectors.parquet"
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
    table = pa.table({"item_id": pa.array(ids), "vector": lists, "present": present})
    pq.write_table(table, path, row_group_size=8192, compression="none", use_dictionary=False)
    expected = {item: vector * here for item, vector, here in zip(ids, vectors, present, strict=True)}
    del table, lists
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        found = reading._load_features(path, pa.array(ids[:wanted]), "text", None)
        peak = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert np.array_equal(found.vectors[1:].numpy(), [expected[item] for item in ids[:wanted]])
    assert found.present.tolist() == [False, *present[:wanted].tolist()]
    assert not found.vectors[0].any()
    assert peak < 3 * found.vectors.nbytes  # ids and a batch of 8,192 beside it, more than half of it here


def drop(name: str) -> Callable[[dict[str, list]], None]:
    return lambda columns: columns.pop(name) and None


def put(name: str, row: int, value: object) -> Callable[[dict[str, list]], None]:
    return lambda columns: columns[name].__setitem__(row, value)


def drop_rows(columns: dict[str, list]) -> None:
    for values in columns.values():
        del values[:2]


def clear(columns: dict[str, list]) -> None:
    for values in columns.values():
        values.clear()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("text", put("vector", 1, [float("nan")] * 6), r"1 text vectors have NaN or infinity, such as that of 'item"),
        ("text", put("vector", 1, [float("inf")] * 6), "NaN or infinity"),
        ("text", put("item_id", 0, "item001"), r"ids occur more than once|items have no row"),
        ("image", drop_rows, r"2 of 15 items have no row, such as 'item"),
        ("image", drop("present"), "no column present"),
        ("items", put("item_index", 3, 99), r"item_index is not 1\.\.15"),
        ("items", put("item_id", 0, "item002"), r"item_id: 1 ids occur more than once, such as 'item002'"),
        ("items", clear, "no users or no items"),
        ("sequences", put("items", 0, [1, 99, 2]), "differ in length|items run from 1 to 99"),
        ("sequences", put("items", 0, [1]), "differ in length"),
        ("sequences", put("user_id", 0, "user002"), "such as 'user002'"),
        ("sequences", drop("times"), "no column times"),
        ("sequences", clear, "no users or no items"),
    ],
)
def test_damaged_tables_are_refused(
    domain_folder: Path, file: str, change: Callable[[dict[str, list]], None], message: str
) -> None:
    rewrite(domain_folder / f"{file}.parquet", change)
    with pytest.raises(ModelError, match=message):
        load(domain_folder)


def test_indices_out_of_range_are_refused(domain_folder: Path) -> None:
    rewrite(domain_folder / "sequences.parquet", lambda c: c["items"][0].__setitem__(0, 99))
    with pytest.raises(ModelError, match=r"to 99, but item_index is 1\.\.15"):
        load(domain_folder)


def test_a_missing_or_truncated_file_is_refused(domain_folder: Path) -> None:
    path = domain_folder / "text.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="not a readable Parquet file"):
        load(domain_folder)
    path.unlink()
    with pytest.raises(ModelError, match="no such file"):
        load(domain_folder)


def test_vectors_of_several_widths_are_refused(domain_folder: Path) -> None:
    table = pq.read_table(domain_folder / "text.parquet")
    vectors = pa.array([[1.0] * (5 + n % 2) for n in range(len(table))], pa.list_(pa.float32()))
    pq.write_table(table.set_column(1, "vector", vectors), domain_folder / "text.parquet")
    with pytest.raises(ModelError, match=r"widths \[5, 6\]"):
        load(domain_folder)


def test_examples_are_the_prefixes(make_domain: Callable[..., DomainData]) -> None:
    domain = make_domain(shortest=1, seed=3)
    expected: dict[str, list] = {"training": [], "validation": [], "test": [], "everything": []}
    for u in range(domain.user_count):
        items = domain.items[domain.offsets[u] : domain.offsets[u + 1]].tolist()
        n = len(items)
        expected["training"] += [(u, items[:cut][-4:], items[cut]) for cut in range(1, n - 2)]
        expected["validation"] += [(u, items[: n - 2][-4:], items[n - 2])] if n > 2 else []
        expected["test"] += [(u, items[: n - 1][-4:], items[n - 1])] if n > 1 else []
        expected["everything"] += [(u, items[-4:], None)]
    for split, rows in expected.items():
        examples = domain.examples(split, 4)  # type: ignore[arg-type]
        batch = examples.batch(torch.arange(len(examples)), 4)
        labels = [None] * len(examples) if batch.labels is None else batch.labels.tolist()
        found = [
            (user, items[:length], label)
            for user, items, length, label in zip(
                examples.users.tolist(), batch.items.tolist(), batch.lengths.tolist(), labels, strict=True
            )
        ]
        assert found == rows
        padding = torch.arange(4) >= batch.lengths[:, None]
        assert not batch.items[padding].any()
        assert not batch.times[padding].any()
        assert batch.times[~padding].all()


def test_a_global_time_split_asks_for_the_first_item_after_the_border(make_domain: Callable[..., DomainData]) -> None:
    """Users may have any number of items, also none, in each part."""
    domain = make_domain(seed=5)
    cuts = [torch.quantile(domain.times.double(), q) for q in (0.6, 0.8)]
    owners = torch.repeat_interleave(torch.arange(domain.user_count), domain.offsets.diff())
    before = [torch.bincount(owners[domain.times < cut], minlength=domain.user_count) for cut in cuts]
    domain = replace(domain, training=before[0], validation=before[1] - before[0])
    for split, cut in zip(("validation", "test"), cuts, strict=True):
        examples = domain.examples(split, 30)  # type: ignore[arg-type]
        batch = examples.batch(torch.arange(len(examples)), 30)
        assert 0 < len(examples) < domain.user_count
        assert (batch.times < cut).all()
        assert (domain.times[examples.label] >= cut).all()
        assert batch.labels is not None
    training = domain.examples("training", 30)
    assert (domain.times[training.label] < cuts[0]).all()
    assert domain.training_counts().sum() == (domain.times < cuts[0]).sum()


def test_the_time_of_the_label_is_no_input(domain: DomainData) -> None:
    """Published: where history and label fit into L, the label's time stays. Default: never."""
    examples = domain.examples("test", 6)
    index = torch.arange(len(examples))
    batch, published = examples.batch(index, 6), examples.batch(index, 6, label_time_is_input=True)
    assert torch.equal(batch.items, published.items)
    label_times = domain.times[examples.label]
    for e in range(len(examples)):
        length = int(batch.lengths[e])
        assert batch.times[e, length:].tolist() == [0] * (6 - length)
        leaked = int(examples.label[e] - examples.first[e]) < 6
        assert leaked == (length < 6 and int(published.times[e, length]) == int(label_times[e]))
    assert (published.times != batch.times).any()


def test_merging_prefixes_ids_and_shifts_items(make_domain: Callable[..., DomainData]) -> None:
    first, second = make_domain("A"), make_domain("B", users=7, items=9, absent_images=(), seed=5)
    merged = merge_domains([first, second])
    assert merged.item_ids[0] == "A:item001"
    assert merged.item_ids[15] == "B:item001"
    assert merged.user_count == first.user_count + 7
    user = first.user_count + 3
    found = merged.items[merged.offsets[user] : merged.offsets[user + 1]] - 15
    assert torch.equal(found, second.items[second.offsets[3] : second.offsets[4]])
    assert torch.equal(merged.text.vectors[16:], second.text.vectors[1:])
    assert torch.equal(merged.image.present[:16], first.image.present)
    assert len(merged.examples("training", 6)) == sum(len(d.examples("training", 6)) for d in (first, second))


def test_domains_that_do_not_fit_are_not_merged(make_domain: Callable[..., DomainData]) -> None:
    first = make_domain("A")
    with pytest.raises(ModelError, match="text vectors of the domains differ in width: A 6, B 7"):
        merge_domains([first, make_domain("B", widths=(7, 5))])
    with pytest.raises(ModelError, match="domains with the same name"):
        merge_domains([first, first])
    with pytest.raises(ModelError, match="no domain"):
        merge_domains([])


def test_a_modality_may_be_missing_altogether(make_domain: Callable[..., DomainData]) -> None:
    domain = make_domain(absent_images=tuple(range(1, 16)))
    assert not domain.image.present.any()
    assert replace(domain).image.vectors.shape == (16, 5)
    assert np.all(domain.image.vectors.numpy() == 0)
