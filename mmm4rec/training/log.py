"""The log lines of a training's epochs, for people who wait for it: the logger `mmm4rec`, level INFO.

Output for other programs is elsewhere: the history in `record`, the files in `loggers`.
"""

import logging

from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.printable import duration
from mmm4rec.training.record import Epoch

__all__ = ["EpochLog"]

_LINES = 100
"""About the maximum number of lines per training: each line costs a write, for example to Dagster's database."""

_log = logging.getLogger("mmm4rec")


class EpochLog:
    """Logs the epochs of one training: loss, validation, and the time left until the last epoch."""

    def __init__(self, model: RecommenderConfig, training: TrainConfig, domain: str) -> None:
        self._of = f"{model.kind} on {domain}"
        self._training = training
        self._every = -(-training.epochs // _LINES)
        self._first: Epoch | None = None

    def __call__(self, epoch: Epoch) -> None:
        """Log an epoch of this run. If there are very many epochs, only some are logged."""
        self._first = self._first or epoch
        if epoch.epoch % self._every and epoch.epoch != self._training.epochs:
            return
        said = [] if epoch.loss is None else [f"loss {epoch.loss:.4f}"]
        if (value := epoch.value(self._training.metric)) is not None:
            said.append(f"validation {self._training.metric} {value:.4f}")
        left, done = self._training.epochs - epoch.epoch, epoch.epoch - self._first.epoch
        if left and done:
            # At most, because patience may end the training earlier.
            said.append(f"at most {duration(left * (epoch.seconds - self._first.seconds) / done)} left")
        _log.info("%s: epoch %d of %d: %s", self._of, epoch.epoch, self._training.epochs, ", ".join(said) or "begins")
