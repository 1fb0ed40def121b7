"""The models that the trainer accepts: one for each type of config, under the name that its checkpoints contain.

The registry names models as texts and loads them only when they are created. So one more model, or a change to one,
affects only its users, and listing the models does not load torch.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast

from mmm4rec.config import RecommenderConfig, SSDForm, read_config
from mmm4rec.errors import ModelError

if TYPE_CHECKING:
    from mmm4rec.data.domain import DomainData
    from mmm4rec.data.examples import Split
    from mmm4rec.evaluation.results import Ranking
    from mmm4rec.model.recommender import Recommender

Registry = Mapping[str, str]
"""Implementations as `module:name`. `pipelines.planner.code_version` knows a registry by this annotation."""

MMM4REC: Final = "MMM4Rec"
MODELS: Final[Registry] = {
    MMM4REC: "mmm4rec.model.mmm4rec:MMM4Rec",
    "AblatedMMM4Rec": "mmm4rec.comparison.ablations:AblatedMMM4Rec",
    "GRU4Rec": "mmm4rec.baselines.gru4rec:GRU4Rec",
    "SASRec": "mmm4rec.baselines.sasrec:SASRec",
    "BSARec": "mmm4rec.baselines.bsarec:BSARec",
    "Mamba4Rec": "mmm4rec.baselines.mamba4rec:Mamba4Rec",
    "TiM4Rec": "mmm4rec.baselines.tim4rec:TiM4Rec",
    "UniSRec": "mmm4rec.baselines.unisrec:UniSRec",
}
"""The class of each model, as `module:class`, by the `kind` of its config."""
COUNTED: Final[Registry] = {"item_knn": "mmm4rec.baselines.item_knn:rank"}
"""Baselines that rank without training, by name: `module:function`, called with a domain and a config."""


def model_of(config: RecommenderConfig) -> "type[Recommender]":
    """The model that a config describes."""
    return _load(config.kind)


def make(config: RecommenderConfig, domain: "DomainData", ssd_form: SSDForm = "auto") -> "Recommender":
    """The model for the items of `domain`, with initial weights."""
    return model_of(config)(config, domain, ssd_form)


def config_as_dict(config: RecommenderConfig) -> dict[str, Any]:
    """A config as JSON values, with the kind of its model. MMM4Rec's kind is left out, as in the first checkpoints."""
    return asdict(config) | ({} if config.kind == MMM4REC else {"kind": config.kind})


def config_from_dict(settings: Mapping[str, Any], where: str) -> RecommenderConfig:
    """The inverse of `config_as_dict`.

    Raises:
        ModelError: the kind is unknown; or as `read_config`.
    """
    settings = dict(settings)
    kind = settings.pop("kind", MMM4REC)
    if kind not in MODELS:
        raise ModelError(
            f"{where}: the model kind {kind!r} is unknown; known: {', '.join(MODELS)}; train the model again"
        )
    return read_config(_load(kind).config_type, settings, where)


def count(name: str, domain: "DomainData", config: object) -> "dict[Split, Ranking]":
    """The validation and test rankings of a baseline that counts and is not trained."""
    return cast("dict[Split, Ranking]", pkgutil.resolve_name(COUNTED[name])(domain, config))


def _load(kind: str) -> "type[Recommender]":
    return cast("type[Recommender]", pkgutil.resolve_name(MODELS[kind]))
