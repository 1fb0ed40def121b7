"""Published checkpoints: imported, computed with, exported."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mmm4rec.checkpoint import load, load_model
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.data.examples import Batch
from mmm4rec.errors import ModelError
from mmm4rec.published.exchange import export_checkpoint, import_checkpoint
from mmm4rec.training.fit import fit

CASES = ("with_id_1layer", "without_id_2layers_in_batch")
ITEMS = [f"item{n}" for n in range(1, 41)]


def tensors_of(shared: Path, case: str) -> dict[str, Tensor]:
    with safe_open(shared / f"parity/{case}.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def published(tensors: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The parameters of a parity file as a published checkpoint holds them: the shared block twice."""
    named = OrderedDict((name.removeprefix("param."), t) for name, t in tensors.items() if name.startswith("param."))
    for name in list(named):
        if ".ssd." in name:
            named[name.replace("encoder_", "decoder_")] = named[name].clone()
    return named


@pytest.fixture
def tensors(shared: Path) -> dict[str, Tensor]:
    return tensors_of(shared, "with_id_1layer")


@pytest.mark.parametrize("case", CASES)
def test_an_imported_checkpoint_computes_what_the_published_model_does(shared: Path, tmp_path: Path, case: str) -> None:
    tensors = tensors_of(shared, case)
    torch.save(published(tensors), tmp_path / "a.ckpt")
    found = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "ours", item_ids=ITEMS)
    assert (found.config.layers, found.config.with_id) == ((1, True) if case == CASES[0] else (2, False))
    assert (found.config.length, found.config.state, found.config.inner) == (10, 8, 32)
    none = torch.zeros(0, dtype=torch.int64)
    text, image = (
        Features(tensors[f"buffer.{name}_embedding"], torch.ones(41, dtype=torch.bool)) for name in ("text", "vision")
    )
    domain = DomainData("parity", [], ITEMS, torch.zeros(1, dtype=torch.int64), none, none, none, none, text, image)
    model = load_model(tmp_path / "ours", domain)
    items, times, lengths = (tensors[f"input.{name}"] for name in ("item_seq", "timestamps", "item_seq_len"))
    with torch.no_grad():
        vectors = model.item_vectors()
        user = model.user_vectors(Batch(items[:, : int(lengths.max())], times, lengths, None), vectors, items)
        scores = model.scores(user, model.score_vectors(vectors))
    assert (scores - tensors["output.scores"]).abs().max() <= 2e-5


@pytest.mark.parametrize("case", CASES)
def test_a_round_trip_is_exact(shared: Path, tmp_path: Path, case: str) -> None:
    original = published(tensors_of(shared, case))
    torch.save({"model": original, "epoch": 3}, tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "ours", item_ids=ITEMS)
    export_checkpoint(tmp_path / "ours", tmp_path / "b.ckpt")
    back = torch.load(tmp_path / "b.ckpt", weights_only=True)["model"]
    assert back.keys() == original.keys()
    assert all(
        torch.equal(back[name], tensor) and back[name].shape == tensor.shape for name, tensor in original.items()
    )
    import_checkpoint(tmp_path / "b.ckpt", tmp_path / "again", item_ids=ITEMS)
    export_checkpoint(tmp_path / "again", tmp_path / "c.ckpt")
    for first, second in (("ours/model.safetensors", "again/model.safetensors"), ("b.ckpt", "c.ckpt")):
        assert (tmp_path / first).read_bytes() == (tmp_path / second).read_bytes()


@pytest.mark.parametrize("fusion", ["dynamic_shared", "dynamic_instance"])
def test_every_variant_comes_back(
    domain: DomainData,
    tmp_path: Path,
    small: Callable[..., ModelConfig],
    quick: Callable[..., TrainConfig],
    fusion: str,
) -> None:
    config = small(compat="published", fusion=fusion, with_id=False, use_ffn=False, temperature=0.5, groups=2)
    (tmp_path / "ours").mkdir()
    fit(domain, config, quick(epochs=1), tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "a.ckpt")
    given = {name: getattr(config, name) for name in ("temperature", "groups", "inner")}
    given |= {f"dropout_{name}": 0.1 for name in ("embedding", "hidden", "time")}
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "back", item_ids=domain.item_ids, settings=given)
    assert load(tmp_path / "back").config == config
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "ours/model.safetensors").read_bytes()


def test_what_is_left_out_is_listed(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """Features may be in the file; without the settings' time path, what belongs to it is left out."""
    named = {f"module.{name}": tensor for name, tensor in published(tensors).items()}
    named |= {f"module.{name}": tensors[f"buffer.{name}"] for name in ("text_embedding", "fusion_factor")}
    torch.save({"state_dict": named}, tmp_path / "a.ckpt")
    found = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "ours", item_ids=ITEMS, settings={"use_time": False})
    reasons = {reason: name for name, reason in found.left_out.items()}
    assert found.left_out["text_embedding"] == "features come with the data"
    assert found.left_out["fusion_factor"] == "a constant of static fusion"
    assert found.left_out["layer_norm_time.weight"] == "not used with these settings"
    assert reasons["the shared block, which this model holds once"].startswith("decoder_ssd_layers.0.ssd.")
    assert found.items == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("text_in_layer_norm.weight"), r"missing text_in_layer_norm\.weight"),
        (lambda p: p.pop("vision_adapter.0.weight"), r"no parameter vision_adapter\.0\.weight"),
        (lambda p: p.pop("text_adapter.0.weight"), "show no sizes"),
        (lambda p: p.update(colour=torch.ones(2)), "the parameter colour is unknown"),
        (
            lambda p: p["layer_norm_time.bias"].fill_(torch.nan),
            r"layer_norm_time\.bias has values that are not finite",
        ),
        (lambda p: p["decoder_ssd_layers.0.ssd.D"].add_(1), "the shared block twice, and .*ssd.D differs"),
        (
            lambda p: p.update({"decoder_ssd_layers.0.ffn.fc1.bias": torch.ones(31)}),
            r"fc1\.bias is \[31\], expected \[32\]",
        ),
        (lambda p: p.update({"layer_norm_time.weight": torch.ones(9)}), r"is \[\d+.*\], expected \[9"),
    ],
)
def test_a_damaged_checkpoint_names_what_is_wrong(
    tensors: dict[str, Tensor], tmp_path: Path, change: Callable[[dict], object], message: str
) -> None:
    named = published(tensors)
    change(named)
    torch.save(named, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match=message):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "ours", item_ids=ITEMS)
    assert not (tmp_path / "ours").exists()


def test_items_must_be_given_for_item_weights(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(published(tensors), tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="weights of 40 items, but no item ids are given: give the items"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "ours")
    with pytest.raises(ModelError, match="39 item ids are given"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "ours", item_ids=ITEMS[1:])


class Hostile:
    """What runs a command when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def test_a_corrupt_or_hostile_file_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file, trace = tmp_path / "a.ckpt", tmp_path / "trace"
    with pytest.raises(ModelError, match="no such file"):
        import_checkpoint(file, tmp_path / "ours")
    torch.save(published(tensors), file)
    whole = file.read_bytes()
    hostile = pickle.dumps({"model": Hostile(trace)}, protocol=2)
    for content in (b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-1], hostile):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="not a checkpoint that can be read safely"):
            import_checkpoint(file, tmp_path / "ours")
    torch.save({"model": Hostile(trace)}, file)
    with pytest.raises(ModelError, match="not a checkpoint that can be read safely"):
        import_checkpoint(file, tmp_path / "ours")
    assert not trace.exists(), "nothing in the file was run"
    for strange in ([1, 2], {"model": {"weight": torch.ones(3)}}, torch.ones(3)):
        torch.save(strange, file)
        with pytest.raises(ModelError, match="it has no parameter of the published model"):
            import_checkpoint(file, tmp_path / "ours")


def test_the_default_mode_is_not_exported(
    domain: DomainData, tmp_path: Path, small: Callable[..., ModelConfig], quick: Callable[..., TrainConfig]
) -> None:
    (tmp_path / "ours").mkdir()
    fit(domain, small(), quick(epochs=1), tmp_path / "ours")
    with pytest.raises(ModelError, match="a model of the default mode"):
        export_checkpoint(tmp_path / "ours", tmp_path / "a.ckpt")
