"""Multi-modal Mamba for sequential recommendation: model, training, evaluation.

Needs torch, numpy, pyarrow and safetensors; training also needs lightning-fabric and imports it when it
starts. Only settings and errors are imported here; the rest by module:

    data        load_domain, merge_domains: Parquet -> DomainData; tables: which columns the Parquet files have
    metrics     METRICS: what is measured, each declared once
    model/      MMM4Rec and its parts; recommender: what all models share
    baselines/  what it is measured against; registry: which models there are
    training/   fit, pretrain; resume: the state of an unfinished training
    checkpoint  load_model, transfer
    evaluation/ evaluate, recommend, the tables of a report
    comparison/ models side by side, with several seeds; ablations
    published/  the published implementation's checkpoints and folders, and parity with its tensors
    __main__    python -m mmm4rec: all this from exported files
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
