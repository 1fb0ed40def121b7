"""Comparison with tensors that the published model computed: user vectors, scores, loss and gradients.

A parity file is a safetensors file. Its metadata key `config` contains the published settings as JSON, and it has
`input.*`, `param.*` (published names), `buffer.*`, `output.*` and `grad.*` tensors. Dropout is off.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmm4rec.config import ModelConfig, read_config
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.data.examples import Batch
from mmm4rec.errors import ModelError
from mmm4rec.files import regular
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.published.names import from_published, to_published

OUTPUT_TOLERANCE = 2e-5
"""Largest absolute difference of user vectors, scores and loss."""
GRADIENT_TOLERANCE = 1e-4
"""Largest difference within a gradient tensor, relative to the largest magnitude in that tensor."""
GRADIENT_FLOOR = 1e-8
"""The divisor for tensors whose largest gradient is smaller than this: such gradients are float32 noise. With the
published initialisation, the gates of the time path have gradients of 1e-12."""


@dataclass(frozen=True)
class PublishedConfig:
    """The settings under their published names, as in the metadata of a parity file."""

    hidden_size: int
    inner_size: int
    num_layers: int
    d_state: int
    n_groups: int
    d_conv: int
    expand: int
    head_dim: int
    norm_eps: float | str
    is_ffn: bool
    is_time: bool
    is_modality_bias: bool
    item_mm_fusion: str
    max_len: int
    temperature: float
    item_num: int
    text_dim: int
    image_dim: int
    in_batch_loss: bool
    p2p_residual: bool = False

    def model_config(self) -> ModelConfig:
        """These settings in our form, in published mode and without dropout."""
        if self.p2p_residual:
            raise ModelError("p2p_residual is true: this variant is not supported; write the file with false")
        settings = {
            "hidden": self.hidden_size,
            "inner": self.inner_size,
            "layers": self.num_layers,
            "state": self.d_state,
            "groups": self.n_groups,
            "conv_width": self.d_conv,
            "expand": self.expand,
            "head_width": self.head_dim,
            "norm_eps": float(self.norm_eps),
            "use_ffn": self.is_ffn,
            "use_time": self.is_time,
            "with_id": self.is_modality_bias,
            "fusion": self.item_mm_fusion,
            "length": self.max_len,
            "temperature": self.temperature,
            "compat": "published",
            "dropout_embedding": 0.0,
            "dropout_hidden": 0.0,
            "dropout_time": 0.0,
        }
        return ModelConfig.from_dict(settings, "config")


@dataclass(frozen=True)
class ParityReport:
    """The largest differences between this model and a parity file."""

    file: str
    user: float
    scores: float
    loss: float
    gradients: dict[str, float]
    """Largest relative difference by published parameter name, largest first."""
    unused: list[str]
    """Parameters of the file that its variant does not use (time off, no FFN)."""

    @property
    def gradient(self) -> float:
        """Largest relative difference over all gradients; 0 if the file has none."""
        return max(self.gradients.values(), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether outputs and gradients are within `OUTPUT_TOLERANCE` and `GRADIENT_TOLERANCE`."""
        outputs = max(self.user, self.scores, self.loss)
        return outputs <= OUTPUT_TOLERANCE and self.gradient <= GRADIENT_TOLERANCE


def check(file: Path) -> ParityReport:
    """Run the model of `file` on its inputs and compare.

    Outputs are compared in float32. Gradients are computed in float32 and in float64, and the smaller difference of
    each counts. Some gradients in the time path are differences of nearly equal numbers, and rounding leaves only 3
    digits of them, in the file or here. An error in the equations shows in both precisions.

    Raises:
        ModelError: the file is unreadable, is not a parity file, or has sizes that contradict its own config.
    """
    settings, tensors = _read(file)
    model = MMM4Rec(settings.model_config(), _domain(file, settings, tensors)).eval()
    unused = _load_parameters(file, model, tensors)
    batch, labels = _batch(file, model.config, tensors)

    with torch.no_grad():
        vectors = model.item_vectors()
        user = model.user_vectors(batch, vectors, batch.items)
        scores = model.scores(user, model.score_vectors(vectors))
    labelled = batch._replace(labels=labels)
    losses, differences = [], []
    for dtype in (torch.float32, torch.float64):
        model.to(dtype).zero_grad()
        loss = model(labelled, settings.in_batch_loss)
        loss.backward()
        losses.append(loss.detach().view(1))
        differences.append(_gradient_differences(file, model, tensors))
    gradients = {name: min(found[name] for found in differences) for name in differences[0]}

    return ParityReport(
        file=str(file),
        user=_difference(file, user, tensors, "output.user"),
        scores=_difference(file, scores, tensors, "output.scores"),
        loss=_difference(file, losses[0], tensors, "output.loss"),
        gradients=dict(sorted(gradients.items(), key=lambda entry: -entry[1])),
        unused=unused,
    )


def _read(file: Path) -> tuple[PublishedConfig, dict[str, Tensor]]:
    try:
        with safe_open(regular(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: not a readable safetensors file ({error})") from None
    try:
        settings = json.loads(metadata["config"])
    except (KeyError, ValueError, RecursionError):
        raise ModelError(f"{file}: there is no metadata key `config` with JSON: this is not a parity file") from None
    required = [f"input.{name}" for name in ("item_seq", "item_seq_len", "labels", "timestamps")]
    required += [
        "buffer.text_embedding",
        "buffer.vision_embedding",
        "output.user",
        "output.scores",
        "output.loss",
    ]
    missing = [name for name in required if name not in tensors]
    if missing:
        raise ModelError(
            f"{file}: there is no tensor {', '.join(missing)}: this is not a parity file, or it is truncated"
        )
    return read_config(PublishedConfig, settings, f"{file}: config"), tensors


def _domain(file: Path, settings: PublishedConfig, tensors: dict[str, Tensor]) -> DomainData:
    """The items of the file. The model needs no interactions."""
    features = []
    for name, width in (("text", settings.text_dim), ("vision", settings.image_dim)):
        table = tensors[f"buffer.{name}_embedding"].float()
        if table.shape != (settings.item_num + 1, width):
            raise ModelError(
                f"{file}: buffer.{name}_embedding is {list(table.shape)}, but its config says "
                f"{[settings.item_num + 1, width]}"
            )
        features.append(Features(table, torch.ones(len(table), dtype=torch.bool)))
    none = torch.zeros(0, dtype=torch.int64)
    items = [str(item) for item in range(1, settings.item_num + 1)]
    return DomainData("parity", [], items, torch.zeros(1, dtype=torch.int64), none, none, none, none, *features)


def _batch(file: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> tuple[Batch, Tensor]:
    items, times, lengths, labels = (
        tensors[f"input.{name}"].long() for name in ("item_seq", "timestamps", "item_seq_len", "labels")
    )
    rows = len(tensors["buffer.text_embedding"])
    if items.shape != times.shape or items.shape[1:] != (config.length,) or len(lengths) != len(items):
        raise ModelError(
            f"{file}: the inputs have the shapes {list(items.shape)} and {list(times.shape)}, but max_len is "
            f"{config.length}"
        )
    if not (items.min() >= 0 and items.max() < rows and labels.min() >= 0 and labels.max() < rows):
        raise ModelError(f"{file}: item indices are out of range 0..{rows - 1}")
    if not (lengths.min() >= 1 and lengths.max() <= config.length):
        raise ModelError(f"{file}: sequence lengths are out of range 1..{config.length}")
    return Batch(items[:, : int(lengths.max())], times, lengths, None), labels


def _load_parameters(file: Path, model: MMM4Rec, tensors: dict[str, Tensor]) -> list[str]:
    """Copy the parameters of the file into `model`. Return those that its variant does not use."""
    ours = dict(model.named_parameters())
    unused, seen = [], set()
    for key in sorted(tensors):
        if not key.startswith("param."):
            continue
        published = key.removeprefix("param.")
        name = from_published(published)
        if name is None:
            raise ModelError(f"{file}: the parameter {published} is unknown")
        if name not in ours:
            unused.append(published)
            continue
        value = tensors[key]
        if value.numel() != ours[name].numel():
            raise ModelError(f"{file}: {published} is {list(value.shape)}, expected {list(ours[name].shape)}")
        ours[name].data.copy_(value.view_as(ours[name]))
        seen.add(name)
    absent = [to_published(name) or name for name in ours if name not in seen]
    if absent:
        raise ModelError(
            f"{file}: there is no parameter {', '.join(absent)}: the file is truncated, or is of another variant"
        )
    return unused


def _difference(file: Path, ours: Tensor, tensors: dict[str, Tensor], name: str) -> float:
    theirs = tensors[name]
    if theirs.numel() != ours.numel():
        raise ModelError(f"{file}: {name} is {list(theirs.shape)}, expected {list(ours.shape)}")
    return _largest(ours.detach() - theirs.view_as(ours))


def _gradient_differences(file: Path, model: MMM4Rec, tensors: dict[str, Tensor]) -> dict[str, float]:
    ours = dict(model.named_parameters())
    differences = {}
    for key, theirs in tensors.items():
        if not key.startswith("grad."):
            continue
        published = key.removeprefix("grad.")
        parameter = ours.get(from_published(published) or "")
        gradient = None if parameter is None else parameter.grad
        # For a parameter that the variant does not use, there is no gradient here, and a gradient of zero in the file.
        found = torch.zeros_like(theirs) if gradient is None else gradient
        if found.numel() != theirs.numel():
            raise ModelError(f"{file}: {key} is {list(theirs.shape)}, expected {list(found.shape)}")
        scale = max(float(theirs.nan_to_num().abs().max()), GRADIENT_FLOOR)
        differences[published] = _largest(found - theirs.view_as(found)) / scale
    return differences


def _largest(difference: Tensor) -> float:
    """The largest magnitude; infinity if there is a NaN, so that no comparison accepts it."""
    return float(difference.abs().nan_to_num(nan=torch.inf).max()) if difference.numel() else 0.0
