"""Bad input, at the doors people use: an error that names the thing, the cause and what mends it, and no file."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmm4rec.checkpoint import load_model
from mmm4rec.config import ModelConfig, RecommendationConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.reading import load_domain
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.evaluation.ranking import evaluate
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.reports import build_metrics, build_recommendations
from mmm4rec.training.fit import LAST_GOOD, fit

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]


def opened(folder: Path) -> DomainData:
    return load_domain(folder, folder / "text.parquet", folder / "image.parquet", "Toys")


@pytest.fixture
def trained(domain: DomainData, small: Config, quick: Training, tmp_path: Path) -> Path:
    """A checkpoint of the domain, length 6."""
    out = tmp_path / "scratch"
    out.mkdir()
    fit(domain, small(), quick(epochs=1), out)
    return out


def features(folder: Path, modality: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the vectors of a modality."""
    path = folder / f"{modality}.parquet"
    table = pq.read_table(path)
    vectors = change(np.array(table["vector"].to_pylist(), np.float32))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(table.set_column(1, "vector", column), path)


def interaction(folder: Path, item: int) -> None:
    """Put `item` into the first history, as its label of the test."""
    path = folder / "sequences.parquet"
    table = pq.read_table(path)
    lists = table["items"].to_pylist()
    lists[0][-1] = item
    place = table.schema.get_field_index("items")
    pq.write_table(table.set_column(place, "items", pa.array(lists, pa.list_(pa.int32()))), path)


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers(domain_folder: Path, modality: str, value: float) -> None:
    def spoil(vectors: np.ndarray) -> np.ndarray:
        vectors[(7, 2), 1] = value
        return vectors

    # Rows 7 and 2 may be those of items without a picture, whose vectors nobody reads.
    table = pq.read_table(domain_folder / f"{modality}.parquet")
    everyone = pa.array([True] * len(table))
    pq.write_table(table.set_column(2, "present", everyone), domain_folder / f"{modality}.parquet")
    features(domain_folder, modality, spoil)
    message = (
        rf"{modality}\.parquet: 2 {modality} vectors have NaN or infinity, such as that of 'item.*encode them again"
    )
    with pytest.raises(ModelError, match=message):
        opened(domain_folder)


@pytest.mark.parametrize("item", [0, -1, 16, 2**31 - 1])
def test_an_item_out_of_range_or_a_label_of_padding(domain_folder: Path, item: int) -> None:
    interaction(domain_folder, item)
    with pytest.raises(
        ModelError, match=rf"items run from .*{item}.*item_index is 1\.\.15; build core/sequences again"
    ):
        opened(domain_folder)


@pytest.mark.parametrize("compat", ["published", "default"])
@pytest.mark.parametrize("label", [0, 16])
def test_a_label_that_is_no_item_gets_no_rank(domain: DomainData, small: Config, compat: str, label: int) -> None:
    """Made in memory, where no reader looked: in published mode padding could be ranked, but is nothing to want."""
    items = domain.items.clone()
    items[domain.offsets[1:] - 1] = label
    damaged = replace(domain, items=items)
    message = rf"labels run from {label} to {label}, but items are 1\.\.15 .*build core/sequences again"
    with pytest.raises(ModelError, match=message):
        evaluate(MMM4Rec(small(compat=compat), domain), damaged, "test")


@pytest.mark.parametrize("modality", ["text", "image"])
def test_features_of_another_width(
    domain_folder: Path, trained: Path, tmp_path: Path, small: Config, quick: Training, modality: str
) -> None:
    features(domain_folder, modality, lambda vectors: np.concatenate([vectors, vectors], axis=1))
    wide = opened(domain_folder)
    out = tmp_path / "out"
    out.mkdir()
    message = (
        rf"trained on {modality} vectors of width \d, but Toys has width 1\d; use the same {modality} encoder for both"
    )
    for use in (
        lambda: load_model(trained, wide),
        lambda: fit(wide, small(), quick(), out, init=trained),
        lambda: build_metrics(wide, {"scratch": trained}, out),
        lambda: build_recommendations(wide, {"scratch": trained}, out, RecommendationConfig()),
    ):
        with pytest.raises(ModelError, match=message):
            use()
    assert not any(out.iterdir())


def test_a_checkpoint_of_another_length(
    domain: DomainData, trained: Path, tmp_path: Path, small: Config, quick: Training
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        ModelError, match=r"trained with length 6, but the model has 8; .*set length to 6, or pre-train"
    ):
        fit(domain, small(length=8), quick(), out, init=trained)
    assert not any(out.iterdir())
    # Without the time path nothing is made for one length.
    fit(domain, small(use_time=False), quick(epochs=1), out)
    (tmp_path / "long").mkdir()
    fit(domain, small(use_time=False, length=8), quick(epochs=1), tmp_path / "long", init=out)


def test_a_checkpoint_of_other_items(make_domain: Callable[..., DomainData], trained: Path) -> None:
    with pytest.raises(
        ModelError, match=r"are for 15 items, which are not the 15 items of Others; fine-tune it on this domain"
    ):
        load_model(trained, replace(make_domain("Others"), item_ids=[f"other{n}" for n in range(15)]))


def test_an_empty_validation_set(domain: DomainData, tmp_path: Path, small: Config, quick: Training) -> None:
    lengths = domain.offsets.diff()
    nothing_held_out = replace(domain, training=lengths, validation=torch.zeros_like(lengths))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ModelError, match=r"Toys: the validation set is empty; .*do not validate"):
        fit(nothing_held_out, small(), quick(), out)
    assert not any(out.iterdir())
    fit(nothing_held_out, small(), quick(epochs=1, validate_every=0, keep="last", patience=None), out)
    with pytest.raises(ModelError, match=r"no user to evaluate: .*give more interactions, or lower k of the k-core"):
        build_metrics(nothing_held_out, {"scratch": out}, tmp_path)
    build_recommendations(nothing_held_out, {"scratch": out}, tmp_path, RecommendationConfig())


def header_too_long(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(4096))


def resaved(
    change: Callable[[dict[str, torch.Tensor], dict[str, object]], object],
) -> Callable[[Path], None]:
    """Change tensors and description of a checkpoint in place."""

    def damage(file: Path) -> None:
        with safe_open(file, framework="pt") as stored:
            description = json.loads(stored.metadata()["mmm4rec"])
        tensors = load_file(file)
        change(tensors, description)
        save_file(tensors, file, {"mmm4rec": json.dumps(description)})

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "not a readable safetensors file .*; train the model again"),
        (garbage, "not a readable safetensors file .*; train the model again"),
        (header_too_long, "not a readable safetensors file .*; train the model again"),
        (lambda file: file.write_bytes(b""), "not a readable safetensors file .*; train the model again"),
        (lambda file: file.unlink(), "there is no checkpoint; train the model first"),
        (lambda file: save_file(load_file(file), file), "not a checkpoint of this package"),
        (
            resaved(lambda tensors, _: tensors.pop("text_norm.weight")),
            "1 tensors do not fit .*such as text_norm.weight",
        ),
        (
            resaved(lambda tensors, _: tensors.update({"text_norm.weight": torch.ones(3)})),
            "1 tensors do not fit its own config, such as text_norm.weight: the file is damaged; train",
        ),
        (
            resaved(lambda _, description: description.update(format="mmm4rec 0")),
            "format is 'mmm4rec 0', but this version reads 'mmm4rec 1'; train the model again",
        ),
        (
            resaved(lambda _, description: description["config"].update(hiden=3)),
            "unknown setting 'hiden' .did you mean 'hidden'",
        ),
    ],
)
def test_a_corrupt_checkpoint(
    domain: DomainData, trained: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(trained / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    for use in (
        lambda: load_model(trained, domain),
        lambda: build_recommendations(domain, {"scratch": trained}, out, RecommendationConfig()),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            use()
        assert str(trained / "model.safetensors") in str(caught.value)
    assert not any(out.iterdir())


def test_a_kernel_that_is_not_there_stops_before_anything_is_built(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(MMM4Rec, "__init__", build)
    message = "ssd_form is 'triton', but mamba-ssm needs CUDA tensors .*set ssd_form to auto"
    with pytest.raises(ConfigError, match=message):
        fit(domain, small(), quick(ssd_form="triton"), tmp_path, state=tmp_path / "state")
    with pytest.raises(ConfigError, match=message):
        fit(domain, small(), quick(ssd_form="triton", devices=2, accumulate=2), tmp_path)
    assert not (tmp_path / "state").exists()


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_last_good_weights(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label's row turns NaN in the middle of the second epoch; the first epoch's weights are what is left."""
    training = quick(batch_size=32, epochs=3, keep="last", validate_every=0)
    batches = -(-len(domain.examples("training", 6)) // 32)
    calls = 0
    forward = MMM4Rec.forward

    def spoiled(self: MMM4Rec, *given: object, **named: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(self, *given, **named) * (torch.nan if calls > calls_of_an_epoch + 2 else 1)

    calls_of_an_epoch = 10**9
    monkeypatch.setattr(MMM4Rec, "forward", spoiled)
    (tmp_path / "whole").mkdir()
    fit(domain, small(), replace(training, epochs=1), tmp_path / "whole")
    calls_of_an_epoch, calls = calls, 0
    with pytest.raises(
        ModelError, match=rf"Toys: the loss is not finite at epoch 2, batch [123]\b.*in {tmp_path}"
    ) as caught:
        fit(domain, small(), training, tmp_path)
    assert batches > 3
    assert "The last good weights, those of epoch 1" in str(caught.value)
    kept, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / LAST_GOOD, tmp_path / "whole"))
    assert all(torch.equal(kept[name], whole[name]) for name in whole)
    assert not (tmp_path / "model.safetensors").exists()
