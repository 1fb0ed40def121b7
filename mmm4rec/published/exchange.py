"""Conversion of published checkpoints (.ckpt) to ours and back. The parameter names are in `mmm4rec.published`.

No published checkpoint is available, so the layout is an assumption (names and shapes are those of the parity files):
the file has the format of `torch.save`. The parameters are tensors under their published names, at the top or in a
mapping up to two levels below (`model`, `state_dict`, ...), possibly with a prefix that wrappers add (`module.`,
`_orig_mod.`, `model.`). The block shared by both branches is present twice, as `encoder_ssd_layers.i.ssd` and
`decoder_ssd_layers.i.ssd`, with equal values. The features (`text_embedding`, `vision_embedding`) and the scalar
`fusion_factor` of static fusion are optional buffers. Settings that the shapes do not show (temperature, dropout,
groups of B and C) have their published values unless they are given.

A round trip is exact: every float32 parameter returns bit for bit, in the shape that it has here.
"""

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmm4rec import checkpoint
from mmm4rec.config import ModelConfig, read_config
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.errors import ModelError
from mmm4rec.files import stored
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.published.names import from_published, to_published
from mmm4rec.published.processed import load_processed
from mmm4rec.tables import read_table

_PREFIX = re.compile(r"^(?:(?:module|_orig_mod|_forward_module|model)\.)+")
_SHARED_TWICE = re.compile(r"decoder_ssd_layers\.(\d+)\.ssd\.(.+)")
_MOST_SHARED = 3
"""Parameters may be this many times as large as their file: the block shared by both branches is often stored once."""
_FEATURES = re.compile(r"(text|vision)_embedding(\.weight)?")


@dataclass(frozen=True)
class Exchange:
    """The result of a conversion."""

    config: ModelConfig
    parameters: int
    """The number of trainable values, with the shared block counted once."""
    items: int
    """N of the per-item weights; 0 if there are none."""
    left_out: dict[str, str]
    """Published name and reason for every parameter that is in only one of the files."""


def import_checkpoint(
    file: Path,
    out: Path,
    *,
    item_ids: Sequence[str] | Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> Exchange:
    """Write the published checkpoint `file` as a checkpoint of this package into `out`, in published mode.

    Args:
        item_ids: [N], the item of each row of the per-item weights (row 0 is padding); required if there are per-item
            weights, because the file does not contain the ids. Or the place to read them from: items.parquet, a folder
            with it or with sequences/items.parquet, or a processed folder.
        settings: settings of the model that replace those from the shapes, or that the shapes do not show.

    Raises:
        ModelError: the file is unreadable or contains anything except plain values and tensors; parameters are unknown,
            missing, not finite or of contradicting shapes; the two copies of the shared block differ; or the number of
            item ids is wrong.
    """
    if isinstance(item_ids, Path):
        item_ids = _item_ids(item_ids)
    weights, left_out = _our_weights(file)
    config = _config(file, weights, settings or {})
    for name in _unused(config, weights):
        left_out[to_published(name) or name] = "not used with these settings"
        del weights[name]
    items = next((len(weights[name]) - 1 for name in ("text_item", "image_item") if name in weights), 0)
    if config.fusion == "dynamic_instance":
        items = weights["fusion"].numel() // 2 - 1
    if config.item_weights and len(item_ids or ()) != items:
        given = "no item ids are given" if item_ids is None else f"{len(item_ids)} item ids are given"
        raise ModelError(
            f"{file}: it has weights of {items} items, but {given}: give the items.parquet of the domain it was "
            "trained on (--items), in the order of its item numbers"
        )
    fitted = _fitted(file, config, weights, items)
    out.mkdir(parents=True, exist_ok=True)
    text, image = (checkpoint.FeatureKind(fitted[f"{name}_adapter.weight"].shape[1]) for name in ("text", "image"))
    checkpoint.write(config, fitted, text, image, list(item_ids or ()), out)
    return Exchange(config, sum(weight.numel() for weight in fitted.values()), items, left_out)


def _our_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters of a published checkpoint under our names, and the reasons why others are left out."""
    weights: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for published, tensor in sorted(_parameters(file).items()):
        twice = _SHARED_TWICE.fullmatch(published)
        name = from_published(published)
        if twice:
            copies[f"encoder_ssd_layers.{twice[1]}.ssd.{twice[2]}"] = tensor
            left_out[published] = "the shared block, which this model holds once"
        elif _FEATURES.fullmatch(published):
            left_out[published] = "features come with the data"
        elif published == "fusion_factor" and tensor.dim() == 0:
            left_out[published] = "a constant of static fusion"
        elif name is None:
            raise ModelError(
                f"{file}: the parameter {published} is unknown: this is not a checkpoint of the published model"
            )
        elif not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ModelError(f"{file}: {published} has values that are not finite numbers: the file is damaged")
        else:
            weights[name] = tensor.float()
    for published, tensor in copies.items():
        # One copy is enough. If there are two, they must be equal.
        own = weights.setdefault(from_published(published) or published, tensor.float())
        if own.shape != tensor.shape or not torch.equal(own, tensor.float()):
            raise ModelError(
                f"{file}: it has the shared block twice, and {published} differs between the two: the file is "
                "damaged, or its training kept two blocks, which this model does not have"
            )
    return weights, left_out


def export_checkpoint(source: Path, file: Path) -> Exchange:
    """Write our checkpoint `source` as a published one: `{"model": {published name: tensor}}`, without features.

    Raises:
        ModelError: as `checkpoint.load`; or the checkpoint is of default mode, which computes something else.
    """
    ours = checkpoint.load(source)
    if not isinstance(ours.config, ModelConfig):
        raise ModelError(f"{ours.path}: it is a {ours.config.kind}; only an MMM4Rec has a published form")
    if ours.config.compat != "published":
        raise ModelError(
            f"{ours.path}: a model of the default mode, for which the published code would give other results; train "
            "it with compat 'published' to export it"
        )
    named: dict[str, Tensor] = {}
    for name, weight in ours.weights.items():
        published = to_published(name)
        if published is None:
            raise ModelError(f"{ours.path}: {name} has no published counterpart")
        named[published] = weight
        if match := re.fullmatch(r"encoder_ssd_layers\.(\d+)\.ssd\.(.+)", published):
            named[f"decoder_ssd_layers.{match[1]}.ssd.{match[2]}"] = weight
    # Through memory, because torch.save writes the file name into the file, and equal weights must give equal bytes.
    content = io.BytesIO()
    torch.save({"model": dict(sorted(named.items()))}, content)
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f"{file.name}.{os.getpid()}")
    written.write_bytes(content.getvalue())
    written.replace(file)
    return Exchange(
        ours.config,
        sum(weight.numel() for weight in ours.weights.values()),
        len(ours.item_ids or ()),
        {} if ours.item_ids is None else {"item ids": "a published checkpoint has none; keep items.parquet"},
    )


def _item_ids(path: Path) -> list[str]:
    if (path / "item2id.jsonl").exists():
        return load_processed(path).item_ids
    places = (path, path / "items.parquet", path / "sequences" / "items.parquet")
    file = next((place for place in places if place.is_file()), places[1])
    ids: list[str] = read_table(file, "core/sequences/items").sort_by("item_index")["item_id"].to_pylist()
    return ids


def _parameters(file: Path) -> dict[str, Tensor]:
    """Published name -> tensor, from anywhere in the file."""
    try:
        found = torch.load(stored(file), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{file}: there is no such file") from None
    except Exception as error:  # a damaged archive can raise almost any error
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{file}: not a checkpoint that can be read safely ({cause}): it is damaged, or holds objects other than "
            "tensors and plain values; download it again, or save its state dict alone"
        ) from None
    level = [found]
    for _ in range(3):
        for mapping in level:
            if not isinstance(mapping, Mapping):
                continue
            tensors = {
                _PREFIX.sub("", key): value
                for key, value in mapping.items()
                if isinstance(key, str) and isinstance(value, Tensor)
            }
            if any(from_published(name) for name in tensors):
                _check_sizes(file, tensors)
                return tensors
        level = [value for mapping in level if isinstance(mapping, Mapping) for value in mapping.values()]
    raise ModelError(f"{file}: it has no parameter of the published model; is this the right file?")


def _check_sizes(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors without data in memory, and views that repeat a small part of the file at any size."""
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or not tensor.numel():
            raise ModelError(f"{file}: {name} is not a plain tensor with values: save its state dict alone")
    held, size = sum(tensor.nbytes for tensor in tensors.values()), file.stat().st_size
    if held > _MOST_SHARED * size:
        raise ModelError(
            f"{file}: its parameters are {held:,} bytes in a file of {size:,}: they repeat parts of the file; it is "
            "damaged, or not a checkpoint of the published model"
        )


def _config(file: Path, weights: Mapping[str, Tensor], settings: Mapping[str, object]) -> ModelConfig:
    """The settings that the shapes show, and the published settings for the rest."""
    try:
        adapter, out = weights["text_adapter.weight"], weights["layers.0.branches.state_space.out.weight"]
        conv, heads = weights["layers.0.branches.conv.weight"], len(weights["layers.0.branches.state_space.A_log"])
        hidden, inner = len(adapter), out.shape[1]
        groups = settings.get("groups") or heads
        shown: dict[str, object] = {
            "hidden": hidden,
            "layers": len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
            "expand": inner // hidden,
            "head_width": inner // heads,
            "state": (len(conv) - inner) // 2 // int(str(groups)),
            "conv_width": conv.shape[-1],
            "use_time": "gap_norm.weight" in weights,
            "use_ffn": "layers.0.text_ffn.widen.weight" in weights,
            "with_id": "text_item" in weights,
            "fusion": "static",
            "compat": "published",
        }
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ModelError(
            f"{file}: its parameters show no sizes ({error!r}): it is damaged, or belongs to another model"
        ) from None
    if shown["use_time"]:
        shown["length"] = len(weights["gap_norm.weight"])
    if shown["use_ffn"]:
        shown["inner"] = len(weights["layers.0.text_ffn.widen.weight"])
    if "fusion" in weights:
        shown["fusion"] = "dynamic_shared" if weights["fusion"].numel() == 2 else "dynamic_instance"
    return read_config(ModelConfig, {**shown, **settings}, f"{file}: model")


def _unused(config: ModelConfig, weights: Mapping[str, Tensor]) -> list[str]:
    """Parameters that the given settings switch off. The published files may contain them anyway."""
    off = []
    if not config.use_time:
        off += [r"gap_norm\..+", r".+\.step_scale\..+", r".+\.gap_gate\..+", r".+\.fourier\..+"]
    if not config.use_ffn:
        off.append(r".+_ffn\..+")
    if not config.with_id:
        off.append(r"(text|image)_item")
    if config.fusion == "static":
        off.append("fusion")
    return [name for name in weights if any(re.fullmatch(pattern, name) for pattern in off)]


def _fitted(file: Path, config: ModelConfig, weights: Mapping[str, Tensor], items: int) -> dict[str, Tensor]:
    """The weights in the shapes of the model, which must have exactly these parameters."""
    if "image_adapter.weight" not in weights:
        raise ModelError(f"{file}: there is no parameter {to_published('image_adapter.weight')}: the file is truncated")
    with torch.device("meta"):
        present = torch.ones(items + 1, dtype=torch.bool)
        text, image = (
            Features(torch.zeros(items + 1, weights[f"{name}_adapter.weight"].shape[-1]), present)
            for name in ("text", "image")
        )
        none = torch.zeros(0, dtype=torch.int64)
        domain = DomainData("", [], [""] * items, none, none, none, none, none, text, image)
        expected = {name: parameter.shape for name, parameter in MMM4Rec(config, domain).named_parameters()}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise ModelError(
            f"{file}: its parameters do not fit its own sizes: "
            + "; ".join(
                f"{what} {', '.join(to_published(name) or name for name in names)}"
                for what, names in (("missing", missing), ("too many", unknown))
                if names
            )
            + f"; settings read from it: {asdict(config)}"
        )
    for name, shape in expected.items():
        if weights[name].numel() != shape.numel():
            raise ModelError(
                f"{file}: {to_published(name)} is {list(weights[name].shape)}, expected {list(shape)}; give the "
                "settings that the shapes do not show (groups, length); otherwise the file is damaged"
            )
    return {name: weights[name].reshape(shape) for name, shape in expected.items()}
