"""One contract for every model that encodes content, whatever library opens it."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from features.encoders import (
    Encoder,
    EncoderSettings,
    check_probe,
    encoder_identity,
    open_encoder,
    probe_vectors,
)
from features.encoders.models import LAYOUTS, weight_files
from features.errors import FeatureError
from tests.features.tiny_models import write_bare_clip, write_open_clip, write_siglip

CLIPS = ["sample_clip", "tiny_clip", "legacy_clip", "bare_clip", "siglip", "tiny_open_clip"]
MODELS = [*CLIPS, "minilm"]
QUICK = ["sample_clip", "tiny_clip", "tiny_open_clip", "minilm"]
HALVES = [
    ("tiny_clip", "bfloat16"),
    ("siglip", "bfloat16"),
    ("siglip", "float16"),
    ("tiny_open_clip", "float16"),
    ("minilm", "bfloat16"),
]
ROUNDING = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}
"""How far a number of a vector may move with the contents beside it, as a share of the vector's length."""
WORDS = ["red", "blue", "striped", "mug", "lamp"]


@pytest.fixture(scope="session")
def bare_clip(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bare_clip(tiny_clip, tmp_path_factory.mktemp("models") / "bare-clip")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp("models") / "tiny-siglip")


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-clip")


@pytest.fixture(scope="session")
def opened() -> dict[EncoderSettings, Encoder]:
    return {}


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> EncoderSettings:
    """Of a model by the name of its fixture, alone or with a precision."""
    name, precision = request.param if isinstance(request.param, tuple) else (request.param, "float32")
    kind = "open-clip" if "open_clip" in name else "sentence-transformers"
    return EncoderSettings(kind=kind, model=str(request.getfixturevalue(name)), precision=precision)


@pytest.fixture
def encoder(settings: EncoderSettings, opened: dict[EncoderSettings, Encoder]) -> Encoder:
    if settings not in opened:
        opened[settings] = open_encoder(settings)
    return opened[settings]


def _forms(names: Sequence[Any]) -> list[Any]:
    """Each as a parameter; long are the other forms of what has a quick one, and halves, which are slow on a CPU."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in names]


every_model = pytest.mark.parametrize("settings", _forms([*MODELS, *HALVES]), indirect=True, ids=str)
every_clip = pytest.mark.parametrize("settings", _forms([*CLIPS, *HALVES[:-1]]), indirect=True, ids=str)
each_model = pytest.mark.parametrize("settings", _forms(MODELS), indirect=True)
each_folder = pytest.mark.parametrize("settings", _forms(MODELS[1:]), indirect=True)
each_clip = pytest.mark.parametrize("settings", _forms(CLIPS), indirect=True)


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 90, (count, 2))
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]


def assert_close(one: np.ndarray, two: np.ndarray, encoder: Encoder) -> None:
    assert one.shape == two.shape
    assert np.abs(one - two).max() <= ROUNDING[encoder.identity.precision] * np.linalg.norm(two, axis=1).max()


@every_model
def test_texts_come_in_the_order_asked_whatever_the_batch(encoder: Encoder) -> None:
    texts = [" ".join(WORDS[k % 5] for k in range(n % 7)) for n in range(40)]  # more than a batch, of many lengths
    vectors = encoder.encode_texts(texts)
    assert vectors.shape == (40, encoder.identity.width)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert_close(vectors, np.concatenate([encoder.encode_texts([text]) for text in texts]), encoder)
    assert_close(vectors[::-1], encoder.encode_texts(texts[::-1]), encoder)


@every_clip
def test_pictures_come_in_the_order_asked_whatever_the_batch(encoder: Encoder) -> None:
    images = pictures(40)
    vectors = encoder.encode_images(images)
    assert vectors.shape == (40, encoder.identity.width)
    assert vectors.dtype == np.float32
    assert np.ptp(vectors, axis=0).max() > 0
    assert_close(vectors, np.concatenate([encoder.encode_images([image]) for image in images]), encoder)
    assert_close(vectors[::-1], encoder.encode_images(images[::-1]), encoder)


@every_model
def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_texts([]).shape == (0, encoder.identity.width)


@every_clip
def test_no_pictures_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_images([]).shape == (0, encoder.identity.width)
    assert encoder.encode_prepared(np.empty((0, 3, 32, 32), np.float32)).shape == (0, encoder.identity.width)


@every_model
def test_the_same_again_has_the_same_bytes(settings: EncoderSettings, encoder: Encoder) -> None:
    texts = ["red mug", "", "blue lamp " * 90, "été 🦊"]
    vectors = encoder.encode_texts(texts)
    assert vectors.tobytes() == encoder.encode_texts(texts).tobytes()
    assert vectors.tobytes() == open_encoder(settings).encode_texts(texts).tobytes()


@every_clip
def test_the_same_pictures_again_have_the_same_bytes(settings: EncoderSettings, encoder: Encoder) -> None:
    images = pictures(5)
    vectors = encoder.encode_images(images)
    assert vectors.tobytes() == encoder.encode_images(images).tobytes()
    assert vectors.tobytes() == open_encoder(settings).encode_images(images).tobytes()


@every_clip
def test_prepared_pictures_are_the_pictures(encoder: Encoder) -> None:
    import torch

    images = pictures(5)
    batch = np.stack([encoder.prepare_image(image) for image in images])
    assert batch.dtype == np.float32
    assert batch.shape[:2] == (5, 3)
    vectors = encoder.encode_images(images)
    assert vectors.tobytes() == encoder.encode_prepared(batch).tobytes()
    assert vectors.tobytes() == encoder.encode_prepared(torch.from_numpy(batch)).tobytes()


@every_model
def test_vectors_have_length_one_if_the_identity_says_so(encoder: Encoder) -> None:
    vectors = encoder.encode_texts(["red mug", "blue lamp", ""])
    assert encoder.identity.normalised == np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@each_clip
def test_pictures_have_length_one_if_the_identity_says_so(encoder: Encoder) -> None:
    vectors = encoder.encode_images(pictures(3))
    assert encoder.identity.normalised == np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@each_model
def test_texts_are_cut_at_64_tokens(encoder: Encoder) -> None:
    texts = ["red " * 20, "red " * 61 + "mug", "red " * 500, "red " * 64 + "blue " * 9, "mug " + "red " * 500]
    twenty, all_but, long, beyond, within = encoder.encode_texts(texts)
    limit = {"tiny-clip": 16, "legacy-clip": 16, "bare-clip": 16}.get(encoder.identity.model, 64)
    assert np.allclose(long, beyond, atol=1e-5)
    assert not np.allclose(long, within, atol=1e-5)
    assert np.allclose(long, twenty, atol=1e-5) == (limit == 16)
    assert np.allclose(long, all_but, atol=1e-5) == (limit == 16)


@each_model
def test_a_text_is_cut_where_what_follows_makes_no_difference(encoder: Encoder) -> None:
    words = range(1, 80)
    cut = encoder.is_cut(["red " * count for count in words])
    assert cut.dtype == np.bool_
    first = words[int(cut.argmax())]
    assert not cut[: first - 1].any()
    assert cut[first - 1 :].all()
    whole, other, longer, beyond = encoder.encode_texts(
        ["red " * (first - 1), "red " * (first - 2) + "blue", "red " * first, "red " * (first - 1) + "blue"]
    )
    assert not np.allclose(whole, other, atol=1e-5), "its last word is read"
    assert np.allclose(longer, beyond, atol=1e-5), "its last word is not"
    assert encoder.is_cut([]).tolist() == []


@each_model
def test_half_precision_is_near_and_another_identity(settings: EncoderSettings, encoder: Encoder) -> None:
    half = open_encoder(replace(settings, precision="bfloat16"))
    assert half.identity == replace(encoder.identity, precision="bfloat16")
    one, two = encoder.encode_texts(WORDS), half.encode_texts(WORDS)
    assert not np.array_equal(one, two)
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert cosine.min() > 0.99


@every_model
def test_identity_is_known_without_loading(settings: EncoderSettings, encoder: Encoder) -> None:
    assert asdict(encoder_identity(settings)).items() <= asdict(encoder.identity).items()
    assert "/" not in encoder.identity.model


def test_identity_is_the_same_in_another_place_and_process(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    models = {name: request.getfixturevalue(name) for name in MODELS[1:] if name != "tiny_open_clip"}
    code = (
        "import json, sys; from dataclasses import asdict; from features.encoders import *\n"
        "from features.settings import EncoderSettings\n"
        "print(json.dumps([asdict(encoder_identity(EncoderSettings(model=path))) for path in sys.argv[1:]]))"
    )
    copies = [shutil.copytree(path, tmp_path / name / path.name) for name, path in models.items()]
    done = subprocess.run([sys.executable, "-c", code, *copies], capture_output=True, text=True, check=True)
    here = [asdict(encoder_identity(EncoderSettings(model=str(path)))) for path in models.values()]
    assert json.loads(done.stdout) == here


@each_folder
def test_identity_follows_weights_and_configuration(settings: EncoderSettings, tmp_path: Path) -> None:
    source = Path(settings.model)
    settings = replace(settings, model=str(shutil.copytree(source, tmp_path / source.name)))
    before = encoder_identity(settings)
    (weights,) = weight_files(Path(settings.model), LAYOUTS[settings.kind])
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = encoder_identity(settings)
    assert changed == replace(before, weights_sha256=changed.weights_sha256) != before
    configuration = next(iter(sorted(Path(settings.model).rglob("*config*.json"))))
    configuration.write_text(configuration.read_text() + "\n")
    again = encoder_identity(settings)
    assert again == replace(changed, preprocessing=again.preprocessing) != changed


def test_preparations_travel_to_a_process_without_torch(
    tmp_path: Path, request: pytest.FixtureRequest, opened: dict[EncoderSettings, Encoder]
) -> None:
    image = pictures(1)[0]
    models = [request.getfixturevalue(name) for name in CLIPS if name != "tiny_open_clip"]
    preparations = [open_encoder(EncoderSettings(model=str(model))).preparation for model in models]
    (tmp_path / "sent").write_bytes(pickle.dumps((preparations, image)))
    code = (
        "import pickle, sys; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "preparations, image = pickle.loads((folder / 'sent').read_bytes())\n"
        "(folder / 'back').write_bytes(pickle.dumps([prepare(image) for prepare in preparations]))\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    for prepare, there in zip(preparations, pickle.loads((tmp_path / "back").read_bytes()), strict=True):
        assert len(pickle.dumps(prepare)) < 1000
        assert prepare(image).tobytes() == there.tobytes()


def test_what_cannot_be_seen_is_said(minilm: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(minilm)))
    image = Image.new("RGB", (32, 32))
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    for ask in (
        lambda: encoder.encode_images([image]),
        lambda: encoder.encode_images([]),
        lambda: encoder.preparation,
        lambda: encoder.prepare_image(image),
        lambda: encoder.encode_prepared(pixels),
    ):
        with pytest.raises(FeatureError, match="cannot encode images, only text; use a CLIP"):
            ask()


@each_folder
def test_cut_off_weights_are_said(settings: EncoderSettings, tmp_path: Path) -> None:
    settings = replace(settings, model=str(shutil.copytree(settings.model, tmp_path / "model")))
    (weights,) = weight_files(Path(settings.model), LAYOUTS[settings.kind])
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FeatureError, match=r"cannot be loaded: .*; check that its files are complete"):
        open_encoder(settings)
    weights.unlink()
    with pytest.raises(FeatureError, match=r"no weights, \S+ is missing; it needs .*config\.json"):
        open_encoder(settings)


@pytest.mark.parametrize("settings", ["tiny_clip", "bare_clip", "siglip"], indirect=True)
def test_no_code_of_a_folder_is_run(settings: EncoderSettings, tmp_path: Path) -> None:
    folder = shutil.copytree(settings.model, tmp_path / "model")
    pwned = tmp_path / "pwned"
    (folder / "own.py").write_text(f"open({str(pwned)!r}, 'w')\nclass Own: pass\n")
    own = {f"Auto{what}": "own.Own" for what in ("Config", "Model", "Tokenizer", "Processor", "ImageProcessor")}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | {"auto_map": own}))
    with suppress(FeatureError):  # refused or opened without the code
        open_encoder(replace(settings, model=str(folder))).encode_texts(["red mug"])
    assert not pwned.exists()


@every_model
def test_probes_agree_with_themselves_and_not_with_others(encoder: Encoder) -> None:
    stored = json.loads(json.dumps(probe_vectors(encoder)))
    sees = encoder.identity.architecture.startswith(("CLIP", "Siglip", "open_clip"))
    assert len(stored) == (7 if sees else 4)
    check_probe(stored, probe_vectors(encoder), encoder.identity)
    changed = stored | {"text: a title": [-number for number in stored["text: a title"]]}
    with pytest.raises(FeatureError, match=r"no longer makes the same vectors.*'text: a title' differs by \d"):
        check_probe(stored, changed, encoder.identity)
