"""The settings of the model and of its training, and the strict reader that fills them.

The defaults are the published sizes and the published fine-tuning settings. `PRETRAINING` holds the published
pre-training settings. This module reads no files: `read_config` takes a mapping (parsed YAML or JSON) and works with
any frozen dataclass.
"""

import difflib
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from mmm4rec.errors import ConfigError
from mmm4rec.metrics import CRITERION, criteria

T = TypeVar("T")

_INTEGER_BITS = 63
"""The most bits of an integer that torch accepts. No size, seed or count needs more."""
SMALLEST_STEP = 32
"""The smallest number of training examples per optimiser step that `TrainConfig.fitted` allows."""
_LONGEST_QUOTE = 300
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = 200

Compat = Literal["default", "published"]
Fusion = Literal["static", "dynamic_shared", "dynamic_instance"]
SSDForm = Literal["auto", "sequential", "quadratic", "short", "chunked", "triton"]
"""See `mmm4rec.model.ssd`."""
ConvForm = Literal["auto", "plain", "torch", "fused", "triton"]
"""See `mmm4rec.model.kernels.causal_conv`."""


@dataclass(frozen=True)
class RecommenderConfig:
    """The settings that the trainer, checkpoints and evaluation need from any model (`mmm4rec.model.recommender`)."""

    kind: ClassVar[str]
    """Name of the model in `mmm4rec.registry`."""
    hidden: int = 256
    """Width H of item and user vectors."""
    layers: int = 1
    length: int = 20
    """The number L of last interactions the model sees."""

    @property
    def item_weights(self) -> tuple[str, ...]:
        """Names of the parameters with one row per item. These belong to the items of one domain."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModelConfig(RecommenderConfig):
    """Sizes and variants of MMM4Rec. Feature widths and the number of items come from the data."""

    kind: ClassVar[str] = "MMM4Rec"
    inner: int = 256
    """Width between the two linear maps of a feed-forward network."""
    state: int = 64
    """SSM state size S."""
    head_width: int = 64
    """Width P of one SSM head; there are `expand * hidden / head_width` heads."""
    groups: int | None = None
    """The heads of a group share B and C. None: one group per head, as published."""
    expand: int = 2
    conv_width: int = 4
    dropout_embedding: float = 0.4
    dropout_hidden: float = 0.4
    dropout_time: float = 0.4
    norm_eps: float = 1e-12
    temperature: float = 0.8
    use_time: bool = True
    use_ffn: bool = True
    with_id: bool = True
    """Whether every item has a trainable vector in addition to its frozen features."""
    fusion: Fusion = "static"
    compat: Compat = "default"
    """`published` keeps the defects of the published implementation; see `mmm4rec.model.compat`."""

    def __post_init__(self) -> None:
        positive(self, "hidden", "inner", "layers", "state", "head_width", "expand", "conv_width", "length")
        positive(self, "norm_eps", "temperature")
        shares(self, "dropout_embedding", "dropout_hidden", "dropout_time")
        if self.inner_width % self.head_width:
            raise ConfigError(
                f"head_width {self.head_width} does not divide expand * hidden = {self.inner_width}: "
                "choose a divisor of it"
            )
        if self.groups is not None and (self.groups < 1 or self.heads % self.groups):
            raise ConfigError(
                f"groups {self.groups} does not divide the {self.heads} heads: choose a divisor, "
                "or null for one group per head"
            )

    @property
    def inner_width(self) -> int:
        """Din = expand * hidden, the width inside the SSM."""
        return self.expand * self.hidden

    @property
    def heads(self) -> int:
        """K, the number of SSM heads."""
        return self.inner_width // self.head_width

    @property
    def group_count(self) -> int:
        """G, the number of groups."""
        return self.heads if self.groups is None else self.groups

    @property
    def item_weights(self) -> tuple[str, ...]:
        """The item vectors of both modalities and the fusion weights, if there are any."""
        vectors = ("text_item", "image_item") if self.with_id else ()
        return (*vectors, "fusion") if self.fusion == "dynamic_instance" else vectors

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object], where: str = "model") -> Self:
        """Strictly read `mapping`; a key left out keeps its default."""
        return read_config(cls, mapping, where)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the published fine-tuning settings."""

    epochs: int = 100
    """The maximum number of passes over the training examples."""
    patience: int | None = 10
    """Stop after this many validations without a better `metric`. None: never."""
    metric: str = CRITERION
    """The validation metric that decides which weights are best, one of `mmm4rec.metrics.criteria`."""
    keep: Literal["best", "last"] = "best"
    """Which weights to write: the best ones on `metric`, or those of the last epoch."""
    validate_every: int = 1
    """Epochs from one validation to the next; 0 never validates (then `keep` must be `last`)."""
    loss: Literal["full", "in_batch"] = "full"
    """Cross-entropy over all items, or over the labels of the batch."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.005
    """L2 regularisation of every parameter."""
    batch_size: int = 1024
    accumulate: int = 8
    """Batches whose gradients are summed for one optimiser step."""
    least_steps: int = 0
    """The minimum number of optimiser steps per epoch. If there are too few training examples, `batch_size` is halved
    until an epoch has enough steps; see `fitted`."""
    seed: int = 2020
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32-true", "tf32", "bf16-mixed"] = "auto"
    """`32-true`: float32 everywhere. `tf32`: the same, but a GPU rounds the factors of matrix products to 10 bits.
    `bf16-mixed`: activations in bfloat16, weights in float32. `auto`: see `mmm4rec.training.precision.AUTO`."""
    devices: int = 1
    """Devices (on a CPU: processes) among which the batches of an optimiser step are divided."""
    strategy: Literal["auto", "ddp_spawn", "ddp"] = "auto"
    """How to start processes for several devices. `ddp_spawn` starts them itself and works anywhere. `ddp` is for a
    script that runs once per device (torchrun) or that may be run again for every device. `auto`: `ddp`
    in a process that torchrun has started, otherwise `ddp_spawn` if there are several devices."""
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ()
    """Where the loss and validation metrics of every epoch are logged, in addition to `history`."""
    ssd_form: SSDForm = "auto"
    """Overrides the choice of `mmm4rec.model.ssd.choose`."""

    def __post_init__(self) -> None:
        positive(self, "epochs", "learning_rate", "batch_size", "accumulate", "devices")
        if self.accumulate < self.devices:
            raise ConfigError(
                f"accumulate is {self.accumulate} but devices is {self.devices}: the {self.accumulate} batches of an "
                f"optimiser step are divided among the devices; set accumulate to {self.devices} or more "
                "(and batch_size lower, to keep the examples per step)"
            )
        if self.patience is not None:
            positive(self, "patience")
        if min(self.weight_decay, self.validate_every, self.seed, self.least_steps) < 0:
            raise ConfigError("weight_decay, validate_every, seed and least_steps must not be negative")
        if self.metric not in (known := criteria()):
            raise ConfigError(f"metric is {self.metric!r}{nearest(self.metric, known)}; known: {', '.join(known)}")
        if self.validate_every == 0 and self.keep == "best":
            raise ConfigError(
                "keep is 'best' but validate_every is 0: set validate_every to 1 or more, or set keep to 'last'"
            )

    @property
    def examples_per_step(self) -> int:
        """The number of training examples per optimiser step."""
        return self.batch_size * self.accumulate

    def fitted(self, examples: int) -> Self:
        """These settings for this number of training examples: `batch_size` is halved until an epoch has `least_steps`
        whole steps, but never below SMALLEST_STEP examples per step."""
        size = self.batch_size
        while (
            examples < self.least_steps * size * self.accumulate
            and size > 1
            and size // 2 * self.accumulate >= SMALLEST_STEP
        ):
            size //= 2
        return replace(self, batch_size=size)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object], where: str = "training") -> Self:
        """Strictly read `mapping`; a key left out keeps its default."""
        return read_config(cls, mapping, where)


@dataclass(frozen=True)
class RecommendationConfig:
    """What to recommend."""

    k: int = 10
    """The number of items per user."""
    exclude_seen: bool = True
    """Whether to leave out items that the user already has. Set it to false where people buy the same item again."""
    models: Literal["best", "all"] = "best"
    """Recommend with the MMM4Rec that is best on validation, or write the lists of every model."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k is {self.k}: recommend at least 1 item")


def read_config(cls: type[T], mapping: Mapping[str, object], where: str = "", base: T | None = None) -> T:
    """Fill the dataclass `cls` from `mapping`, and check every key and every type.

    Supports int, float, bool, str, Path, Literal, unions, list, tuple[X, ...], dict[str, X] and nested dataclasses.
    `where` is the prefix of the names in messages (`domains.Arts.model`). A missing key keeps the value of `base`,
    otherwise the default of the field.

    Raises:
        ConfigError: a key is unknown (the message names the nearest known one) or missing, a type is wrong, or a value
            is refused.
    """
    if not is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    place = where or cls.__name__
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{place}: expected a mapping of settings, found {_shown(mapping)}")
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}
    for key in mapping:
        if key not in known:
            meant = nearest(str(key), list(known))
            raise ConfigError(f"{place}: unknown setting {_quoted(key)}{meant}; known: {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in mapping:
            values[name] = _read(hints[name], mapping[name], f"{where}.{name}" if where else name)
        elif base is not None:
            values[name] = getattr(base, name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{place}: the setting {name!r} is missing: add it")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _read(kind: Any, value: Any, where: str) -> Any:
    """Convert `value` to `kind`, or raise a ConfigError that names `where`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin is typing.Annotated:
        return _read(arguments[0], value, where)
    if origin is Literal:
        # In Python, `True in (1,)` is true, so the types are compared as well.
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        choices = [str(choice) for choice in arguments]
        meant = nearest(str(value), choices) if isinstance(value, str | int) else ""
        raise ConfigError(f"{where}: {_quoted(value)} is unknown{meant}; known: {', '.join(choices)}")
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        return value if isinstance(value, kind) else read_config(kind, value, where)
    if origin in (list, tuple, Sequence) and isinstance(value, (list, tuple)):
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            if len(value) != len(arguments):
                raise ConfigError(f"{where}: expected {len(arguments)} values, found {len(value)}")
            return tuple(_read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
        read = [_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        return read if origin is list else tuple(read)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {_read(arguments[0], k, where): _read(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{where}: {_quoted(value)} is not a finite number")
        return number
    if kind is int and type(value) is int and value.bit_length() > _INTEGER_BITS:
        raise ConfigError(f"{where}: {_quoted(value)} is out of range")
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if kind is None or kind is types.NoneType:
        if value is None:
            return None
    elif kind in (bool, int, str) and type(value) is kind:
        return value
    hint = ""
    if kind is float and isinstance(value, str) and _is_number(value):
        hint = f": YAML reads {value} as text, write {float(value):.1e}"
    raise ConfigError(f"{where}: expected {_name(kind)}, found {_shown(value)}{hint}")


def _read_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in members:
        return None
    real = [member for member in members if member is not types.NoneType]
    errors = []
    for member in real:
        try:
            return _read(member, value, where)
        except ConfigError as error:
            errors.append(error)
    if len(real) == 1:
        raise errors[0]
    raise ConfigError(f"{where}: expected {' or '.join(_name(m) for m in members)}, found {_shown(value)}")


def nearest(word: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` with the most similar known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _name(kind: Any) -> str:
    if kind is types.NoneType:
        return "null"
    return getattr(kind, "__name__", None) or str(kind)


def _quoted(value: object) -> str:
    """The Python notation of a value, shortened because the value can be as large as its file."""
    text = _QUOTE.repr(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."


def _shown(value: object) -> str:
    return f"{type(value).__name__} {_quoted(value)}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shares(config: object, *names: str) -> None:
    """Raise an error for the first of these settings that is not a share."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}: give a share of at least 0 and below 1")


def positive(config: object, *names: str) -> None:
    """Raise an error for the first of these settings that is 0 or less."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} is {getattr(config, name)}: it must be greater than 0")


FINETUNING = TrainConfig()
PRETRAINING = TrainConfig(
    epochs=40, patience=None, keep="last", validate_every=0, loss="in_batch", learning_rate=2.5e-4
)
