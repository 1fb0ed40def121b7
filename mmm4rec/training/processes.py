"""The processes of a training: this process, or a new one for each device; and the devices that `TrainConfig` names.

Each process runs `one_process.train`. `mmm4rec.processes` ends processes.
"""

import os
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessException, start_processes

from mmm4rec.config import TrainConfig
from mmm4rec.errors import ModelError
from mmm4rec.processes import default_signals, end, end_with_parent
from mmm4rec.training.loggers import make_loggers
from mmm4rec.training.loop import Send
from mmm4rec.training.one_process import Arguments, train
from mmm4rec.training.precision import precision_on
from mmm4rec.training.record import TrainSummary

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from lightning_fabric import Fabric


def make_fabric(config: TrainConfig, logs: Path | None) -> "Fabric":
    """Create the devices, precision, strategy and loggers that the settings name.

    Raises:
        ModelError: a device or logger is missing, or Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise ModelError(f"training needs lightning-fabric ({error}): pip install lightning-fabric") from None
    gpus = torch.cuda.device_count()
    devices = config.devices
    if torch.distributed.is_torchelastic_launched():
        if (started := int(os.environ["WORLD_SIZE"])) != devices:
            raise ModelError(f"devices is {devices} but torchrun started {started} processes: set devices to {started}")
        devices = int(os.environ["LOCAL_WORLD_SIZE"])  # those of this machine
        if started % devices:
            raise ModelError(f"{devices} of {started} processes run on this machine: run as many on each machine")
    if config.device == "cuda" and not gpus:
        raise ModelError("device is 'cuda' but no GPU is available: set device to 'auto' or 'cpu'")
    if gpus and config.device != "cpu" and devices > gpus:
        raise ModelError(f"devices is {devices} but there are {gpus} GPUs: set devices to at most {gpus}")
    strategy: Any = "auto"
    if config.devices > 1:
        # No broadcast: the buffers are the features, equal everywhere, and sending them would cost more than the step.
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    precision: Any = precision_on(torch.device("cuda" if gpus and config.device != "cpu" else "cpu"), config)
    return Fabric(
        accelerator=config.device,
        devices=devices,
        num_nodes=config.devices // devices,
        strategy=strategy,
        precision="32-true" if precision == "tf32" else precision,  # Fabric has no name for it
        loggers=make_loggers(config, logs),
    )


def train_here(fabric: "Fabric", arguments: Arguments, send: Send) -> TrainSummary:
    """Run `train` in this process, or in the processes that a cluster has started."""
    summary: TrainSummary = fabric.launch(partial(train, arguments, send))
    return summary


def train_in_new_processes(arguments: Arguments, send: Send) -> TrainSummary:
    """Run `train` in a new process for each device. Each process sends its messages through its own pipe.

    An error in one of them, or in `send`, ends all of them, because the others may wait for a message that never comes.
    """
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    count = arguments.train_config.devices
    pipes = [get_context("spawn").Pipe(duplex=False) for _ in range(count)]
    receivers = [receiver for receiver, _ in pipes]
    senders = [sender for _, sender in pipes]
    results: dict[str, Any] = {}
    failure: ProcessException | None = None

    def receive(ready: Sequence[object]) -> None:
        for receiver in [one for one in receivers if one in ready]:
            try:
                kind, value = receiver.recv()
            except (EOFError, OSError):  # the process has ended, or was killed while it was sending
                receivers.remove(receiver)
                continue
            if kind in ("summary", "error"):
                results.setdefault(kind, value)
            else:
                send(kind, value)

    # Fabric could start the processes itself, but it does not return them, and they must be ended here.
    port = LightningEnvironment().main_port
    started = start_processes(_worker, (arguments, senders, port), count, join=False)  # type: ignore[no-untyped-call]
    try:
        for sender in senders:
            sender.close()  # so that a pipe ends when its process ends
        while not started.join(timeout=0):
            receive(wait([*receivers, *started.sentinels]))
    except ProcessException as error:
        failure = error
    finally:
        end(started.processes)
    while ready := wait(receivers, timeout=0):
        receive(ready)  # the last messages
    cause = results.get("error", failure)
    if cause is not None:
        raise cause
    summary: TrainSummary = results["summary"]
    return summary


def _worker(rank: int, arguments: Arguments, senders: "Sequence[Connection]", port: int) -> None:
    """Run `train` in a process that `train_in_new_processes` started."""
    default_signals()
    end_with_parent()
    sender = senders[rank]

    def send(kind: str, value: Any) -> None:
        sender.send((kind, value))

    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    fabric = make_fabric(arguments.train_config, arguments.logs)
    try:
        summary = train_here(fabric, arguments, send)
    except ModelError as error:
        send("error", error)
        raise  # one process that ends makes the parent end all of them
    if fabric.is_global_zero:
        send("summary", summary)
    fabric.barrier()  # so that no process ends while another still communicates with it
