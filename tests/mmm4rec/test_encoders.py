"""A model understands the vectors of the encoders it was trained with: others of the same width are an error."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmm4rec.__main__ import main
from mmm4rec.checkpoint import load, load_model
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, merge_domains
from mmm4rec.data.reading import load_domain
from mmm4rec.errors import ModelError
from mmm4rec.reports import build_metrics
from mmm4rec.training.fit import fit, pretrain
from tests.mmm4rec.conftest import SMALL, write_domain

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]

CLIP = {
    "architecture": "CLIPModel",
    "model": "clip-ViT-B-32",
    "normalised": True,
    "precision": "float32",
    "preprocessing": "text: first 64 tokens at most",
    "weights_sha256": "ab" * 32,
    "width": 6,
}
OTHER = {**CLIP, "model": "clip-tuned", "weights_sha256": "cd" * 32}
READY = {**CLIP, "architecture": "ready vectors", "model": "vectors.parquet:text", "preprocessing": "unknown"}


def embedded(folder: Path, encoder: dict | None, image: dict | None = CLIP, **options) -> Path:
    """A domain as the feature store writes it: a folder for each modality, with its encoder.json."""
    write_domain(folder, **options)
    for modality, identity in (("text", encoder), ("image", image)):
        home = folder / f"{modality}_embeddings"
        home.mkdir()
        (folder / f"{modality}.parquet").rename(home / f"{modality}_embeddings.parquet")
        if identity:
            (home / "encoder.json").write_text(json.dumps(identity))
    return folder


def opened(folder: Path) -> DomainData:
    text, image = (folder / f"{name}_embeddings/{name}_embeddings.parquet" for name in ("text", "image"))
    return load_domain(folder, text, image, folder.name)


@pytest.fixture
def pretrained(tmp_path: Path, small: Config, quick: Training) -> Path:
    """Trained on two sources, both embedded with CLIP."""
    sources = [opened(embedded(tmp_path / name, CLIP, seed=seed)) for name, seed in (("A", 1), ("B", 2))]
    out = tmp_path / "pretrained"
    out.mkdir()
    pretrain(sources, small(), quick(loss="in_batch", epochs=1), out)
    return out


def test_a_target_of_another_encoder_of_the_same_width_is_refused(
    pretrained: Path, tmp_path: Path, small: Config, quick: Training
) -> None:
    target = opened(embedded(tmp_path / "Toys", OTHER))
    out = tmp_path / "out"
    out.mkdir()
    message = (
        r"pretrained/model\.safetensors: trained on text vectors of the encoder clip-ViT-B-32 \([0-9a-f]{12}\), "
        r"but those of Toys are of clip-tuned \([0-9a-f]{12}\): .*use the same text encoder for both"
    )
    for use in (
        lambda: fit(target, small(), quick(), out, init=pretrained),
        lambda: load_model(pretrained, target),
        lambda: build_metrics(target, {"pretrained": pretrained}, out),
    ):
        with pytest.raises(ModelError, match=message):
            use()
    assert not any(out.iterdir())
    other_pictures = opened(embedded(tmp_path / "Games", CLIP, OTHER))
    with pytest.raises(ModelError, match=r"trained on image vectors of the encoder .*use the same image encoder"):
        fit(other_pictures, small(), quick(), out, init=pretrained)


@pytest.mark.parametrize("change", [{}, {"model": "openai/clip-vit-base-patch32"}, {"precision": "bfloat16"}])
def test_the_same_encoder_by_another_name_or_precision_is_taken(
    pretrained: Path, tmp_path: Path, small: Config, quick: Training, change: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    target = opened(embedded(tmp_path / "Toys", {**CLIP, **change}))
    out = tmp_path / "out"
    out.mkdir()
    summary = fit(target, small(), quick(epochs=1), out, init=pretrained)
    assert summary.transfer is not None
    assert summary.transfer.unchecked == []
    load_model(out, target)
    assert "not known" not in capsys.readouterr().err
    assert load(out).text.encoder == target.text.encoder


@pytest.mark.parametrize(
    ("identity", "named"), [(None, "an unrecorded encoder"), (READY, r"vectors\.parquet:text \([0-9a-f]{12}\)")]
)
def test_an_encoder_that_nobody_knows_is_allowed_and_said(
    pretrained: Path,
    tmp_path: Path,
    identity: dict | None,
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `python -m mmm4rec finetune` and `evaluate` say it."""
    folder, config = embedded(tmp_path / "Toys", identity), tmp_path / "config.json"
    config.write_text(json.dumps({"model": SMALL, "training": {"epochs": 1, "batch_size": 32, "accumulate": 1}}))
    for table in ("sequences", "items"):
        (folder / "sequences").mkdir(exist_ok=True)
        (folder / f"{table}.parquet").rename(folder / "sequences" / f"{table}.parquet")
    toys, out = ["--domain", "Toys", str(folder)], str(tmp_path / "tuned")
    assert main(["finetune", *toys, "--config", str(config), "--init", str(pretrained), "--out", out]) == 0
    said = capsys.readouterr().out
    assert f"not checked: text vectors: trained on those of {CLIP['model']}" in said
    assert "not checked: image" not in said
    (unchecked,) = json.loads((tmp_path / "tuned/model.json").read_text())["transfer"]["unchecked"]
    assert unchecked in said
    assert main(["evaluate", *toys, "--checkpoint", str(pretrained)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{pretrained}/model.safetensors: {unchecked}"
    # Ready vectors are known by their content: a model of these very ones fits them without a word.
    assert main(["evaluate", *toys, "--checkpoint", out]) == 0
    assert ("not known" in capsys.readouterr().err) == (identity is None)
    assert re.search(rf"Toys has those of {named}", unchecked)


def test_a_checkpoint_from_before_encoders_were_recorded_still_loads(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = pretrained / "model.safetensors"
    with safe_open(file, framework="pt") as stored:
        description = json.loads(stored.metadata()["mmm4rec"])
    for modality in ("text", "image"):
        assert description.pop(f"{modality}_encoder")["model"] == CLIP["model"]
    save_file(load_file(file), file, {"mmm4rec": json.dumps(description)})
    load_model(pretrained, opened(embedded(tmp_path / "Toys", OTHER)))
    assert "text vectors: trained on those of an unrecorded encoder, Toys has those of" in capsys.readouterr().err


def test_sources_of_several_encoders_are_not_merged(tmp_path: Path) -> None:
    domains = [opened(embedded(tmp_path / name, identity)) for name, identity in (("A", CLIP), ("B", OTHER))]
    with pytest.raises(
        ModelError, match=r"text vectors .* several encoders: A clip-ViT-B-32 .*, B clip-tuned .*set one"
    ):
        merge_domains(domains)
    unknown = replace(domains[1], text=replace(domains[1].text, encoder=None))
    assert merge_domains([unknown, domains[0]]).text.encoder == domains[0].text.encoder


def test_one_encoder_json_beside_both_tables_is_of_neither(tmp_path: Path) -> None:
    folder = write_domain(tmp_path / "Toys")
    (folder / "encoder.json").write_text(json.dumps(CLIP))
    domain = load_domain(folder, folder / "text.parquet", folder / "image.parquet")
    assert domain.text.encoder is domain.image.encoder is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": 1}'])
def test_a_damaged_encoder_json_is_an_error(tmp_path: Path, content: str) -> None:
    folder = embedded(tmp_path / "Toys", CLIP)
    (folder / "text_embeddings/encoder.json").write_text(content)
    with pytest.raises(
        ModelError, match=r"encoder\.json: there is no encoder identity .*build the embeddings beside it again"
    ):
        opened(folder)
