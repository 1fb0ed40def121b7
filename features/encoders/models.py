"""The files of a model: the folder for a name, whether it is complete, and its sha256.

Nothing is loaded here. A hub model is taken from the local cache if it is complete there, otherwise it is fetched once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from features.encoders.protocol import DECODINGS, EncoderFiles
from features.errors import FeatureError
from features.pictures.decode import LONG_SIDE
from features.settings import EncoderSettings
from warehouse.artifacts.files import regular, sha256_file

SAMPLE_CLIP = Path(__file__).parent / "sample_clip"
HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""

_CONFIGURATION = ("*.json", "*.txt", "*.model")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = (("tokenizer.json",), ("*.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Files of a tokenizer: a model has one of these sets. Without them, transformers makes a tokenizer that knows no
words."""
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WITH_WEIGHTS = ("Transformer", "CLIPModel", "Dense")
"""Modules of sentence-transformers that need weights; the first two are models of transformers."""
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Layout:
    """The files that a library expects in a model's folder."""

    configuration: str
    """The file that every model folder must have."""
    weights: tuple[str, ...]
    """Names of weight files; the first that exists is used. A pickled file is read with ``weights_only=True``, which
    builds tensors and runs no code."""
    needed: str
    """The files to put into a folder, in words, for messages."""
    pairs: bool = False
    """Whether every model of this layout is a pair of towers, for text and for pictures."""


TRANSFORMERS = Layout(
    "config.json",
    _SAFETENSORS + _PICKLED,
    "config.json, model.safetensors, the tokenizer's files, preprocessor_config.json if it encodes pictures, and "
    "modules.json if it is a model of sentence-transformers",
)
OPEN_CLIP = Layout(
    "open_clip_config.json",
    _OPEN_CLIP,
    "open_clip_config.json and open_clip_model.safetensors, and the tokenizer's files if it names a tokenizer",
    pairs=True,
)
Registry = Mapping[str, Layout]
LAYOUTS: Final[Registry] = {
    "sentence-transformers": TRANSFORMERS,
    "transformers": TRANSFORMERS,
    "open-clip": OPEN_CLIP,
}
"""The layout of a model's folder, by the kind of the encoder. A recipe has the files that were found, so one more kind
makes nothing stale."""


def model_folder(settings: EncoderSettings) -> Path:
    """Folder of the model that the settings name, by hub id, local folder or "sample-clip".

    Raises:
        FeatureError: there is no such folder, or files are missing in it; or the model is not cached and cannot be
            fetched.
    """
    model, layout = settings.model, LAYOUTS[settings.kind]
    folder = SAMPLE_CLIP if model == "sample-clip" else Path(model).expanduser()
    if folder.is_dir():
        if odd := [path for path in folder.rglob("*") if not (path.is_file() or path.is_dir())]:
            raise unreadable(folder, f"{odd[0].relative_to(folder)} is not a file, or is a broken link")
        check_complete(folder, layout)
        return folder
    if model == "sample-clip" or model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise FeatureError(
            f"encoder model {model!r}: there is no folder {folder}; make it with these files: {layout.needed}"
        )
    bare = settings.kind == "sentence-transformers" and "/" not in model
    return _hub_folder(f"sentence-transformers/{model}" if bare else model, layout)


def _hub_folder(repository: str, layout: Layout) -> Path:
    """Folder of the cached snapshot of a hub repository; it is fetched if it is missing or incomplete."""
    from huggingface_hub import HfApi, snapshot_download

    incomplete = ""
    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
        check_complete(folder, layout)
        return folder
    except FeatureError as error:
        incomplete = f"The cached copy: {error}. "
    except (OSError, ValueError):  # not cached
        pass
    try:
        # The hub is asked first with a timeout, because snapshot_download would wait forever if it never answers.
        listing = HfApi().model_info(repository, timeout=HUB_TIMEOUT).siblings or []
        folder = Path(
            snapshot_download(
                repository,
                allow_patterns=[*_CONFIGURATION, *_weight_patterns([file.rfilename for file in listing], layout)],
                ignore_patterns=["onnx/*", "openvino/*"],
                etag_timeout=HUB_TIMEOUT,
            )
        )
        check_complete(folder, layout)
        return folder
    except Exception as error:  # errors of the hub's client, its HTTP library or the file system
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FeatureError(
            f"encoder model {repository!r} is not cached and could not be fetched ({reason}). {incomplete}On a machine "
            f"with a network, run `hf download {repository}`, and copy the folder that it prints to this machine; it "
            f"holds {layout.needed}. Then set the encoder's `model` to that folder. Without a network, the model "
            "sample-clip and ready vectors (kind: vectors) work."
        ) from error


def _weight_patterns(names: list[str], layout: Layout) -> list[str]:
    """The patterns of the weight files to fetch: safetensors if there are any, otherwise pickled files, never both."""
    safe = [name for name in layout.weights if ".safetensors" in name]
    stems = {name.split(".")[0] for name in safe}
    shipped = any(Path(name).suffix == ".safetensors" and Path(name).name.startswith(tuple(stems)) for name in names)
    wanted = safe if shipped else [name for name in layout.weights if name not in safe]
    stems = {name.split(".")[0] for name in wanted}
    ending = "*.safetensors" if shipped else "*.bin"
    return [f"{place}{stem}{ending}" for stem in sorted(stems) for place in ("", "*/")]


def check_complete(folder: Path, layout: Layout = TRANSFORMERS) -> None:
    """Refuse a folder that lacks files which the libraries do not require, because they would invent the contents.

    Raises:
        FeatureError: files are missing; the message names them and the folder.
    """
    if not (folder / layout.configuration).is_file() and not (folder / "modules.json").is_file():
        raise _incomplete(folder, [layout.configuration], layout)
    lacking: list[str] = []
    if (folder / "config_sentence_transformers.json").is_file() and not (folder / "modules.json").is_file():
        lacking.append("modules.json")
    for kind, module in modules_of(folder):
        found = _lacking_of_open_clip(module) if layout is OPEN_CLIP else _lacking_of_module(kind, module)
        lacking += [str((module / name).relative_to(folder)) for name in found]
    if lacking:
        raise _incomplete(folder, lacking, layout)
    weight_files(folder, layout)


def _incomplete(folder: Path, lacking: list[str], layout: Layout) -> FeatureError:
    return FeatureError(
        f"encoder model in {folder} is incomplete: {', '.join(lacking)} is missing; it needs {layout.needed}. "
        "Fetch the model again"
    )


def _lacking_of_module(kind: str, module: Path) -> list[str]:
    """Names of the files, except weights, that a module of sentence-transformers or a model of transformers lacks."""
    if kind == "Normalize":  # this module has no files
        return []
    if kind not in _WITH_WEIGHTS[:2]:
        # Every other module has a configuration, but not always with the name config.json.
        return [] if any(module.glob("*.json")) else ["config.json"]
    if not (module / "config.json").is_file():
        return ["config.json"]
    config, lacking = read_json(module / "config.json"), []
    sees = "vision_config" in config
    if "text_config" in config or not (sees or "image_size" in config):
        lacking += _lacking_tokenizer(module)
    if sees and not any((module / name).is_file() for name in _PROCESSORS):
        lacking.append(_PROCESSORS[0])
    return lacking


def _lacking_of_open_clip(folder: Path) -> list[str]:
    """Names of the files, except weights, that a folder of open_clip lacks; open_clip ships its own tokenizer."""
    model = read_json(folder / OPEN_CLIP.configuration).get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, dict) else None
    return _lacking_tokenizer(folder) if isinstance(text, dict) and text.get("hf_tokenizer_name") else []


def _lacking_tokenizer(folder: Path) -> list[str]:
    if any(all(any(folder.glob(name)) for name in names) for names in _TOKENIZERS):
        return []
    # The tokenizer files that exist show which set the model had.
    begun = [names for names in _TOKENIZERS if any(any(folder.glob(name)) for name in names)]
    return [name for name in (begun or _TOKENIZERS)[0] if not any(folder.glob(name))]


def weight_files(folder: Path, layout: Layout = TRANSFORMERS) -> list[Path]:
    """The weight files that are loaded from a model folder; safetensors if there are any.

    Raises:
        FeatureError: the folder, or a module in it that needs weights, has none, or not all that an index lists.
    """
    files: list[Path] = []
    lacking: list[Path] = []
    for kind, module in modules_of(folder):
        names = [name for name in layout.weights if (module / name).is_file()]
        if not names:
            lacking += [module / layout.weights[0]] if kind in _WITH_WEIGHTS else []
            continue
        first = module / names[0]
        if first.suffix == ".json":
            files += sorted(module / name for name in _shards(first))
        else:
            files.append(first)
    lacking += [file for file in files if not file.is_file()]
    if lacking or not files:
        wanted = ", ".join(str(file) for file in lacking) or layout.weights[0]
        raise FeatureError(f"encoder model in {folder}: no weights, {wanted} is missing; it needs {layout.needed}")
    return files


def _shards(index: Path) -> set[str]:
    """Names of the files that an index of weights lists; all must be in the folder of the index."""
    listed = read_json(index).get("weight_map")
    names = set(listed.values()) if isinstance(listed, dict) else set()
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise FeatureError(f"{index}: is not a list of files in its folder; fetch the model again")
    return names


def modules_of(folder: Path) -> list[tuple[str, Path]]:
    """Class and folder of the modules of a sentence-transformers model; a model without modules.json counts as one
    module Transformer."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return [("Transformer", folder)]
    modules = read_json(listing, list)
    if not all(
        isinstance(module, dict) and all(isinstance(module.get(key, ""), str) for key in ("path", "type"))
        for module in modules
    ):
        raise unreadable(folder, "modules.json is not a list of modules")
    paths = [Path(module.get("path", "")) for module in modules]
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise FeatureError(f"{listing}: a module's path leaves the folder; do not use this model")
    kinds = [module.get("type", "").rpartition(".")[2] for module in modules]
    return [(kind, folder / path) for kind, path in zip(kinds, paths, strict=True)]


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON configuration file: an object, or another `kind` if requested.

    Raises:
        FeatureError: the file is missing, or not JSON of that kind.
    """
    try:
        content = json.loads(regular(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FeatureError(f"{path}: not JSON ({error}); fetch the model again") from error
    if not isinstance(content, kind):
        raise FeatureError(f"{path}: is not a JSON {'list' if kind is list else 'object'}; fetch the model again")
    return content


def unreadable(folder: Path, reason: str) -> FeatureError:
    """The error for a model whose files cannot be used."""
    return FeatureError(
        f"encoder model in {folder} cannot be loaded: {reason}; check that its files are complete and fetch it again"
    )


def is_clip(folder: Path) -> bool:
    """Whether a folder holds a CLIP or SigLIP as transformers stores it: with both towers, and without modules.json."""
    if (folder / "modules.json").is_file() or not (folder / "config.json").is_file():
        return False
    return read_json(folder / "config.json").get("model_type") in ("clip", "siglip")


def describe(settings: EncoderSettings, folder: Path) -> EncoderFiles:
    """Describe the model in a folder by its files.

    A local folder is described by its name without its path, because the path differs between machines.
    """
    model, layout = settings.model, LAYOUTS[settings.kind]
    configuration = sorted({file for pattern in _CONFIGURATION for file in folder.rglob(pattern)})
    form = "first {} tokens at most"
    if layout.pairs or is_clip(folder):
        form += ", SigLIP filled up to them; vectors of length 1"
    return EncoderFiles(
        model=folder.name if folder == Path(model).expanduser() else model,
        weights_sha256=files_sha256(weight_files(folder, layout), folder),
        preprocessing=f"text: {form.format(settings.tokens)}; picture: long side at most {LONG_SIDE} px; "
        f"then by the configuration, sha256 {files_sha256(configuration, folder)}{DECODINGS[settings.decoding]}",
        precision=settings.precision,
    )


def files_sha256(files: list[Path], folder: Path) -> str:
    """Sha256 of one file's content; for several files, sha256 of their list as sha256sum prints it, sorted by name."""
    digests = {str(file.relative_to(folder)): _file_sha256(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    status = path.stat()
    return _digest(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@cache
def _digest(path: Path, look: tuple[int, ...]) -> str:
    """Sha256 of a file. Gigabytes of weights are hashed once per process for all domains, unless `look` has changed."""
    return sha256_file(path)
