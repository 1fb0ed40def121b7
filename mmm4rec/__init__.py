"""Multi-modal Mamba for sequential recommendation: model, training, evaluation.

Needs torch, numpy, pyarrow and safetensors. Training also needs lightning-fabric and imports it when it starts.
This file imports only settings and errors. Import everything else from its module:

    data        load_domain, merge_domains: Parquet -> DomainData; tables: which columns the Parquet files have
    metrics     METRICS: the metrics, each declared once
    model/      MMM4Rec and its parts; recommender: what all models share
    baselines/  models to compare with; registry: the list of models
    training/   fit, pretrain; resume: the state of an unfinished training
    checkpoint  load_model, transfer
    evaluation/ evaluate, recommend, and the metrics of an evaluation
    reports     the tables of reports/metrics and reports/recommendations
    comparison/ comparisons of models with several seeds; ablations
    published/  checkpoints and folders of the published implementation, and parity with its tensors
    __main__    python -m mmm4rec: all of this from exported files
"""

from mmm4rec.config import FINETUNING, PRETRAINING, ModelConfig, TrainConfig, read_config
from mmm4rec.errors import ConfigError, ModelError

__all__ = [
    "FINETUNING",
    "PRETRAINING",
    "ConfigError",
    "ModelConfig",
    "ModelError",
    "TrainConfig",
    "read_config",
]
