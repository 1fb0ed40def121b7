"""What open_clip's models promise beyond the contract; in an environment of its own, `make test-open-clip`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from features.encoders import open_encoder
from features.errors import FeatureError
from features.settings import EncoderSettings
from tests.features.tiny_models import change_json, write_open_clip


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-clip")


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / source.name)


def opened(folder: Path) -> Any:
    return open_encoder(EncoderSettings(kind="open-clip", model=str(folder)))


def set_model(folder: Path, tower: str, **values: Any) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][tower] |= values
    path.write_text(json.dumps(config))


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_vectors_are_those_of_open_clip(folder: Path) -> None:
    import open_clip
    import torch

    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    texts, images = ["a red mug", "", "striped lamp"], [noise(50, 81), noise(81, 50), noise(33, 32), noise(47, 200)]
    with torch.inference_mode():
        read = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
        seen = model.encode_image(torch.stack([prepare(image) for image in images]), normalize=True)
    encoder = opened(folder)
    assert np.allclose(encoder.encode_texts(texts), read, atol=1e-6)
    assert np.allclose(encoder.encode_images(images), seen, atol=1e-6)


@pytest.mark.parametrize("settings", [{"resize_mode": "squash"}, {"interpolation": "bilinear"}], ids=str)
def test_preparation_is_that_of_open_clip(folder: Path, settings: dict[str, Any]) -> None:
    import open_clip

    config = json.loads((folder / "open_clip_config.json").read_text())
    change_json(folder / "open_clip_config.json", preprocess_cfg=config["preprocess_cfg"] | settings)
    prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2]
    preparation = opened(folder).preparation
    for image in (noise(50, 81), noise(81, 50), noise(33, 35)):
        assert np.allclose(preparation(image), prepare(image).numpy(), atol=1e-6)


@pytest.mark.parametrize("settings", [{"resize_mode": "longest"}, {"interpolation": "random"}], ids=str)
def test_an_unknown_preparation_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    change_json(folder / "open_clip_config.json", preprocess_cfg=settings)
    with pytest.raises(FeatureError, match=r"prepares pictures by .*, which is not supported"):
        _ = opened(folder).preparation


@pytest.mark.parametrize(
    ("tower", "values"),
    [
        ("text_cfg", {"hf_model_name": "somebody/else"}),
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}),
        ("vision_cfg", {"timm_model_name": "hf-hub:somebody/else"}),
    ],
    ids=str,
)
def test_a_configuration_that_leads_elsewhere_is_refused(folder: Path, tower: str, values: dict[str, Any]) -> None:
    set_model(folder, tower, **values)
    with pytest.raises(FeatureError, match="names another model, or tokenizer options"):
        opened(folder)


def test_code_of_a_tokenizer_is_not_run(folder: Path, tmp_path: Path) -> None:
    set_model(folder, "text_cfg", hf_tokenizer_name="its own")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Own: pass\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "own"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    with pytest.raises(FeatureError, match="cannot be loaded"):
        opened(folder)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", ["{}", '{"model_cfg": {"text_cfg": {}}}', "[]", "no"])
def test_a_configuration_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(FeatureError, match=r"open_clip_config\.json"):
        opened(folder)
