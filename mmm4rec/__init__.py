"""MMM4Rec: multi-modal Mamba for sequential recommendation. The model, its training, evaluation and
checkpoints.

Needs torch, numpy, pyarrow and safetensors; `training.fit` also needs lightning-fabric and imports it when it
starts. Only settings and errors are imported here; the rest by module:

    data        load_domain, merge_domains: Parquet -> DomainData
    model       MMM4Rec; beneath it ssd, gaps, and compat (where published and default mode differ)
    baselines   what it is measured against; recommender: what all models share, registry: which there are
    training    pretrain, fit; resume: the state of an unfinished training
    processes   how a process ends, and those that it has started
    checkpoint  load_model, transfer; exchange: published checkpoints in and out
    metrics     METRICS: what is measured, each declared once
    evaluation  evaluate, recommend, write_metrics
    parity      check: comparison with tensors of the published model
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
