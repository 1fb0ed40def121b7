"""The models that the trainer takes: one for each type of config, under the name that its checkpoints say."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from mmm4rec.ablations import AblatedMMM4Rec
from mmm4rec.baselines.bsarec import BSARec
from mmm4rec.baselines.gru4rec import GRU4Rec
from mmm4rec.baselines.mamba4rec import Mamba4Rec
from mmm4rec.baselines.sasrec import SASRec
from mmm4rec.baselines.tim4rec import TiM4Rec
from mmm4rec.baselines.unisrec import UniSRec
from mmm4rec.config import RecommenderConfig, SSDForm, read_config
from mmm4rec.data import DomainData
from mmm4rec.errors import ModelError
from mmm4rec.model import MMM4Rec
from mmm4rec.recommender import Recommender

MODELS: Final[Mapping[str, type[Recommender]]] = {
    model.__name__: model for model in (MMM4Rec, AblatedMMM4Rec, GRU4Rec, SASRec, BSARec, Mamba4Rec, TiM4Rec, UniSRec)
}
"""Each model by its kind."""


def model_of(config: RecommenderConfig) -> type[Recommender]:
    """The model that a config describes."""
    return next(model for model in MODELS.values() if model.config_type is type(config))


def kind_of(config: RecommenderConfig) -> str:
    """The name of that model."""
    return model_of(config).__name__


def make(config: RecommenderConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> Recommender:
    """The model over the catalogue of `domain`, with initial weights."""
    return model_of(config)(config, domain, ssd_form)


def stated(config: RecommenderConfig) -> dict[str, Any]:
    """A config as JSON values, with the kind of its model; MMM4Rec's goes without saying, as it did when alone."""
    kind = kind_of(config)
    return asdict(config) | ({} if kind == MMM4Rec.__name__ else {"kind": kind})


def read_stated(settings: Mapping[str, Any], where: str) -> RecommenderConfig:
    """The inverse of `stated`.

    Raises:
        ModelError: an unknown kind, or as `read_config`.
    """
    settings = dict(settings)
    kind = settings.pop("kind", MMM4Rec.__name__)
    if kind not in MODELS:
        raise ModelError(f"{where}: a {kind!r} is unknown here; known: {', '.join(MODELS)}: train the model again")
    return read_config(MODELS[kind].config_type, settings, where)
