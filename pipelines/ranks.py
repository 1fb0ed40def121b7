"""A training whose processes, the ranks, run on the nodes of a Ray cluster.

Ray Train starts the ranks, connects them, and starts all of them again when a process or a node dies. Each rank reads
its data from the artifact store. While they train, Ray Train keeps the state of the training in a folder that all nodes
reach, and gives the last one to all ranks when they start. So no node keeps anything that others need.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from features.cluster import ClusterError, joined
from mmm4rec.errors import ModelError
from warehouse.artifacts.progress import Progress

if TYPE_CHECKING:
    from mmm4rec.training.record import TrainSummary

__all__ = ["Nodes", "Train", "train_on"]

_log = logging.getLogger("mmm4rec")

FAILURES = 100
"""How often the ranks are started again after a process or a node has died."""
STATE_SECONDS = 60.0
"""Seconds between two states that are kept where all nodes find them. A node that dies costs about this much work."""
_EVERY = 1.0
"""Seconds between two messages about the progress."""


class Train(Protocol):
    """A training, as a rank calls it. It is sent to the nodes."""

    def __call__(self, out: Path, **how: Any) -> "TrainSummary":
        """Train and write the model's files into `out`. `how` are arguments of `mmm4rec.training.fit.fit`."""


@dataclass(frozen=True)
class Nodes:
    """Where the ranks of a training run, and where its state is kept."""

    address: str
    """Of the Ray cluster."""
    states: str
    """A folder, or a prefix in a bucket, that all nodes reach."""


def train_on(
    nodes: Nodes,
    train: Train,
    name: str,
    out: Path,
    state: Path,
    *,
    ranks: int,
    device: str = "auto",
    logs: Path | None = None,
    progress: Progress | None = None,
    state_seconds: float = STATE_SECONDS,
) -> "TrainSummary":
    """Run `train` in as many processes, and bring the files that the first one writes into `out`.

    Args:
        nodes: the cluster.
        train: the training.
        name: names the training: one that was stopped continues under the same name.
        out: an empty folder.
        state: a folder for the last good weights of a training that diverged.
        ranks: number of processes: `devices` of the training.
        device: cpu or cuda; auto is cuda if the cluster has a GPU.
        logs: folder for the files of the loggers.
        progress: called with (optimiser steps done, optimiser steps at the maximum number of epochs).
        state_seconds: seconds between two states.

    Raises:
        ModelError: as `fit`.
        ClusterError: no cluster answers, or it failed.
        FeatureError: Ray is not installed.
    """
    with joined(nodes.address), _board(progress) as board:
        from ray.train.v2.api.exceptions import TrainingFailedError

        given = {"train": train, "board": board, "logs": logs is not None, "seconds": state_seconds}
        trainer = _trainer(nodes, name, ranks, device, given)
        try:
            # In a thread, because in the main thread Ray Train would answer SIGINT from now on.
            with ThreadPoolExecutor(1) as thread:
                found = thread.submit(trainer.fit).result().return_value
        except TrainingFailedError as error:
            raise ClusterError(f"the training failed on the Ray cluster: {error}; run it again") from error
    _forget(nodes, name)
    if isinstance(found, _Failed):
        _write(found.last_good, state)
        raise ModelError(found.message.replace(found.folder, str(state)))
    summary, files, logged = found
    _write(files, out)
    if logs is not None:
        _write(logged, logs)
    return summary  # type: ignore[no-any-return]


def _trainer(nodes: Nodes, name: str, ranks: int, device: str, given: dict[str, Any]) -> Any:
    """Ray Train's trainer, which gives `given` to each rank."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    has = ray.cluster_resources()
    gpu = device == "cuda" or (device == "auto" and bool(has.get("GPU")))
    if (there := int(has.get("GPU" if gpu else "CPU", 0))) < ranks:
        _log.warning("%d ranks wait for as many %s; the Ray cluster has %d", ranks, "GPUs" if gpu else "cores", there)
    return TorchTrainer(
        _rank,
        train_loop_config=given,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=gpu, placement_strategy="SPREAD"),
        run_config=RunConfig(
            name=name,
            storage_path=nodes.states,
            failure_config=FailureConfig(max_failures=FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig("WARNING"),
        ),
    )


def _rank(config: dict[str, Any]) -> Any:
    """What each rank does. The first returns the summary and the files.

    An error of the training ends the ranks, because the others may wait for the one that has it. When they are started
    again, all return it, because it would be the same in another try.
    """
    import ray
    import ray.train
    import torch

    from mmm4rec.training.one_process import LAST_GOOD

    board = config["board"]
    if error := ray.get(board.error.remote()):
        return error
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    os.environ["TORCHELASTIC_RUN_ID"] = "ray"  # tells Lightning Fabric that Ray has set the variables of torchrun
    torch.set_num_threads(1)

    def share(saved: Path) -> None:
        ray.train.report({}, ray.train.Checkpoint.from_directory(saved) if first else None)

    with tempfile.TemporaryDirectory() as folder, _telling(board, first):
        state, out, logs = (Path(folder) / name for name in ("state", "out", "logs"))
        out.mkdir()
        if last := ray.train.get_checkpoint():
            last.to_directory(state)
        try:
            summary = config["train"](
                out,
                state=state,
                state_seconds=config["seconds"],
                keep_state=True,
                share=share,
                logs=logs if config["logs"] else None,
                progress=_Progress(board) if first else None,
            )
        except ModelError as error:
            ray.get(board.fail.remote(_Failed(str(error), str(state), _read(state, LAST_GOOD))))
            raise
        return (summary, _read(out), _read(logs)) if first else None


@dataclass(frozen=True)
class _Failed:
    """An error of the training in a rank."""

    message: str
    folder: str
    """The rank's folder of the state, which the message may name."""
    last_good: dict[str, bytes]
    """The last good weights, which the first rank may have written there."""


class _Board:
    """The actor through which ranks tell the process that asked for the training how far they are."""

    def __init__(self) -> None:
        self._told: list[tuple[str, Any]] = []
        self._error: _Failed | None = None

    def tell(self, kind: str, value: Any) -> None:
        """Leave a message: ("progress", (done, total)) or ("log", a line)."""
        self._told.append((kind, value))

    def take(self) -> list[tuple[str, Any]]:
        """The messages since the last call."""
        told, self._told = self._told, []
        return told

    def fail(self, error: _Failed) -> None:
        """Leave the error that ends the training; of several, the one with weights counts."""
        if self._error is None or error.last_good:
            self._error = error

    def error(self) -> _Failed | None:
        """The error that ends the training."""
        return self._error


@contextmanager
def _board(progress: Progress | None) -> Iterator[Any]:
    """A board on this machine, whose messages are passed on here."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
    ended = Event()

    def listen() -> None:
        last = False
        while not last:
            last = ended.wait(_EVERY)
            for kind, value in ray.get(board.take.remote()):
                if kind == "log":
                    _log.info("%s", value)
                elif progress:
                    progress(*value)

    listener = Thread(target=listen, name="training", daemon=True)
    listener.start()
    try:
        yield board
    finally:
        ended.set()
        listener.join()
        ray.kill(board)


@contextmanager
def _telling(board: Any, first: bool) -> Iterator[None]:
    """In the block, the first rank tells what it logs."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            board.tell.remote("log", record.getMessage())

    handler = Handler(logging.INFO)
    if first:
        _log.setLevel(logging.INFO)
        _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)


class _Progress:
    """Tells the progress now and then."""

    def __init__(self, board: Any) -> None:
        self._board, self._told = board, 0.0

    def __call__(self, done: int, total: int) -> None:
        if monotonic() - self._told >= _EVERY or done == total:
            self._told = monotonic()
            self._board.tell.remote("progress", (done, total))


def _forget(nodes: Nodes, name: str) -> None:
    """Remove the state of a training that has ended."""
    from pyarrow import fs

    place, path = fs.FileSystem.from_uri(f"{nodes.states.rstrip('/')}/{name}")
    if place.get_file_info(path).type == fs.FileType.Directory:
        place.delete_dir(path)


def _read(folder: Path, inner: str = ".") -> dict[str, bytes]:
    """The files below `inner` in a folder, by their paths in the folder."""
    files = (file for file in (folder / inner).rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
