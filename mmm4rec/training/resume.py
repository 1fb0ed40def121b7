"""The state of an unfinished training on disk, from which a run that was killed at any moment can continue.

A state consists of `state.json` (the progress of the run and the sha256 of the tensors) and the file of tensors that it
names. Both are first written under other names and flushed. Then `state.json` is renamed into place, so a reader always
sees either the complete old state or the complete new one. A state that is damaged, or that belongs to another config,
data or code, counts as absent, and the reason is printed. The trainer (`mmm4rec.training`) decides what a state
contains.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.registry import config_as_dict

HASH_BLOCK = 2**24
"""Bytes hashed at a time."""


def identity(
    domain: DomainData, model_config: RecommenderConfig, train_config: TrainConfig, init: Path | None
) -> dict[str, Any]:
    """The identity of a state: config, data, initial weights and code. Reads all of `domain` once."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(file.name.encode() + b"\0" + file.read_bytes())
    data = hashlib.sha256()
    _feed(data, domain)
    weights = init / "model.safetensors" if init is not None and init.is_dir() else init
    return {
        "model": config_as_dict(model_config),
        "training": asdict(train_config),
        "data": data.hexdigest(),
        "init": _sha256(weights) if weights is not None and weights.is_file() else None,
        "code": code.hexdigest(),
        "torch": torch.__version__,
    }


class StateFolder:
    """The folder of one training's state. Other files in it are not touched."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, json.loads(json.dumps(identity))

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """(the progress of the run, tensors on the CPU), or None if there is nothing to continue from."""
        try:
            return self._read()
        except FileNotFoundError as error:
            if not (self.folder / "state.json").exists():
                return None
            reason = f"{Path(str(error.filename)).name} is missing"
        except _UnusableError as error:
            reason = str(error)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = f"it is damaged ({type(error).__name__}: {error})"
        print(f"{self.folder}: the state is not used, training starts again: {reason}", file=sys.stderr)
        return None

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        record = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        differing = _differing(self.identity, record["identity"])
        if differing:
            raise _UnusableError(f"it belongs to a training with other {', '.join(differing)}")
        file = self.folder / Path(record["tensors"]).name
        if _sha256(file) != record["sha256"]:
            raise _UnusableError(f"{file.name} is damaged")
        return record["progress"], load_file(file)

    def save(self, progress: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the state. `progress` is JSON; floats are restored exactly."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # A new file name, so that the current state stays complete until the rename below.
        file = self.folder / f"state-{progress['steps']}-{progress['epoch']}-{os.getpid()}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
        record = {
            "identity": self.identity,
            "progress": progress,
            "tensors": file.name,
            "sha256": _sha256(file),
        }
        written = self.folder / f"state.json.{os.getpid()}"
        written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _flush(file)
        _flush(written)
        written.replace(self.folder / "state.json")
        _flush(self.folder)
        self._sweep(keep=file.name)

    def remove(self) -> None:
        """Remove the state, and the folder if nothing else is in it."""
        (self.folder / "state.json").unlink(missing_ok=True)
        self._sweep()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _sweep(self, keep: str = "") -> None:
        """Remove the tensors of older states and the leftovers of a killed save."""
        for pattern in ("state-*.safetensors", "state.json.*"):
            for file in self.folder.glob(pattern):
                if file.name != keep:
                    file.unlink(missing_ok=True)


class _UnusableError(Exception):
    """The reason why a state is not used."""


def _differing(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """The dotted names where two nested mappings differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            found
            for key in sorted(ours.keys() | theirs.keys())
            for found in _differing(ours.get(key), theirs.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if ours == theirs else [name]


def _feed(digest: "hashlib._Hash", value: object) -> None:
    """Hash a value made of dataclasses, tensors and lists of text."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{list(value.shape)}".encode())
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        for start in range(0, len(raw), HASH_BLOCK):
            digest.update(raw[start : start + HASH_BLOCK].data)
    elif is_dataclass(value):
        for field in fields(value):
            digest.update(field.name.encode())
            _feed(digest, getattr(value, field.name))
    else:
        digest.update(json.dumps(value).encode())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Flush a file (or the names in a folder) to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
