"""What each kind of encoder promises beyond the contract."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.encoders import (
    EncoderSettings,
    ReadyVectors,
    check_probe,
    encoder_identity,
    models,
    open_encoder,
    probe_vectors,
)
from features.encoders.preparation import Preparation
from features.errors import FeatureError
from tests.features.tiny_models import write_bare_clip, write_siglip


def test_two_layouts_of_one_model_give_the_same_vectors(tiny_clip: Path, legacy_clip: Path) -> None:
    one, two = (open_encoder(EncoderSettings(model=str(path))) for path in (tiny_clip, legacy_clip))
    assert one.identity.weights_sha256 == two.identity.weights_sha256
    assert np.array_equal(one.encode_texts(["red mug"]), two.encode_texts(["red mug"]))


def test_minilm_is_the_published_one(minilm: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(minilm)))
    assert encoder.identity.architecture == "BertModel > Pooling > Normalize"
    assert encoder.identity.weights_sha256 == ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
    king, queen, mug = encoder.encode_texts(["a king", "a queen", "a striped coffee mug"])
    assert king @ queen > 0.5 > king @ mug


def test_the_sample_clip_still_makes_its_vectors(sample_clip: str) -> None:
    stored = json.loads((Path(__file__).parent / "sample_clip_probes.json").read_text())
    encoder = open_encoder(EncoderSettings(model=sample_clip))
    assert encoder.identity.weights_sha256 == stored["weights_sha256"]
    now = probe_vectors(encoder)
    assert now.keys() == stored["vectors"].keys()
    check_probe(stored["vectors"], now, encoder.identity)


@pytest.mark.parametrize("now", [[3.0, 4.01], [3.0, float("nan")], [3.0], [4.0, 3.0]], ids=str)
def test_a_probe_that_moved_is_an_error(tiny_clip: Path, now: list[float]) -> None:
    identity = open_encoder(EncoderSettings(model=str(tiny_clip))).identity
    stored = {"one": [3.0, 4.0], "two": [1.0, 0.0], "only stored": [1.0]}
    check_probe(stored, {"one": [3.0, 4.001], "two": [1.0, 0.0], "only now": [2.0]}, identity)
    with pytest.raises(FeatureError, match=r"encoder 'tiny-clip' no longer makes .* probe 'one' differs by (\d|inf)"):
        check_probe(stored, {"one": now, "two": [1.0, 0.0]}, identity)


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


def test_missing_folders_are_named() -> None:
    for kind, needed in (
        ("transformers", r"config\.json, model\.safetensors"),
        ("open-clip", r"open_clip_config\.json"),
    ):
        with pytest.raises(FeatureError, match=rf"no folder /no/such/model; make it with these files: {needed}"):
            open_encoder(EncoderSettings(kind=kind, model="/no/such/model"))


def test_weights_that_lack_a_part_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_bare_clip(tiny_clip, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FeatureError, match=r"its weights lack visual_projection\.weight"):
        open_encoder(EncoderSettings(model=str(folder)))


@pytest.mark.parametrize("listed", [{"a": "../model.safetensors"}, {"a": 1}, {}, [], None])
def test_an_index_of_weights_stays_in_its_folder(tiny_clip: Path, tmp_path: Path, listed: Any) -> None:
    folder = write_bare_clip(tiny_clip, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(FeatureError, match=r"index\.json: is not a list of files in its folder"):
        encoder_identity(EncoderSettings(model=str(folder)))


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(tiny_clip: Path, tmp_path: Path, content: str) -> None:
    folder = write_bare_clip(tiny_clip, tmp_path / "model")
    (folder / "config.json").write_text(content)
    with pytest.raises(FeatureError, match=r"config\.json: (is not a JSON object|not JSON)"):
        open_encoder(EncoderSettings(model=str(folder)))


def test_a_device_that_is_not_there_is_said(tiny_clip: Path) -> None:
    import torch

    there = torch.cuda.is_available()
    assert open_encoder(EncoderSettings(model=str(tiny_clip))).device == ("cuda" if there else "cpu")
    if not there:
        with pytest.raises(FeatureError, match="there is no device 'cuda:0'"):
            open_encoder(EncoderSettings(model=str(tiny_clip)), device="cuda:0")


def test_clip_vectors_are_those_of_sentence_transformers(tiny_clip: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import CLIPImageProcessorPil

    encoder, reference = open_encoder(EncoderSettings(model=str(tiny_clip))), SentenceTransformer(str(tiny_clip))
    # Where torchvision is installed, the library would resize with it.
    reference[0].processor.image_processor = CLIPImageProcessorPil.from_pretrained(tiny_clip)
    texts, images = ["red mug", "striped blue lamp"], [noise(50, 80), noise(300, 20), noise(33, 33)]
    assert np.allclose(encoder.encode_texts(texts), reference.encode(texts), atol=1e-6)
    assert np.allclose(encoder.encode_images(images), reference.encode(images), atol=1e-6)


def test_siglip_vectors_are_those_of_its_own_forward_pass(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, PreTrainedTokenizerFast, SiglipImageProcessorPil

    folder = write_siglip(tmp_path / "siglip")
    texts, images = ["Red mug", "striped blue lamp"], [noise(50, 80), noise(300, 20)]
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)(texts, padding="max_length", max_length=64)
    pixels = SiglipImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.inference_mode():
        output = AutoModel.from_pretrained(folder)(input_ids=torch.tensor(tokens["input_ids"]), **pixels)
    encoder = open_encoder(EncoderSettings(model=str(folder)))
    assert np.allclose(encoder.encode_texts(texts), output.text_embeds, atol=1e-6)
    assert np.allclose(encoder.encode_images(images), output.image_embeds, atol=1e-6)


@pytest.mark.parametrize("size", [(224, 224), (300, 301), (481, 640), (33, 700), (1024, 30), (8, 9)], ids=str)
def test_preparation_is_that_of_transformers(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    picture = noise(*size)
    for processor in (
        CLIPImageProcessorPil(),
        CLIPImageProcessorPil(size={"shortest_edge": 60}, crop_size={"height": 97, "width": 50}, resample=2),
        CLIPImageProcessorPil(do_normalize=False),
        SiglipImageProcessorPil(size={"height": 60, "width": 81}),
    ):
        theirs = processor(picture, return_tensors="np")["pixel_values"][0]
        assert np.allclose(Preparation.of(processor.to_dict())(picture), theirs, atol=2e-6)


def test_the_oldest_form_of_a_configuration_means_the_same(tiny_clip: Path, tmp_path: Path) -> None:
    """As in the hub's first CLIPs: sizes as plain numbers, a class of another name, rescaling not mentioned."""
    new = open_encoder(EncoderSettings(model=str(tiny_clip))).preparation
    for folder in (shutil.copytree(tiny_clip, tmp_path / "packed"), write_bare_clip(tiny_clip, tmp_path / "bare")):
        written = json.loads((folder / "processor_config.json").read_text())["image_processor"]
        kept = {key: written[key] for key in ("do_resize", "do_center_crop", "do_normalize", "image_mean", "image_std")}
        (folder / "processor_config.json").unlink()
        (folder / "preprocessor_config.json").write_text(
            json.dumps(
                kept | {"size": 32, "crop_size": 32, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
            )
        )
        assert open_encoder(EncoderSettings(model=str(folder))).preparation == new


def test_a_large_picture_is_first_reduced_and_any_mode_made_rgb() -> None:
    prepare = Preparation(size=(8, 8), crop=None, resample=3, factor=(1, 1, 1), offset=(0, 0, 0))
    assert np.array_equal(prepare(Image.new("L", (5000, 16), 77)), np.full((3, 8, 8), 77, np.float32))
    narrow = Preparation(size=224, crop=(224, 224), resample=3, factor=(1, 1, 1), offset=(0, 0, 0))
    assert narrow(Image.new("RGB", (40_000, 8))).shape == (3, 224, 224)


@pytest.mark.parametrize(
    "change",
    [
        {"image_processor_type": "OtherProcessor"},
        {"do_resize": False},
        {"do_pad": True},
        {"size": {"longest_edge": 224}},
        {"do_center_crop": False},
    ],
    ids=str,
)
def test_an_unknown_preparation_is_refused(change: dict[str, Any]) -> None:
    from transformers import CLIPImageProcessorPil

    with pytest.raises(FeatureError, match=r"pictures for this model (are prepared by|would differ in size)"):
        Preparation.of(CLIPImageProcessorPil().to_dict() | change)


@pytest.mark.parametrize(
    ("shipped", "wanted"),
    [
        (["0_CLIPModel/model.safetensors", "0_CLIPModel/pytorch_model.bin"], ["0_CLIPModel/model.safetensors"]),
        (["model-00001-of-2.safetensors", "pytorch_model.bin"], ["model-00001-of-2.safetensors"]),
        (["pytorch_model-1.bin", "tf_model.h5"], ["pytorch_model-1.bin"]),
        (["open_clip_model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_of_a_repository_only_the_weights_that_are_loaded_are_fetched(shipped: list[str], wanted: list[str]) -> None:
    patterns = models._weight_patterns(shipped, models.TRANSFORMERS)
    assert [name for name in shipped if any(fnmatch(name, pattern) for pattern in patterns)] == wanted


def test_of_an_open_clip_repository_its_own_weights_are_fetched() -> None:
    shipped = ["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin"]
    patterns = models._weight_patterns(shipped, models.OPEN_CLIP)
    assert [n for n in shipped if any(fnmatch(n, p) for p in patterns)] == ["open_clip_model.safetensors"]


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


@pytest.mark.long
def test_a_silent_hub_does_not_hang(silent_server: str, tmp_path: Path) -> None:
    code = (
        "from features.encoders import models\n"
        "models.HUB_TIMEOUT = 0.5\n"
        "for kind, model in (('sentence-transformers', 'clip-ViT-B-32'), ('open-clip', 'laion/clip')):\n"
        "    try: models.model_folder(models.EncoderSettings(kind=kind, model=model))\n"
        "    except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": silent_server, "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert "'sentence-transformers/clip-ViT-B-32' is not cached and could not be fetched" in answer.stdout
    assert "hf download sentence-transformers/clip-ViT-B-32" in answer.stdout
    assert "'laion/clip' is not cached and could not be fetched" in answer.stdout
    assert "it holds open_clip_config.json and open_clip_model.safetensors" in answer.stdout


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


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
    with pytest.raises(FeatureError, match="the vector of 'b' in column text is not finite"):
        ReadyVectors.read(path, "text")
    with pytest.raises(FeatureError, match="no column image; it has item_id, text"):
        ReadyVectors.read(path, "image")
    with pytest.raises(FeatureError, match="is string; write it as a fixed-size list"):
        ReadyVectors.read(path, "item_id")
    with pytest.raises(FeatureError, match="is null or occurs twice"):
        ReadyVectors.read(ready_file(path, ["a", "a"], [[1, 0], [1, 0]]), "text")
    with pytest.raises(FeatureError, match="cannot be read"):
        ReadyVectors.read(tmp_path / "none.parquet", "text")
    with pytest.raises(FeatureError, match="needs a `path`"):
        open_encoder(EncoderSettings(kind="vectors"))


def test_zeros_are_refused_or_missing(tmp_path: Path) -> None:
    path = ready_file(tmp_path / "v.parquet", ["a", "b", "c"], [[1, 0], [0, 0], [0, -0.0]])
    with pytest.raises(
        FeatureError, match=r"column text: the vector of 'b' is all zeros \(2 in total\).*`zeros: missing`"
    ):
        encoder_identity(EncoderSettings(kind="vectors", path=str(path), column="text"))
    ready = open_encoder(EncoderSettings(kind="vectors", path=str(path), column="text", zeros="missing"))
    assert ready.look_up(["a", "b", "c"])[1].tolist() == [True, False, False]
    nulls = ready_file(tmp_path / "v.parquet", ["a", "b", "c"], [[1, 0], None, None])
    assert ready.identity == ReadyVectors.read(nulls, "text").identity


def test_no_encoder_knows_no_vector() -> None:
    vectors, present = open_encoder(EncoderSettings(kind="none")).look_up(["a"])
    assert vectors.tolist() == [[0]]
    assert not present.any()


def test_torch_is_imported_only_to_encode(tiny_clip: Path) -> None:
    modules = "features.lookup.search, features.vectors.embeddings, features.item_text, features.pictures.item_images"
    code = (
        f"import sys, {modules}\n"
        "from features.encoders import encoder_identity\n"
        "from features.settings import EncoderSettings\n"
        f"encoder_identity(EncoderSettings(model={str(tiny_clip)!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_open_clip_that_is_not_installed_is_said(tmp_path: Path) -> None:
    if find_spec("open_clip"):
        pytest.skip("open_clip is installed here")
    (tmp_path / "open_clip_model.safetensors").touch()
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(
        FeatureError, match=r"needs open_clip, which cannot be imported .* `pip install 'mmm4rec\[open-"
    ):
        open_encoder(EncoderSettings(kind="open-clip", model=str(tmp_path)))
