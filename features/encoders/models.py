"""Where a model's files are and what they are: the folder behind a name, its weights and their sha256.

Nothing is loaded here. A hub model is taken from the local cache where it is complete, else fetched once.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from features.encoders.protocol import EncoderFiles
from features.errors import FeatureError
from features.pictures import LONG_SIDE

SAMPLE_CLIP = Path(__file__).parent / "sample_clip"
TEXT_TOKENS = 64
"""The published recipe's cut of an item's text; a model with a lower limit cuts at its own."""
HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""

_CONFIGURATION = ("*.json", "*.txt", "*.model")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_NEEDED = "modules.json, config.json, model.safetensors and the tokenizer's files"


def model_folder(model: str) -> Path:
    """Folder of a model named by hub id, local folder or "sample-clip".

    Raises:
        FeatureError: there is no such folder; or the model is not cached and cannot be fetched.
    """
    folder = SAMPLE_CLIP if model == "sample-clip" else Path(model).expanduser()
    if folder.is_dir():
        weight_files(folder)
        return folder
    if model == "sample-clip" or model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise FeatureError(f"encoder model {model!r}: no folder {folder}; put {_NEEDED} there")
    return _hub_folder(model if "/" in model else f"sentence-transformers/{model}")


def _hub_folder(repository: str) -> Path:
    """Folder of the cached snapshot of a hub repository; fetched when it is missing or lacks weights."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
        weight_files(folder)
        return folder
    except (OSError, ValueError):  # not cached, or without weights
        pass
    try:
        # Asked first because snapshot_download waits for ever for a hub that never answers.
        listing = HfApi().model_info(repository, timeout=HUB_TIMEOUT).siblings or []
        safe = any(file.rfilename.endswith(".safetensors") for file in listing)
        folder = Path(
            snapshot_download(
                repository,
                allow_patterns=[*_CONFIGURATION, "*model*.safetensors" if safe else "*pytorch_model*.bin"],
                ignore_patterns=["onnx/*", "openvino/*"],
                etag_timeout=HUB_TIMEOUT,
            )
        )
        weight_files(folder)
        return folder
    except Exception as error:  # of the hub's client, of its HTTP library, of the file system
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FeatureError(
            f"encoder model {repository!r} is neither cached nor could it be fetched ({reason}). Where there "
            f"is a network, run `hf download {repository}` and copy the folder it prints here; it holds "
            f"{_NEEDED}. Then set the encoder's `model` to that folder. Without a network, the model "
            "sample-clip and ready vectors (kind: vectors) work."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Weight files that are loaded from a model folder, safetensors where there are any.

    A ``pytorch_model.bin`` counts only in a module without safetensors; it is read with
    ``weights_only=True``, which builds tensors and runs no code.

    Raises:
        FeatureError: the folder holds no weights.
    """
    files: list[Path] = []
    for module in _module_folders(folder):
        names = [name for name in (*_SAFETENSORS, *_PICKLED) if (module / name).is_file()]
        if not names:
            continue
        first = module / names[0]
        if first.suffix == ".json":
            files += sorted(module / name for name in set(_read_json(first)["weight_map"].values()))
        else:
            files.append(first)
    lacking = [file for file in files if not file.is_file()]
    if lacking or not files:
        wanted = ", ".join(str(file) for file in lacking) or "model.safetensors"
        raise FeatureError(f"encoder model in {folder}: no weights, {wanted} is missing; it needs {_NEEDED}")
    return files


def _module_folders(folder: Path) -> list[Path]:
    """Folders of the modules of a sentence-transformers model; the folder itself for a bare transformer."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return [folder]
    paths = [Path(module.get("path", "")) for module in _read_json(listing)]
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise FeatureError(f"{listing}: a module's path leaves the folder; do not use this model")
    return [folder / path for path in paths]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FeatureError(f"{path}: not JSON ({error}); fetch the model again") from error


def describe(model: str, folder: Path) -> EncoderFiles:
    """What the model of a folder is, by its files.

    A local folder goes by its name: its place on one machine is no part of what it is.
    """
    configuration = sorted({file for pattern in _CONFIGURATION for file in folder.rglob(pattern)})
    return EncoderFiles(
        model=folder.name if folder == Path(model).expanduser() else model,
        weights_sha256=_files_sha256(weight_files(folder), folder),
        preprocessing=f"text: first {TEXT_TOKENS} tokens at most; picture: long side at most {LONG_SIDE} px; "
        f"then by the configuration, sha256 {_files_sha256(configuration, folder)}",
        precision="float32",
    )


def _files_sha256(files: list[Path], folder: Path) -> str:
    """Sha256 of a file's content; of several, that of their list as sha256sum prints it, sorted by name."""
    digests = {str(file.relative_to(folder)): _file_sha256(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
