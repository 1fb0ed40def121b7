"""One contract for every encoder, and what each kind promises beyond it."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.encoders import EncoderSettings, ReadyVectors, encoder_identity, open_encoder
from features.errors import FeatureError

CLIPS = ["tiny_clip", "legacy_clip", "sample_clip"]
MODELS = [*CLIPS, "minilm"]


@pytest.fixture
def encoder(request: pytest.FixtureRequest):
    return open_encoder(EncoderSettings(model=str(request.getfixturevalue(request.param))))


@pytest.mark.parametrize("encoder", MODELS, indirect=True)
def test_texts(encoder) -> None:
    texts = ["red mug", "", "blue lamp " * 500, "été 🦊"]
    vectors = encoder.encode_texts(texts)
    assert vectors.shape == (4, encoder.identity.width)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors, encoder.encode_texts(texts))
    assert np.allclose(vectors[::-1], encoder.encode_texts(texts[::-1]), atol=1e-5)
    assert np.allclose(vectors[2], encoder.encode_texts(["blue lamp " * 400])[0], atol=1e-5)  # cut
    assert encoder.encode_texts([]).shape == (0, encoder.identity.width)


@pytest.mark.parametrize("encoder", CLIPS, indirect=True)
def test_images(encoder) -> None:
    images = [Image.new("RGB", (50, 80), "red"), Image.new("RGB", (300, 20), "blue")]
    vectors = encoder.encode_images(images)
    assert vectors.shape == (2, encoder.identity.width)
    assert vectors.dtype == np.float32
    assert not np.allclose(vectors[0], vectors[1])
    assert np.array_equal(vectors, encoder.encode_images(images))
    assert encoder.encode_images([]).shape == (0, encoder.identity.width)


@pytest.mark.parametrize("encoder", MODELS, indirect=True)
def test_identity_says_what_made_the_vectors(encoder) -> None:
    identity = encoder.identity
    assert len(identity.weights_sha256) == 64
    assert "/" not in identity.model
    lengths = np.linalg.norm(encoder.encode_texts(["red mug", "lamp"]), axis=1)
    assert identity.normalised == np.allclose(lengths, 1, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_identity_is_known_without_loading(model: str, request: pytest.FixtureRequest) -> None:
    settings = EncoderSettings(model=str(request.getfixturevalue(model)))
    files = asdict(encoder_identity(settings))
    assert files.items() <= asdict(open_encoder(settings).identity).items()


def test_two_layouts_of_one_model_give_the_same_vectors(tiny_clip: Path, legacy_clip: Path) -> None:
    one, two = (open_encoder(EncoderSettings(model=str(path))) for path in (tiny_clip, legacy_clip))
    assert one.identity.weights_sha256 == two.identity.weights_sha256
    assert np.array_equal(one.encode_texts(["red mug"]), two.encode_texts(["red mug"]))


def test_identity_follows_weights_and_configuration(tiny_clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny-clip"
    shutil.copytree(tiny_clip, copy)
    settings = EncoderSettings(model=str(copy))
    identity = open_encoder(settings).identity
    assert identity == open_encoder(EncoderSettings(model=str(tiny_clip))).identity
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-4:] = b"\0\0\0\1"
    (copy / "model.safetensors").write_bytes(weights)
    assert open_encoder(settings).identity.weights_sha256 != identity.weights_sha256
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"lamp"', '"sofa"'))
    assert open_encoder(settings).identity.preprocessing != identity.preprocessing


def test_minilm_is_the_published_one(minilm: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(minilm)))
    assert encoder.identity.architecture == "BertModel > Pooling > Normalize"
    assert encoder.identity.weights_sha256 == ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
    king, queen, mug = encoder.encode_texts(["a king", "a queen", "a striped coffee mug"])
    assert king @ queen > 0.5 > king @ mug
    with pytest.raises(FeatureError, match=r"cannot encode images, only text; use a CLIP"):
        encoder.encode_images([Image.new("RGB", (32, 32))])


class Malice:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_weights_run_no_code(tiny_clip: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "model"
    shutil.copytree(tiny_clip, copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(FeatureError, match="cannot be loaded"):
        open_encoder(EncoderSettings(model=str(copy)))
    assert not (tmp_path / "pwned").exists()


def test_plain_tensors_in_a_pickled_file_are_read(tiny_clip: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    copy = tmp_path / "model"
    shutil.copytree(tiny_clip, copy)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    settings = [EncoderSettings(model=str(path)) for path in (tiny_clip, copy)]
    one, two = (open_encoder(s).encode_texts(["red mug"]) for s in settings)
    assert np.allclose(one, two, atol=1e-5)  # not to the bit: the weights lie otherwise in memory


def test_code_that_a_model_brings_is_not_run(tiny_clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_clip, copy)
    (copy / "own.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Own: pass\n")
    modules = json.loads((copy / "modules.json").read_text())
    modules[0]["type"] = "own.Own"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FeatureError, match="cannot be loaded"):
        open_encoder(EncoderSettings(model=str(copy)))
    assert not (tmp_path / "pwned").exists()
    modules[0]["path"] = "../elsewhere"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FeatureError, match="leaves the folder"):
        open_encoder(EncoderSettings(model=str(copy)))


def test_missing_files_are_named(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"no folder /no/such/model; put modules\.json"):
        open_encoder(EncoderSettings(model="/no/such/model"))
    copy = tmp_path / "model"
    shutil.copytree(tiny_clip, copy)
    (copy / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(FeatureError, match="cannot be loaded"):
        open_encoder(EncoderSettings(model=str(copy)))
    (copy / "model.safetensors").unlink()
    with pytest.raises(FeatureError, match=r"no weights, model\.safetensors is missing"):
        open_encoder(EncoderSettings(model=str(copy)))


def test_a_cached_hub_model_needs_no_network(tiny_clip: Path, tmp_path: Path, monkeypatch) -> None:
    cache, commit = tmp_path / "models--sentence-transformers--clip-tiny", "0" * 40
    shutil.copytree(tiny_clip, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", None)
    encoder = open_encoder(EncoderSettings(model="clip-tiny"))
    assert encoder.identity.model == "clip-tiny"
    assert encoder.encode_texts(["red mug"]).shape == (1, 12)


@pytest.fixture
def silent_server():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


def test_a_silent_hub_does_not_hang(silent_server: str, tmp_path: Path) -> None:
    code = (
        "from features.encoders import models\n"
        "models.HUB_TIMEOUT = 0.5\n"
        "try: models.model_folder('clip-ViT-B-32')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": silent_server, "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert "'sentence-transformers/clip-ViT-B-32' is neither cached nor could it be fetched" in answer.stdout
    assert "hf download sentence-transformers/clip-ViT-B-32" in answer.stdout


def ready_file(path: Path, ids: list[str], vectors: list[list[float] | None], key: str = "item_id") -> Path:
    kind = pa.list_(pa.float16(), 2)
    values = [None if v is None else np.array(v, np.float16) for v in vectors]
    pq.write_table(pa.table({key: ids, "text": pa.array(values, kind)}), path)
    return path


@pytest.mark.parametrize("key", ["item_id", "asin"])
def test_ready_vectors_are_looked_up_by_id(tmp_path: Path, key: str) -> None:
    path = ready_file(tmp_path / "v.parquet", ["b", "a", "n"], [[3, 4], [1, 0], None], key)
    ready = open_encoder(EncoderSettings(kind="vectors", path=str(path), column="text"))
    vectors, present = ready.look_up(["a", "unknown", "b", "n"])
    assert vectors.tolist() == [[1, 0], [0, 0], [3, 4], [0, 0]]
    assert present.tolist() == [True, False, True, False]
    assert (ready.identity.width, ready.identity.normalised) == (2, False)


def test_identity_of_ready_vectors_is_their_content(tmp_path: Path) -> None:
    def sha(ids: list[str], vectors: list[list[float] | None]) -> str:
        path = ready_file(tmp_path / "v.parquet", ids, vectors)
        return ReadyVectors.read(path, "text").identity.weights_sha256

    one = sha(["a", "b"], [[1, 0], [3, 4]])
    assert one == sha(["b", "a"], [[3, 4], [1, 0]])
    assert one != sha(["a", "b"], [[1, 0], [3, 5]])
    assert one != sha(["a", "c"], [[1, 0], [3, 4]])


def test_ready_vectors_that_cannot_be_used(tmp_path: Path) -> None:
    path = ready_file(tmp_path / "v.parquet", ["a", "b"], [[1, 0], [float("nan"), 0]])
    with pytest.raises(FeatureError, match="vector of 'b' in column text is not finite"):
        ReadyVectors.read(path, "text")
    with pytest.raises(FeatureError, match="no column image; it has item_id, text"):
        ReadyVectors.read(path, "image")
    with pytest.raises(FeatureError, match="is string; write it as a fixed-size list"):
        ReadyVectors.read(path, "item_id")
    with pytest.raises(FeatureError, match="is null or repeats"):
        ReadyVectors.read(ready_file(path, ["a", "a"], [[1, 0], [1, 0]]), "text")
    with pytest.raises(FeatureError, match="cannot be read"):
        ReadyVectors.read(tmp_path / "none.parquet", "text")
    with pytest.raises(FeatureError, match="needs `path`"):
        open_encoder(EncoderSettings(kind="vectors"))


def test_no_encoder_knows_no_vector() -> None:
    vectors, present = open_encoder(EncoderSettings(kind="none")).look_up(["a"])
    assert vectors.tolist() == [[0]]
    assert not present.any()


def test_torch_is_imported_only_to_encode(tiny_clip: Path) -> None:
    modules = "features.search, features.embeddings, features.item_text, features.item_images"
    code = (
        f"import sys, {modules}\n"
        "from features.encoders import EncoderSettings, encoder_identity\n"
        f"encoder_identity(EncoderSettings(model={str(tiny_clip)!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
