"""The loggers of a training. Lightning Fabric writes the training curve to files for other programs."""

import os
from pathlib import Path
from typing import Any

from mmm4rec.config import TrainConfig
from mmm4rec.errors import ModelError


def make_loggers(config: TrainConfig, logs: Path | None) -> list[Any]:
    """The loggers that the settings request, each with its own folder in `logs`. Only the first process has loggers.

    Raises:
        ModelError: no folder is given, or the package of a logger is not installed.
    """
    if not config.loggers or os.environ.get("LOCAL_RANK", "0") != "0":
        return []  # only the first process logs
    if logs is None:
        raise ModelError(f"loggers is {', '.join(config.loggers)} but no folder is given: pass logs (--logs)")
    from lightning_fabric.loggers.csv_logs import CSVLogger
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    loggers: list[Any] = []
    for name in config.loggers:
        folder = logs / name
        # A resumed run logs its past epochs again. With the old files, every epoch would appear twice.
        for old in [*folder.glob("metrics.csv"), *folder.glob("events.out.tfevents.*")]:
            old.unlink(missing_ok=True)
        if name == "csv":
            loggers.append(CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1))
        else:
            try:
                loggers.append(TensorBoardLogger(folder, name="", version=""))
            except ModuleNotFoundError:
                raise ModelError(
                    "the logger 'tensorboard' needs a package that is not installed: pip install "
                    "'mmm4rec[tensorboard]', or set loggers to [csv]"
                ) from None
    return loggers
