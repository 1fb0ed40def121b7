"""The progress of a training between two optimiser steps, as an object and as the contents of a state folder.

`resume` writes and reads the folder.
"""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmm4rec.errors import ModelError
from mmm4rec.model.recommender import Recommender
from mmm4rec.training.record import Epoch


@dataclass
class TrainingState:
    """Counters, history and best weights of a training. The current weights and the optimiser are elsewhere;
    `to_saved` adds them."""

    optimiser_steps: int = 0
    examples: int = 0
    """Training examples of the epochs in `history`."""
    epoch_steps: int = 0
    """Optimiser steps done of the epoch after the last in `history`."""
    epoch_loss: float = 0.0
    """Sum of the losses of the examples of those steps."""
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    """The epoch whose weights are to be written."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stopped: str = ""
    """Why the training has ended; empty while it continues."""
    training_seconds: float = 0.0
    """Seconds of training, without validation."""
    started: float = field(default_factory=time.perf_counter)
    """When the training would have started if it had run without a break."""
    resumed_at: int | None = None
    """Optimiser steps that earlier runs had done."""

    @property
    def seconds(self) -> float:
        """Wall-clock time so far, including earlier runs."""
        return time.perf_counter() - self.started

    @property
    def written_epoch(self) -> Epoch:
        """`best`, if there is one.

        Raises:
            ModelError: there is none yet.
        """
        if self.best is None:
            raise ModelError("no epoch has been run yet, so there are no weights to write")
        return self.best

    def to_saved(self, model: Recommender, optimiser: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The arguments of `StateFolder.save`."""
        numbers = {
            "epoch": len(self.history),
            "done": self.epoch_steps,
            "steps": self.optimiser_steps,
            "seen": self.examples,
            "total": self.epoch_loss,
            "history": [asdict(epoch) for epoch in self.history],
            "best": None if self.best is None else self.history.index(self.best),
            "stopped": self.stopped,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
        }
        tensors: dict[str, Tensor] = {f"model.{name}": parameter for name, parameter in model.named_parameters()}
        tensors |= {f"kept.{name}": weight for name, weight in self.best_weights.items()}
        for name, parameter in model.named_parameters():
            tensors |= {f"optimiser.{key}.{name}": value for key, value in optimiser.state[parameter].items()}
        return numbers, tensors

    @classmethod
    def from_saved(
        cls, numbers: dict[str, Any], tensors: dict[str, Tensor], model: Recommender, optimiser: Optimizer
    ) -> "TrainingState":
        """The inverse of `to_saved`: fills `model` and `optimiser`, which are on their device."""
        history = [Epoch.from_dict(row) for row in numbers["history"]]
        state = cls(
            optimiser_steps=numbers["steps"],
            examples=numbers["seen"],
            epoch_steps=numbers["done"],
            epoch_loss=numbers["total"],
            history=history,
            best=None if numbers["best"] is None else history[numbers["best"]],
            stopped=numbers["stopped"],
            training_seconds=numbers["training_seconds"],
            started=time.perf_counter() - numbers["seconds"],
            resumed_at=numbers["steps"],
        )
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for key, value in tensors.items():
                kind, name = key.split(".", 1)
                if kind == "model":
                    parameters[name].copy_(value)
                elif kind == "kept":
                    state.best_weights[name] = value.to(parameters[name].device)
                else:
                    # Moments go to the device of their parameter, and so do the counters of a `capturable` optimiser.
                    # Other counters stay on the CPU, as NAdam creates them.
                    slot, name = name.split(".", 1)
                    parameter = parameters[name]
                    moves = value.shape == parameter.shape or optimiser.defaults["capturable"]
                    optimiser.state[parameter][slot] = value.to(parameter.device) if moves else value
        return state
