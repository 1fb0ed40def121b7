"""The training loop of one process: epochs, optimiser steps, validation, early stopping, and saving the state.

`gradient` computes the gradients of a step. `one_process` decides which model is trained and what is written at the
end.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmm4rec.config import TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import TOKENS, Examples, Part
from mmm4rec.devices import on_device
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.ranking import evaluate
from mmm4rec.evaluation.results import Metrics
from mmm4rec.model.recommender import Recommender, StepItems
from mmm4rec.training.gradient import accumulate_on_devices, part_seed
from mmm4rec.training.precision import matrix_products_in, precision_on
from mmm4rec.training.record import Epoch
from mmm4rec.training.recording import RecordedSteps, recorder_for
from mmm4rec.training.resume import StateFolder
from mmm4rec.training.state import TrainingState

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOOK_EVERY = {"cpu": 1, "cuda": 64}
"""Optimiser steps between two looks at the losses. On a GPU, every look waits until the device has done its work."""

Share = Callable[[Path], None]
"""Called in every process with the folder of the state when the first process has saved it."""

Send = Callable[[str, Any], None]
"""Sends a message to the caller of `fit`: ("epoch", `Epoch`) or ("progress", (steps done, steps at the cap))."""


class DivergedError(ModelError):
    """A loss, a score or a weight is not finite."""


class Loop:
    """One training in one process. `state` is its progress so far."""

    def __init__(
        self,
        fabric: "Fabric",
        model: Recommender,
        domain: DomainData,
        config: TrainConfig,
        send: Send,
        state_folder: StateFolder | None = None,
        state_seconds: float = 0.0,
        share: Share | None = None,
    ) -> None:
        """Continue from the state in `state_folder`, if there is one of this training. `share` is that of `fit`.

        Raises:
            ModelError: as `training_examples`.
        """
        self.fabric, self.model, self.domain, self.config = fabric, model, domain, config
        self.send = send if fabric.is_global_zero else _send_nothing
        self.precision = precision_on(fabric.device, config)
        self.examples = training_examples(domain, model.config.length, config)
        self.batches = math.ceil(len(self.examples) / config.batch_size)
        self.steps_per_epoch = math.ceil(self.batches / config.accumulate)
        optimiser = torch.optim.NAdam(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            foreach=True,
            capturable=fabric.device.type == "cuda",
        )
        self.wrapped_model, self.wrapped_optimiser = fabric.setup(model, optimiser)
        self.optimiser = optimiser
        self.examples = self.examples.to(fabric.device)
        self.state_folder, self.state_seconds, self.share = state_folder, state_seconds, share
        saved = state_folder.load() if state_folder else None
        if saved is None:
            self.state = TrainingState()
        else:
            self.state = TrainingState.from_saved(*saved, model, optimiser)
            if fabric.is_global_zero:
                print(f"{domain.name}: continues after {self.state.optimiser_steps} optimiser steps", file=sys.stderr)
        self.saved_at = time.perf_counter()
        self.losses: list[torch.Tensor] = []
        """The sums of the losses of the last optimiser steps, which nobody has looked at yet."""
        recorder = recorder_for(fabric.device) if fabric.world_size == 1 else None
        self.recorded = None
        if recorder is not None:
            self.recorded = RecordedSteps(
                recorder,
                model,
                self._call,
                optimiser,
                self.examples,
                in_batch=config.loss == "in_batch",
                step_items=self._step_items,
            )
        fabric.barrier()  # no process may save before all have read

    def run(self) -> None:
        """Run the remaining epochs, up to the maximum or until patience runs out.

        Raises:
            DivergedError: a loss, score or weight is not finite.
        """
        for epoch in self.state.history:
            self._log(epoch)
        if not self.state.history:
            self._end_epoch(0, None)
        while not self.state.stopped:
            number = self.state.history[-1].epoch + 1
            with matrix_products_in(self.precision):
                loss = self._train_epoch(number)
            self._end_epoch(number, loss)

    def _train_epoch(self, number: int) -> float:
        """Train the rest of an epoch. Return the mean loss of the whole epoch."""
        config, state = self.config, self.state
        started = time.perf_counter()
        self.wrapped_model.train()
        # The in-batch loss compares the examples of a batch, so it needs whole batches.
        tokens = None if config.loss == "in_batch" else on_device(self.fabric.device, TOKENS)
        order = self.examples.steps(
            config.batch_size,
            config.accumulate,
            config.seed * 1_000_003 + number,
            tokens,
            # On several GPUs too, although they record nothing: a part must not depend on the number of devices.
            fixed_shapes=self.recorded is not None or self.fabric.device.type == "cuda",
        )
        for parts in islice(order, state.epoch_steps, None):
            self._step(number, parts)
            state.optimiser_steps += 1
            state.epoch_steps += 1
            if len(self.losses) >= on_device(self.fabric.device, LOOK_EVERY):
                self._look_at_losses()
            done = (number - 1) * self.steps_per_epoch + state.epoch_steps
            self.send("progress", (done, config.epochs * self.steps_per_epoch))
            if state.epoch_steps < self.steps_per_epoch:
                state.training_seconds += time.perf_counter() - started
                self._save_if_due()
                started = time.perf_counter()
        self._look_at_losses()
        mean = state.epoch_loss / len(self.examples)
        state.examples += len(self.examples)
        state.epoch_steps, state.epoch_loss = 0, 0.0
        state.training_seconds += time.perf_counter() - started
        return mean

    def _step(self, epoch: int, parts: list[Part]) -> None:
        """Do one optimiser step."""
        seed_of = partial(part_seed, self.config.seed, epoch, self.state.epoch_steps)
        if self.recorded is not None:
            self.losses.append(self.recorded.step(parts, seed_of).sum())
            return
        losses = accumulate_on_devices(
            self.fabric,
            self.model,
            self.wrapped_model,
            self.examples,
            parts,
            in_batch=self.config.loss == "in_batch",
            seed_of=seed_of,
        )
        self.wrapped_optimiser.step()
        self.wrapped_optimiser.zero_grad(set_to_none=True)
        self.losses.append(losses.sum())

    def _call(self, *arguments: Any) -> torch.Tensor:
        with self.fabric.autocast():
            loss: torch.Tensor = self.model(*arguments)
        return loss

    def _step_items(self) -> StepItems:
        with self.fabric.autocast():
            return self.model.step_items()

    def _look_at_losses(self) -> None:
        """Add the losses of the last optimiser steps to those of the epoch.

        Raises:
            DivergedError: a loss is not finite.
        """
        if not self.losses:
            return
        losses = torch.stack(self.losses).tolist()
        self.losses.clear()
        for step, loss in enumerate(losses, self.state.epoch_steps - len(losses)):
            if not math.isfinite(loss):
                epoch, first = self.state.history[-1].epoch + 1, step * self.config.accumulate + 1
                last = min(first + self.config.accumulate - 1, self.batches)
                raise DivergedError(
                    f"{self.domain.name}: the loss is not finite at epoch {epoch}, batch {first}"
                    f"{f' to {last}' if last > first else ''}; lower learning_rate, or check the features for extreme "
                    "values"
                )
            self.state.epoch_loss += loss

    def _end_epoch(self, number: int, loss: float | None) -> None:
        """Validate if it is due, append to the history, keep the weights if they are the best, and decide whether to
        stop."""
        config, state = self.config, self.state
        due = config.validate_every and (number % config.validate_every == 0 or number == config.epochs)
        validation = self._validate() if due else None
        epoch = Epoch(number, state.optimiser_steps, state.examples, loss, validation, state.seconds)
        if config.keep == "last" or self._is_better(epoch):
            self._keep_weights(epoch)
        state.history.append(epoch)
        self._log(epoch)
        self.send("epoch", epoch)
        if self._patience_is_out():
            state.stopped = f"no better {config.metric} in {config.patience} validations"
        elif number >= config.epochs:
            state.stopped = "epoch cap"
        self._save_if_due()

    def _validate(self) -> Metrics:
        """Validate on the first device and send the result to all, so that every device decides the same."""
        found: Metrics | ModelError | None = None
        if self.fabric.is_global_zero:
            try:
                found = evaluate(self.model, self.domain, "validation")
            except ModelError as error:
                found = error
        found = self.fabric.broadcast(found)
        if not isinstance(found, Metrics):
            raise DivergedError(f"{self.domain.name}: epoch {len(self.state.history)}: {found}")
        return found

    def _is_better(self, epoch: Epoch) -> bool:
        """Whether a validated epoch is better than the best so far."""
        value = epoch.value(self.config.metric)
        best = None if self.state.best is None else self.state.best.value(self.config.metric)
        return value is not None and (best is None or value > best)

    def _keep_weights(self, epoch: Epoch) -> None:
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).tolist()
        if not all(finite):
            wrong = sorted(name for name, good in zip(weights, finite, strict=True) if not good)
            raise DivergedError(
                f"{self.domain.name}: {wrong[0]} is not finite after epoch {epoch.epoch}; lower learning_rate"
            )
        self.state.best, self.state.best_weights = epoch, weights

    def _patience_is_out(self) -> bool:
        values = [epoch.value(self.config.metric) for epoch in self.state.history]
        validated = [value for value in values if value is not None]
        if self.config.patience is None or not validated:
            return False
        return len(validated) - 1 - validated.index(max(validated)) >= self.config.patience

    def _log(self, epoch: Epoch) -> None:
        values = {name: value for name, value in epoch.row().items() if name != "epoch" and value is not None}
        if self.config.loggers:
            self.fabric.log_dict(values, step=epoch.epoch)

    def _save_if_due(self) -> None:
        if self.state_folder is None or not self._is_save_due():
            return
        if self.fabric.is_global_zero:
            self._look_at_losses()  # the saved state contains them
            self.state_folder.save(*self.state.to_saved(self.model, self.optimiser))
        if self.share:
            self.share(self.state_folder.folder)
        self.saved_at = time.perf_counter()

    def _is_save_due(self) -> bool:
        """Whether the first process saves now. The others only have to know if they share the state."""
        due = time.perf_counter() - self.saved_at >= self.state_seconds
        if self.share is None:
            return due and self.fabric.is_global_zero
        # Telling the others makes them wait for the device, as looking at the losses does, so both are done together.
        return not self.losses and bool(self.fabric.broadcast(due))


def training_examples(domain: DomainData, length: int, config: TrainConfig) -> Examples:
    """The examples to train on.

    Raises:
        ModelError: there are no examples, too few for the loss, or none for validation.
    """
    examples = domain.examples("training", length)
    if not len(examples):
        raise ModelError(
            f"{domain.name}: there is no training example; users need 4 interactions: lower k, or give more data"
        )
    if config.validate_every and not len(domain.examples("validation", length)):
        raise ModelError(
            f"{domain.name}: the validation set is empty; users need 3 interactions: lower k, or do not validate"
        )
    if len(examples) == 1 and config.loss == "in_batch":
        raise ModelError(f"{domain.name}: one training example has no in-batch negatives; set loss to 'full'")
    return examples


def _send_nothing(kind: str, value: Any) -> None:
    """The `Send` function of every device except the first."""
