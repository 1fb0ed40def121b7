"""Makes batches for an encoder: reads pictures from shards, checks, decodes and prepares them, and copies the batches
to the encoder's device.

Decoding and resizing run in worker processes if that is faster (:func:`choose_workers`), otherwise in this process. The
batches are the same in both cases, and come in the requested order. Each picture is read from its place in its shard.
So a run that needs one picture in a hundred reads only these, and the original bytes are not sent between processes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import ProcessError
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.errors import FeatureError
from features.pictures.decode import PictureError, decode
from features.pictures.shards import Place, read_bytes
from warehouse.artifacts.processes import end, end_with_parent
from warehouse.artifacts.threads import available_cores

Preparation = Callable[[Image.Image], NDArray[np.float32]]
"""Turns a picture into the input of a model, [3, H, W]. It has no weights, so it can be sent to a process."""

AHEAD = 2
"""Batches that a worker process prepares ahead."""
_WORTH_PROCESSES = 1024
"""With fewer pictures, starting processes takes longer than they save."""


@dataclass(frozen=True)
class Original:
    """A picture in a shard: its item, the sha256 of its bytes, and the place of its `size` bytes."""

    item_id: str
    sha256: str
    place: Place
    size: int


def choose_workers(pictures: int, device: str, cores: int | None = None) -> tuple[int, str]:
    """The number of worker processes that should decode (0: this process decodes), and the reason for it.

    Args:
        pictures: the number of pictures to decode.
        device: torch's name of the device that encodes them.
        cores: the number of cores of this process; None finds it.
    """
    if cores is None:
        cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if pictures < _WORTH_PROCESSES:
        return 0, f"{pictures} pictures are too few to start processes"
    if device.startswith("cuda"):
        return max(1, cores - 1), f"the GPU encodes, so {cores} cores are free to decode"
    if cores < 8:
        return 0, f"the model computes on the same {cores} cores"
    return cores // 8, f"the model computes on the same {cores} cores, and needs one of eight to decode"


def prepared(
    folder: Path, batches: Sequence[Sequence[Original]], preparation: Preparation, workers: int, device: str = "cpu"
) -> Iterator[Any]:
    """The batches [n, 3, H, W], in their order: arrays or tensors of the CPU, or tensors already on a GPU.

    Args:
        folder: folder of the shards.
        batches: the pictures of each batch; up to :data:`AHEAD` batches per worker are in memory.
        preparation: applied to every decoded picture.
        workers: number of processes; 0 decodes in this process.
        device: the device that the batches are copied to.

    Raises:
        FeatureError: a picture cannot be read or is not the one in the table, or a worker process died.
    """
    cuda = device.startswith("cuda")
    loader = _in_processes(folder, batches, preparation, workers, pin=cuda) if workers else None
    made = loader if loader is not None else (load(folder, batch, preparation) for batch in batches)
    return _on_gpu(made, device) if cuda else iter(made)


def load(folder: Path, batch: Sequence[Original], preparation: Preparation) -> NDArray[np.float32]:
    """One batch, [n, 3, H, W].

    Raises:
        FeatureError: a picture cannot be read or is not the one in the table.
    """
    return np.stack([preparation(_picture(folder, original)) for original in batch])


def _picture(folder: Path, original: Original) -> Image.Image:
    """The decoded picture, after a check that it is the one in the table."""
    try:
        data = read_bytes(folder, original.place, original.size)
    except OSError as error:
        raise FeatureError(
            f"{folder / original.place.shard}: not a readable shard ({error}); rebuild item_images"
        ) from error
    if sha256(data).hexdigest() != original.sha256:
        raise FeatureError(f"{folder}: shards and table disagree at item {original.item_id!r}; rebuild item_images")
    try:
        return decode(data)
    except PictureError as problem:
        raise FeatureError(f"{folder}: picture of {original.item_id!r} is {problem}; rebuild item_images") from problem


@dataclass(frozen=True)
class _Batches:
    """The data set of torch's DataLoader in a worker process; its index is the batch itself."""

    folder: Path
    preparation: Preparation

    def __getitem__(self, batch: Sequence[Original]) -> Any:
        """The batch as a tensor, which is sent in shared memory; or the message of the error."""
        import torch

        try:
            return torch.from_numpy(load(self.folder, batch, self.preparation))
        except FeatureError as error:
            return str(error)


class _Context(ForkServerContext):
    """Starts processes and keeps them in `started`, because the loader asks its processes to end, but kills none."""

    def __init__(self) -> None:
        self.started: list[BaseProcess] = []

    def Process(self, *args: Any, **named: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        self.started.append(super().Process(*args, **named))
        return self.started[-1]


def _begin(worker: int) -> None:
    # torch's own check waits until the parent process changes. This never happens, because the parent is the fork
    # server, which lives as long as its children.
    end_with_parent()


def _same(batch: Any) -> Any:
    return batch


def _in_processes(
    folder: Path, batches: Sequence[Sequence[Original]], preparation: Preparation, workers: int, pin: bool
) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    context = _Context()
    loader: Iterable[Any] = DataLoader(
        _Batches(folder, preparation),  # type: ignore[arg-type]
        sampler=batches,
        batch_size=None,
        collate_fn=_same,
        num_workers=workers,
        prefetch_factor=AHEAD,
        pin_memory=pin,
        # Workers are not forked from this process, because it has the threads of a model.
        multiprocessing_context=context,
        worker_init_fn=_begin,
    )
    try:
        for batch in loader:
            if isinstance(batch, str):
                raise FeatureError(batch)
            yield batch
    # The type of the error depends on what the process was doing: sending a batch, or making one.
    except (RuntimeError, OSError, EOFError, ProcessError) as error:
        raise FeatureError(
            f"a process that decodes pictures died ({error}); if memory ran out (/dev/shm counts, too), give it more "
            "memory or use fewer workers; workers=0 decodes without processes"
        ) from error
    finally:
        end(context.started)


def _on_gpu(batches: Iterable[Any], device: str) -> Iterator[Any]:
    """Copy each batch to the GPU on a separate stream, while the GPU computes on the batch before it."""
    import torch

    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready = None
    for batch in batches:
        pinned = torch.as_tensor(batch)
        pinned = pinned if pinned.is_pinned() else pinned.pin_memory()
        with torch.cuda.stream(copying):
            copied = pinned.to(device, non_blocking=True)
        if ready is not None:
            yield ready
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        copied.record_stream(computing)
        ready = copied
    if ready is not None:
        yield ready
