"""Checkpoints: weights as safetensors with everything needed to load them, and transfer to another domain.

A checkpoint holds the trainable parameters, never the features. Its metadata is one JSON value, so that equal weights
give equal bytes. It holds the config with the kind of the model, the number of items, and the widths and encoders of
the features. If there are per-item weights, the item ids are beside it in `items.parquet`. Loading is strict. A
transfer lists what it leaves out or initialises anew, with the reason.

A model works only with vectors of the encoders it was trained with, so features of another encoder are an error. If
the encoder is not known (published checkpoints, processed folders, ready vectors), a message says so.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmm4rec.config import ModelConfig, RecommenderConfig, SSDForm
from mmm4rec.data.domain import DomainData, EncoderRecord
from mmm4rec.errors import ModelError
from mmm4rec.files import regular
from mmm4rec.model.recommender import Recommender
from mmm4rec.printable import visible
from mmm4rec.registry import config_as_dict, config_from_dict, make
from mmm4rec.tables import write_table

FORMAT = "mmm4rec 1"


@dataclass(frozen=True)
class FeatureKind:
    """The features of one modality that a model was trained on."""

    width: int
    encoder: EncoderRecord | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    path: Path
    config: RecommenderConfig
    text: FeatureKind
    image: FeatureKind
    weights: dict[str, Tensor]
    item_ids: list[str] | None
    """[N] item of each row of the per-item weights (row 0 is padding); None if there are no per-item weights."""


@dataclass(frozen=True)
class Transfer:
    """What fine-tuning took from a checkpoint, by parameter name."""

    taken: list[str]
    left_out: dict[str, str]
    """Parameters only in the checkpoint: name and reason."""
    fresh: dict[str, str]
    """Parameters only in the model, which keep their initial values: name and reason."""
    unchecked: list[str]
    """Features that could not be compared, because their encoder is not known."""


def save(model: Recommender, domain: DomainData, weights: Mapping[str, Tensor], out: Path) -> None:
    """Write `model.safetensors` into `out`, and `items.parquet` if there are per-item weights."""
    text, image = (FeatureKind(features.width, features.encoder) for features in (domain.text, domain.image))
    write(model.config, weights, text, image, domain.item_ids, out)


def write(
    config: RecommenderConfig,
    weights: Mapping[str, Tensor],
    text: FeatureKind,
    image: FeatureKind,
    item_ids: Sequence[str],
    out: Path,
) -> None:
    """Like `save`, but without a model. `item_ids` [N] may be empty if there are no per-item weights."""
    kinds = {"text": text, "image": image}
    description = {
        "format": FORMAT,
        "config": config_as_dict(config),
        **{f"{name}_width": kind.width for name, kind in kinds.items()},
        **{f"{name}_encoder": kind.encoder and asdict(kind.encoder) for name, kind in kinds.items()},
        "items": len(item_ids),
    }
    tensors = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    save_file(tensors, out / "model.safetensors", {"mmm4rec": json.dumps(description, sort_keys=True)})
    if config.item_weights:
        rows = [{"item_index": n, "item_id": item} for n, item in enumerate(item_ids, start=1)]
        write_table(rows, "models/finetuned/items", out / "items.parquet")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint from its folder, or from the `model.safetensors` in it.

    Raises:
        ModelError: the file is missing, corrupt or of another kind, or its `items.parquet` is missing.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(regular(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{file}: there is no checkpoint; train the model first") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: not a readable safetensors file ({error}); train the model again") from None
    try:
        description: dict[str, Any] = json.loads(metadata["mmm4rec"])
        found = description["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ModelError(f"{file}: not a checkpoint of this package: it lacks the metadata of one") from None
    if found != FORMAT:
        raise ModelError(f"{file}: its format is {found!r}, but this version reads {FORMAT!r}; train the model again")
    try:
        settings, count = description["config"], int(description["items"])
        text, image = (_feature_kind(description, modality) for modality in ("text", "image"))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: its metadata is damaged ({error!r}); train the model again") from None
    wrong = sorted(name for name, weight in weights.items() if not weight.isfinite().all())
    if wrong:
        raise ModelError(f"{file}: {wrong[0]} has NaN or infinity: the file is damaged; train the model again")
    config = config_from_dict(settings, f"{file}: config")
    return Checkpoint(
        path=file,
        config=config,
        text=text,
        image=image,
        weights=weights,
        item_ids=_item_ids(file, count) if config.item_weights else None,
    )


def _feature_kind(description: Mapping[str, Any], modality: str) -> FeatureKind:
    said = description.get(f"{modality}_encoder")  # missing in the oldest checkpoints
    return FeatureKind(int(description[f"{modality}_width"]), EncoderRecord(**said) if said else None)


def _item_ids(file: Path, count: int) -> list[str]:
    items = file.with_name("items.parquet")
    try:
        ids: list[str] = pq.ParquetFile(regular(items)).read(["item_id"])["item_id"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ModelError(
            f"{items}: cannot be read ({error}); it names the items of the per-item weights: restore it"
        ) from None
    if len(ids) != count:
        raise ModelError(f"{items}: {len(ids)} items, but {file.name} has {count}; restore the pair together")
    return ids


def load_model(path: Path, domain: DomainData, ssd_form: SSDForm = "auto") -> Recommender:
    """The trained model for the items of `domain`, in eval mode.

    A model without per-item weights works with any domain that has features of its encoders. A model with per-item
    weights works only with its own items. An unknown encoder causes a message on stderr.

    Raises:
        ModelError: as `load`; or the features have other widths or encoders, the items differ, or tensors do not fit
            the config.
    """
    checkpoint = load(path)
    for unknown in _check_features(checkpoint, domain):
        print(visible(f"{checkpoint.path}: {unknown}"), file=sys.stderr)
    if checkpoint.item_ids is not None and checkpoint.item_ids != domain.item_ids:
        raise ModelError(
            f"{checkpoint.path}: its per-item weights are for {len(checkpoint.item_ids)} items, which are not the "
            f"{domain.item_count} items of {domain.name}; fine-tune it on this domain instead"
        )
    if checkpoint.config.layers > len(checkpoint.weights):  # a damaged config must not cause a model of any size
        raise ModelError(
            f"{checkpoint.path}: {checkpoint.config.layers} layers in its config, but {len(checkpoint.weights)} "
            "tensors in total: the file is damaged; train the model again"
        )
    with torch.device("meta"):
        model = make(checkpoint.config, domain, ssd_form)
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    theirs = {name: list(weight.shape) for name, weight in checkpoint.weights.items()}
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        raise ModelError(
            f"{checkpoint.path}: {len(differing)} tensors do not fit its own config, such as {differing[0]}: "
            "the file is damaged; train the model again"
        )
    model = make(checkpoint.config, domain, ssd_form)
    model.load_state_dict(checkpoint.weights, strict=True)
    return model.eval()


def transfer(checkpoint: Checkpoint, model: Recommender, domain: DomainData) -> Transfer:
    """Start `model` from `checkpoint`. Per-item weights, and layers that the model lacks, are not transferred.

    Raises:
        ModelError: the model, L, features or sizes differ, or there are fewer layers: the transfer would be incomplete.
    """
    ours, theirs = model.config, checkpoint.config
    if type(ours) is not type(theirs):
        raise ModelError(
            f"{checkpoint.path}: it is a {theirs.kind}, from which a {ours.kind} cannot start: give a "
            "checkpoint of the same model"
        )
    unchecked = _check_features(checkpoint, domain)
    if _uses_time(ours) and _uses_time(theirs) and ours.length != theirs.length:
        raise ModelError(
            f"{checkpoint.path}: trained with length {theirs.length}, but the model has {ours.length}; the time path "
            f"fits one length only: set length to {theirs.length}, or pre-train again"
        )
    if ours.layers > theirs.layers:
        raise ModelError(
            f"{checkpoint.path}: it has {theirs.layers} layers, but the model has {ours.layers}: set layers to "
            f"{theirs.layers}, or pre-train again"
        )
    parameters = dict(model.named_parameters())
    taken, left_out, fresh = [], {}, {}
    for name, weight in sorted(checkpoint.weights.items()):
        reason = _reason_left_out(name, ours, theirs)
        if reason:
            left_out[name] = reason
        elif name not in parameters:
            raise ModelError(
                f"{checkpoint.path}: {name} has no place in the model; {_settings_that_differ(ours, theirs)}"
            )
        elif parameters[name].shape != weight.shape:
            raise ModelError(
                f"{checkpoint.path}: {name} is {list(weight.shape)}, but in the model it is "
                f"{list(parameters[name].shape)}; {_settings_that_differ(ours, theirs)}"
            )
        else:
            taken.append(name)
    for name in parameters.keys() - set(taken):
        if name in ours.item_weights:
            fresh[name] = "one row per item: learned in each domain"
        elif name == "absent" and _is_published(theirs):
            fresh[name] = "the published mode does not have this vector"
        else:
            raise ModelError(f"{checkpoint.path}: it lacks {name}; {_settings_that_differ(ours, theirs)}")
    with torch.no_grad():
        for name in taken:
            parameters[name].copy_(checkpoint.weights[name])
    return Transfer(taken, left_out, dict(sorted(fresh.items())), unchecked)


def _reason_left_out(name: str, ours: RecommenderConfig, theirs: RecommenderConfig) -> str | None:
    if name in theirs.item_weights:
        return "one row per item: other items here"
    if name.startswith("layers.") and int(name.split(".")[1]) >= ours.layers:
        return f"the model has {ours.layers} of its {theirs.layers} layers"
    if name == "absent" and _is_published(ours):
        return "the published mode does not have this vector"
    return None


def _uses_time(config: RecommenderConfig) -> bool:
    return isinstance(config, ModelConfig) and config.use_time


def _is_published(config: RecommenderConfig) -> bool:
    return isinstance(config, ModelConfig) and config.compat == "published"


def _settings_that_differ(ours: RecommenderConfig, theirs: RecommenderConfig) -> str:
    mine, other = asdict(ours), asdict(theirs)
    differing = [f"{name} {other[name]}, not {mine[name]}" for name in mine if mine[name] != other[name]]
    return f"settings of the checkpoint that differ: {'; '.join(differing) or 'none'}"


def _check_features(checkpoint: Checkpoint, domain: DomainData) -> list[str]:
    """The features that cannot be compared. Features that the checkpoint was not trained for are an error."""
    unchecked = []
    for name, there, here in (
        ("text", checkpoint.text, domain.text),
        ("image", checkpoint.image, domain.image),
    ):
        if there.width != here.width:
            raise ModelError(
                f"{checkpoint.path}: trained on {name} vectors of width {there.width}, but {domain.name} has width "
                f"{here.width}; use the same {name} encoder for both"
            )
        made, given = there.encoder, here.encoder
        if made and given and made.sha256 == given.sha256:
            continue
        if made and given and not (made.ready or given.ready):
            raise ModelError(
                f"{checkpoint.path}: trained on {name} vectors of the encoder {made}, but those of {domain.name} are "
                f"of {given}: the width is the same, the meaning is not; use the same {name} encoder for both"
            )
        unchecked.append(
            f"{name} vectors: trained on those of {made or 'an unrecorded encoder'}, {domain.name} has those of "
            f"{given or 'an unrecorded encoder'}: it is not known whether these agree"
        )
    return unchecked
