"""A model's folder in which something is missing is refused: the libraries would make up what is not there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from features.encoders import encoder_identity, open_encoder
from features.errors import FeatureError
from features.settings import EncoderSettings
from tests.features.tiny_models import change_json, write_bare_clip, write_sentence_model, write_siglip


@pytest.fixture(scope="module")
def models(tiny_clip: Path, legacy_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        "packed clip": tiny_clip,
        "legacy clip": legacy_clip,
        "bare clip": write_bare_clip(tiny_clip, place / "bare-clip"),
        "siglip": write_siglip(place / "siglip"),
        "sentences": write_sentence_model(place / "sentences"),
    }


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return shutil.copytree(models[request.param], tmp_path / "model")


sentences = pytest.mark.parametrize("copy", ["sentences"], indirect=True)


def settings(folder: Path) -> EncoderSettings:
    return EncoderSettings(model=str(folder))


@pytest.mark.parametrize(
    ("copy", "gone"),
    [
        ("packed clip", "modules.json"),
        ("packed clip", "config.json"),
        ("packed clip", "tokenizer.json"),
        ("packed clip", "processor_config.json"),
        ("legacy clip", "0_CLIPModel/tokenizer.json"),
        ("legacy clip", "0_CLIPModel/processor_config.json"),
        ("legacy clip", "0_CLIPModel"),
        ("bare clip", "tokenizer.json"),
        ("bare clip", "config.json"),
        ("siglip", "tokenizer.json"),
        ("siglip", "preprocessor_config.json"),
        ("sentences", "modules.json"),
        ("sentences", "tokenizer.json"),
        ("sentences", "1_Pooling/config.json"),
        ("sentences", "1_Pooling"),
    ],
    indirect=["copy"],
)
def test_a_missing_file_is_named_before_anything_is_loaded(copy: Path, gone: str) -> None:
    shutil.rmtree(copy / gone) if (copy / gone).is_dir() else (copy / gone).unlink()
    named = {"processor_config.json": "preprocessor_config.json"}.get(Path(gone).name, Path(gone).name)
    named = f"{gone}/config.json" if "." not in named else named
    for use in (encoder_identity, open_encoder):
        with pytest.raises(FeatureError, match=rf"model in {copy} is incomplete: \S*{named} is missing; it needs"):
            use(settings(copy))


@pytest.mark.parametrize("copy", ["packed clip", "bare clip", "siglip", "sentences"], indirect=True)
def test_a_tokenizer_without_its_settings_is_refused(copy: Path) -> None:
    """Which of them are needed is the library's business: it is tried when the model is opened."""
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(FeatureError, match=r"cannot be loaded: .*check that its files are complete"):
        open_encoder(settings(copy))


@sentences
@pytest.mark.parametrize("there", [["vocab.json"], ["merges.txt"], []], ids=str)
def test_half_a_tokenizer_is_none(copy: Path, there: list[str]) -> None:
    (copy / "tokenizer.json").unlink()
    for name in there:
        (copy / name).write_text("{}")
    missing = {"vocab.json", "merges.txt"} - set(there) if there else {"tokenizer.json"}
    with pytest.raises(FeatureError, match=rf"incomplete: {missing.pop()} is missing"):
        encoder_identity(settings(copy))


@pytest.mark.parametrize("copy", ["packed clip", "siglip", "sentences"], indirect=True)
def test_a_tokenizer_that_lacks_words_is_refused(copy: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {word: number for word, number in words.items() if number < len(words) - 2}
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(FeatureError, match=rf"its tokenizer has \d words .*, but its weights are for {len(words)}"):
        open_encoder(settings(copy))


@sentences
def test_weights_that_are_not_stored_are_refused(copy: Path) -> None:
    """Transformers draws what is missing at random and says so in a warning."""

    def change(rename: Any) -> None:
        weights = {new: tensor for old, tensor in load_file(file).items() if (new := rename(old))}
        save_file(weights, file, metadata={"format": "pt"})

    file = copy / "model.safetensors"
    change(lambda name: None if name.startswith("pooler.") else name)
    open_encoder(settings(copy))  # sentences are pooled from tokens
    change(lambda name: None if "attention.self.query" in name else name)
    with pytest.raises(FeatureError, match=r"its weights lack \S*attention\.self\.query\.bias"):
        open_encoder(settings(copy))
    change(lambda name: f"wrapped.in.{name}")
    with pytest.raises(FeatureError, match=r"its weights lack embeddings\."):
        open_encoder(settings(copy))


@pytest.mark.parametrize("copy", ["legacy clip", "sentences"], indirect=True)
def test_a_part_of_the_weights_that_is_missing_is_named(copy: Path) -> None:
    (file,) = copy.rglob("model.safetensors")
    file.rename(file.with_name("model-00001-of-00002.safetensors"))
    listed = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    file.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(FeatureError, match=r"no weights, \S+/model-00002-of-00002\.safetensors is missing"):
        encoder_identity(settings(copy))


@sentences
def test_every_module_with_weights_needs_its_own(copy: Path) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    kind = "sentence_transformers.base.modules.dense.Dense"
    (copy / "modules.json").write_text(json.dumps([*modules, {"idx": 3, "name": "3", "path": "3_Dense", "type": kind}]))
    (copy / "3_Dense").mkdir()
    with pytest.raises(FeatureError, match=r"incomplete: 3_Dense/config\.json is missing"):
        encoder_identity(settings(copy))
    (copy / "3_Dense" / "config.json").write_text("{}")
    with pytest.raises(FeatureError, match=r"no weights, \S+/3_Dense/model\.safetensors is missing"):
        encoder_identity(settings(copy))


def test_a_cached_hub_model_that_is_incomplete_is_fetched_or_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, commit = tmp_path / "models--sentence-transformers--tiny", "0" * 40
    snapshot = shutil.copytree(models["sentences"], cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", None)
    assert encoder_identity(EncoderSettings(model="tiny")).model == "tiny"
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(FeatureError, match=rf"is not cached and .* model in {snapshot} is incomplete: tokenizer\.json"):
        encoder_identity(EncoderSettings(model="tiny"))


def test_a_tokenizer_that_open_clip_is_to_take_from_the_folder_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "open_clip_model.safetensors").touch()
    model = {"text_cfg": {}, "vision_cfg": {}}
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": model}))
    named = EncoderSettings(kind="open-clip", model=str(tmp_path))
    encoder_identity(named)  # its own comes with the library
    change_json(config, model_cfg=model | {"text_cfg": {"hf_tokenizer_name": "its own"}})
    with pytest.raises(FeatureError, match=r"incomplete: tokenizer\.json is missing"):
        encoder_identity(named)
    config.unlink()
    with pytest.raises(FeatureError, match=r"incomplete: open_clip_config\.json is missing"):
        encoder_identity(named)
