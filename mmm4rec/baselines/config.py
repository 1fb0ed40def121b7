"""Names and settings of the baselines. The defaults come from their papers or public configurations.

This module needs no tensors, so settings can be checked without building a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Final, Literal

from mmm4rec.config import RecommenderConfig, TrainConfig, nearest, positive, read_config, shares
from mmm4rec.errors import ConfigError

ItemKind = Literal["id", "text", "both"]


@dataclass(frozen=True)
class BaselineConfig(RecommenderConfig):
    """The settings of every trained baseline."""

    hidden: int = 64
    items: ItemKind = "id"
    """The vector of an item: a trainable vector, its adapted text vector, or the sum of both."""

    def __post_init__(self) -> None:
        numbers = [setting.name for setting in fields(self) if setting.name != "items"]
        dropouts = [name for name in numbers if name.startswith("dropout")]
        shares(self, *dropouts)
        positive(self, *(name for name in numbers if name not in dropouts))

    @property
    def item_weights(self) -> tuple[str, ...]:
        """The trainable item vectors."""
        return () if self.items == "text" else ("item",)


@dataclass(frozen=True)
class GRU4RecConfig(BaselineConfig):
    """Defaults of RecBole 1.2, `GRU4Rec.yaml`; the paper (arXiv 1511.06939) has other data and a sampled loss."""

    kind: ClassVar[str] = "GRU4Rec"
    inner: int = 128
    """Width of the recurrent state."""
    dropout: float = 0.3


@dataclass(frozen=True)
class SASRecConfig(BaselineConfig):
    """Defaults of RecBole 1.2, `SASRec.yaml`; the paper (arXiv 1808.09781) has 2 blocks of 1 head, 50 wide."""

    kind: ClassVar[str] = "SASRec"
    layers: int = 2
    heads: int = 2
    inner: int = 256
    dropout_hidden: float = 0.5
    dropout_attention: float = 0.5
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ConfigError(f"heads {self.heads} does not divide hidden {self.hidden}: choose a divisor of it")


@dataclass(frozen=True)
class BSARecConfig(SASRecConfig):
    """Defaults of the public command line (github.com/yehjin-shin/BSARec, `src/utils.py`); arXiv 2312.10325 searches
    alpha in 0.1 .. 0.9 and the cut-off in 1 .. 9 for each domain."""

    kind: ClassVar[str] = "BSARec"
    alpha: float = 0.9
    """The weight of the frequency filter. The weight of attention is 1 - alpha."""
    cutoff: int = 3
    """c: the number of lowest discrete Fourier frequencies that pass the filter unscaled (c odd: the constant
    and (c-1)/2 pairs)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha > 1:
            raise ConfigError(f"alpha is {self.alpha}: give a share of at most 1")
        if self.cutoff > self.length:
            raise ConfigError(f"cutoff is {self.cutoff}: give at most {self.length}, the number of positions")


@dataclass(frozen=True)
class Mamba4RecConfig(BaselineConfig):
    """Defaults of arXiv 2403.03900 and its public `config.yaml`; dropout is the paper's for the Amazon data (MovieLens:
    0.2)."""

    kind: ClassVar[str] = "Mamba4Rec"
    state: int = 32
    """SSM state size S."""
    conv_width: int = 4
    expand: int = 2
    dropout: float = 0.4
    norm_eps: float = 1e-12


@dataclass(frozen=True)
class TiM4RecConfig(BaselineConfig):
    """Defaults of the public configuration for Amazon Beauty (github.com/AlwaysFHao/TiM4Rec,
    `config4beauty_64d.yaml`) of arXiv 2409.16182."""

    kind: ClassVar[str] = "TiM4Rec"
    layers: int = 2
    state: int = 32
    head_width: int = 32
    conv_width: int = 4
    expand: int = 2
    dropout: float = 0.4
    dropout_time: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expand * self.hidden % self.head_width:
            raise ConfigError(
                f"head_width {self.head_width} does not divide expand * hidden = {self.expand * self.hidden}: choose a "
                "divisor of it"
            )


@dataclass(frozen=True)
class UniSRecConfig(SASRecConfig):
    """Defaults of the public `UniSRec.yaml` (github.com/RUCAIBox/UniSRec) of arXiv 2206.05941."""

    kind: ClassVar[str] = "UniSRec"
    hidden: int = 300
    items: ItemKind = "text"
    """`text` is the inductive setting of the paper, `both` is its transductive setting."""
    experts: int = 8
    dropout_adapter: float = 0.2
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items == "id":
            raise ConfigError("items is 'id', but the model adapts texts: choose text or both")


@dataclass(frozen=True)
class ItemKNNConfig:
    """The default of RecBole 1.2, `ItemKNN.yaml`."""

    neighbours: int = 100
    """The number of most similar items that an item supports."""
    length: int = 20
    """The number L of last interactions that are used."""

    def __post_init__(self) -> None:
        positive(self, "neighbours", "length")


@dataclass(frozen=True)
class Published:
    """The published settings of a baseline: its model, and the training settings that differ from fine-tuning."""

    label: str
    """The name for people."""
    config: RecommenderConfig | ItemKNNConfig
    training: Mapping[str, object] = field(default_factory=dict)


STEPS_AN_EPOCH: Final = 16
"""The minimum number of optimiser steps per epoch if the settings do not set batches: that of the smallest published
domain (Scientific, 34,101 training examples) at the largest published batch. So no published batch changes."""


def _adam(examples: int) -> Mapping[str, object]:
    """Learning rate 0.001, no weight decay, and this number of examples per step, in parts that devices can share."""
    batches = {"batch_size": examples // 8, "accumulate": 8, "least_steps": STEPS_AN_EPOCH}
    return {"learning_rate": 1e-3, "weight_decay": 0.0, **batches}


ITEM_KNN: Final = "item_knn"
BASELINES: Final[Mapping[str, Published]] = {
    ITEM_KNN: Published("item-kNN", ItemKNNConfig()),
    "gru4rec": Published("GRU4Rec", GRU4RecConfig(), _adam(2048)),
    "sasrec": Published("SASRec", SASRecConfig(), _adam(2048)),
    "sasrec_text": Published("SASRec, texts", SASRecConfig(items="text"), _adam(2048)),
    "bsarec": Published("BSARec", BSARecConfig(), _adam(256)),
    "mamba4rec": Published("Mamba4Rec", Mamba4RecConfig(), _adam(2048)),
    "mamba4rec_text": Published("Mamba4Rec, texts", Mamba4RecConfig(items="text"), _adam(2048)),
    "tim4rec": Published("TiM4Rec", TiM4RecConfig(), _adam(2048)),
    "tim4rec_text": Published("TiM4Rec, texts", TiM4RecConfig(items="text"), _adam(2048)),
    "unisrec": Published("UniSRec, texts", UniSRecConfig(), _adam(2048)),
    "unisrec_id": Published("UniSRec, texts and ID", UniSRecConfig(items="both"), _adam(2048)),
}
"""Every baseline that can be requested, by name."""


@dataclass(frozen=True)
class BaselineSettings:
    """Changes to the published settings of a baseline."""

    model: dict[str, object] = field(default_factory=dict)
    training: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RequestedBaselines:
    """The requested baselines, with all their settings."""

    trained: dict[str, tuple[RecommenderConfig, TrainConfig]]
    """The model and training settings by name."""
    item_knn: ItemKNNConfig | None


def resolve(
    asked: Mapping[str, BaselineSettings], finetuning: TrainConfig, length: int, where: str = "baselines"
) -> RequestedBaselines:
    """The requested settings over the published settings over those of fine-tuning (training) and `length` (model).

    Requested batches stay as they are. Published batches shrink for small data (STEPS_AN_EPOCH).

    Raises:
        ConfigError: a baseline is unknown or does not have a setting.
    """
    trained: dict[str, tuple[RecommenderConfig, TrainConfig]] = {}
    item_knn = None
    for name, given in asked.items():
        if name not in BASELINES:
            raise ConfigError(
                f"{where}: unknown baseline {name!r}{nearest(name, list(BASELINES))}; known: {', '.join(BASELINES)}"
            )
        published = BASELINES[name]
        base = replace(published.config, length=length)
        config = read_config(type(base), given.model, f"{where}.{name}.model", base)
        if isinstance(config, ItemKNNConfig):
            if given.training:
                raise ConfigError(f"{where}.{name}: it is counted, not trained; leave out its training settings")
            item_knn = config
            continue
        as_asked = {"least_steps": 0} if {"batch_size", "accumulate"} & given.training.keys() else {}
        ours = read_config(TrainConfig, {**published.training, **as_asked}, f"{where}.{name}", finetuning)
        trained[name] = config, read_config(TrainConfig, given.training, f"{where}.{name}.training", ours)
    return RequestedBaselines(trained, item_knn)
