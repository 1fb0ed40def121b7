"""What a training logs of its epochs, for whoever waits for it: the logger `mmm4rec`, level INFO.

What it leaves for other programs is elsewhere: the history of `record`, the files of `loggers`.
"""

import logging

from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.printable import duration
from mmm4rec.training.record import Epoch

__all__ = ["EpochLog"]

_LINES = 100
"""Lines of one training at most, about: whoever keeps them, such as Dagster's database, pays for each."""

_log = logging.getLogger("mmm4rec")


class EpochLog:
    """Logs the epochs of one training: loss, validation, and the time left to the last epoch."""

    def __init__(self, model: RecommenderConfig, training: TrainConfig, domain: str) -> None:
        self._of = f"{model.kind} on {domain}"
        self._training = training
        self._every = -(-training.epochs // _LINES)
        self._first: Epoch | None = None

    def __call__(self, epoch: Epoch) -> None:
        """Log an epoch of this run; of very many only some."""
        self._first = self._first or epoch
        if epoch.epoch % self._every and epoch.epoch != self._training.epochs:
            return
        said = [] if epoch.loss is None else [f"loss {epoch.loss:.4f}"]
        if (value := epoch.value(self._training.metric)) is not None:
            said.append(f"validation {self._training.metric} {value:.4f}")
        left, done = self._training.epochs - epoch.epoch, epoch.epoch - self._first.epoch
        if left and done:
            # Patience may end it earlier.
            said.append(f"at most {duration(left * (epoch.seconds - self._first.seconds) / done)} left")
        _log.info("%s: epoch %d of %d: %s", self._of, epoch.epoch, self._training.epochs, ", ".join(said) or "begins")
