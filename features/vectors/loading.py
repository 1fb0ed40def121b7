"""Makes batches for an encoder: reads pictures from shards, checks, decodes and prepares them, and copies the batches
to the encoder's device.

Decoding and resizing run in worker processes if that is faster (:func:`choose_workers`), otherwise in this process. A
process makes a part of a batch at a time. The batches are the same in all cases, and come in the requested order. Each
picture is read from its place in its shard. So a run that needs one picture in a hundred reads only these. The original
bytes are sent between processes only if a GPU decodes them.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from multiprocessing import ProcessError
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.encoders.preparation import Preparation
from features.errors import FeatureError
from features.pictures.baseline import plain_area
from features.pictures.decode import PictureError, decode
from features.pictures.shards import Place, read_bytes
from warehouse.artifacts.processes import end, end_with_parent
from warehouse.artifacts.threads import available_cores

Prepare = Callable[[Image.Image], NDArray[np.float32]]
"""Turns a picture into the input of a model, [3, H, W]. It has no weights, so it can be sent to a process."""
Form = Literal["floats", "bytes", "undecoded"]
"""What is made of a batch: float32 [n, 3, H, W]; the same before it is scaled, in a quarter of the memory; or
:class:`Undecoded`."""

Batches = Generator[list[Any], None, None]
"""Batches, each as its parts in some form."""

PART = 32
"""Pictures that a worker process prepares at a time. With small parts, all processes work until the end."""
AHEAD = 4
"""Parts that a worker process prepares ahead."""
_WORTH_PROCESSES = 1024
"""With fewer pictures, starting processes takes longer than they save."""


@dataclass(frozen=True)
class Original:
    """A picture in a shard: its item, the sha256 of its bytes, and the place of its `size` bytes."""

    item_id: str
    sha256: str
    place: Place
    size: int


class Undecoded(NamedTuple):
    """A part of a batch whose plain JPEGs are only read and checked; the other pictures are prepared."""

    pictures: int
    """How many pictures the part has."""
    data: Any
    """The bytes of all plain JPEGs, one after the other: an array or a tensor."""
    sizes: list[int]
    """The number of bytes of each plain JPEG."""
    areas: list[int]
    """The number of pixels of each plain JPEG."""
    other_rows: list[int]
    """The places of the other pictures in the part."""
    others: Any
    """The other pictures [m, 3, H, W], in bytes; None if there are none."""

    def jpegs(self) -> Iterator[tuple[int, Any, int]]:
        """The place in the part, the bytes and the number of pixels of each plain JPEG."""
        others, start = set(self.other_rows), 0
        rows = (row for row in range(self.pictures) if row not in others)
        for row, size, area in zip(rows, self.sizes, self.areas, strict=True):
            yield row, self.data[start : start + size], area
            start += size


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


def check_decoding(prepare: Prepare, device: str) -> None:
    """Refuse a preparation by a GPU on another device.

    Raises:
        FeatureError: the message says what to do.
    """
    if isinstance(prepare, Preparation) and prepare.decoding == "gpu" and not device.startswith("cuda"):
        raise FeatureError(
            f"decoding: gpu needs a GPU, but the encoder runs on {device}; encode the pictures on a machine with one "
            "(python -m features.extraction), or use decoding: pillow or draft, which make other vectors"
        )


def prepared(
    folder: Path, batches: Sequence[Sequence[Original]], prepare: Prepare, workers: int, device: str = "cpu"
) -> Iterator[Any]:
    """The batches [n, 3, H, W], in their order: arrays or tensors of the CPU, or tensors already on a GPU.

    Args:
        folder: folder of the shards.
        batches: the pictures of each batch; up to :data:`AHEAD` parts per worker are in memory.
        prepare: applied to every decoded picture. A :class:`Preparation` also says how JPEGs are decoded.
        workers: number of processes; 0 decodes in this process.
        device: the device that the batches are copied to, and that decodes if the preparation says gpu.

    Raises:
        FeatureError: a picture cannot be read or is not the one in the table, a worker process died, or the device
            cannot decode.
    """
    form = form_of(prepare, device)
    size = PART if workers else max(map(len, batches), default=1)
    parts = [[batch[start : start + size] for start in range(0, len(batch), size)] for batch in batches]
    flat = [part for batch in parts for part in batch]
    pin = device.startswith("cuda") and form != "undecoded"
    made = (
        _in_processes(folder, flat, prepare, form, workers, pin=pin)
        if workers
        else (load_part(folder, part, prepare, form) for part in flat)
    )
    return completed(_together(made, [len(batch) for batch in parts]), prepare, form, device)


def form_of(prepare: Prepare, device: str) -> Form:
    """The form in which pictures go to a device."""
    if not isinstance(prepare, Preparation):
        return "floats"
    if prepare.decoding == "gpu":
        return "undecoded"
    return "bytes" if device.startswith("cuda") else "floats"


def completed(batches: Batches, prepare: Prepare, form: Form, device: str) -> Iterator[Any]:
    """Each batch, whose parts have the form of :func:`form_of`, as the encoder takes it: [n, 3, H, W].

    Raises:
        FeatureError: the device cannot decode.
    """
    if form == "floats" and not device.startswith("cuda"):
        return _joined(batches)
    from features.vectors import gpu

    if isinstance(prepare, Preparation) and form == "undecoded":
        return gpu.decoded(batches, prepare, device)
    return gpu.copied(batches, prepare, device)


def _together(parts: Generator[Any, None, None], counts: Sequence[int]) -> Batches:
    """The parts of each batch; `counts` says how many it has."""
    with closing(parts):
        for count in counts:
            yield list(islice(parts, count))


def _joined(batches: Batches) -> Iterator[Any]:
    """Each batch as one array or tensor."""
    with closing(batches):
        for parts in batches:
            if len(parts) == 1:
                yield parts[0]
            else:
                import torch

                yield torch.cat(parts)


def load(folder: Path, batch: Sequence[Original], prepare: Prepare) -> NDArray[np.float32]:
    """One batch, [n, 3, H, W].

    Raises:
        FeatureError: a picture cannot be read or is not the one in the table.
    """
    least = prepare.least if isinstance(prepare, Preparation) else None
    return np.stack([prepare(_picture(folder, original, _read(folder, original), least)) for original in batch])


def load_part(folder: Path, part: Sequence[Original], prepare: Any, form: Form) -> Any:
    """A part of a batch in some form, from the shards in a folder.

    Raises:
        FeatureError: a picture cannot be read or is not the one in the table.
    """
    if form == "floats":
        return load(folder, part, prepare)
    if form == "bytes":
        read = ((original, _read(folder, original)) for original in part)
        return np.stack([prepare.pixels(_picture(folder, *one, prepare.least)) for one in read])
    return _undecoded(folder, part, prepare)


def _undecoded(folder: Path, part: Sequence[Original], preparation: Preparation) -> Undecoded:
    plain: list[bytes] = []
    areas: list[int] = []
    others: dict[int, NDArray[np.uint8]] = {}
    for row, original in enumerate(part):
        data = _read(folder, original)
        with _blaming(folder, original):
            area = plain_area(data)
        if area is None:
            others[row] = preparation.pixels(_picture(folder, original, data, None))
        else:
            plain.append(data)
            areas.append(area)
    flat = np.frombuffer(bytearray().join(plain), np.uint8)  # a bytearray, because torch wants to be able to write
    pixels = np.stack(list(others.values())) if others else None
    return Undecoded(len(part), flat, [len(data) for data in plain], areas, list(others), pixels)


def _read(folder: Path, original: Original) -> bytes:
    """The bytes of a picture, after a check that it is the one in the table."""
    try:
        data = read_bytes(folder, original.place, original.size)
    except OSError as error:
        raise FeatureError(
            f"{folder / original.place.shard}: not a readable shard ({error}); rebuild item_images"
        ) from error
    if sha256(data).hexdigest() != original.sha256:
        raise FeatureError(f"{folder}: shards and table disagree at item {original.item_id!r}; rebuild item_images")
    return data


def _picture(folder: Path, original: Original, data: bytes, least: int | None) -> Image.Image:
    with _blaming(folder, original):
        return decode(data, least)


@contextmanager
def _blaming(folder: Path, original: Original) -> Iterator[None]:
    """Turns the error of a picture into one that names its item."""
    try:
        yield
    except PictureError as problem:
        raise FeatureError(f"{folder}: picture of {original.item_id!r} is {problem}; rebuild item_images") from problem


@dataclass(frozen=True)
class _Parts:
    """The data set of torch's DataLoader in a worker process; its index is the part of a batch itself."""

    folder: Path
    prepare: Prepare
    form: Form

    def __getitem__(self, part: Sequence[Original]) -> Any:
        """The part with tensors, which are sent in shared memory; or the message of the error."""
        import torch

        try:
            made = load_part(self.folder, part, self.prepare, self.form)
        except FeatureError as error:
            return str(error)
        if isinstance(made, Undecoded):
            others = None if made.others is None else torch.from_numpy(made.others)
            return made._replace(data=torch.from_numpy(made.data), others=others)
        return torch.from_numpy(made)


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


def _same(part: Any) -> Any:
    return part


def _in_processes(
    folder: Path, parts: Sequence[Sequence[Original]], prepare: Prepare, form: Form, workers: int, pin: bool
) -> Generator[Any, None, None]:
    from torch.utils.data import DataLoader

    context = _Context()
    # The server of the forks imports torch once for all; this has no effect if it runs already.
    context.set_forkserver_preload(["__main__", "torch.utils.data", __name__])
    loader: Iterable[Any] = DataLoader(
        _Parts(folder, prepare, form),  # type: ignore[arg-type]
        sampler=parts,
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
        for part in loader:
            if isinstance(part, str):
                raise FeatureError(part)
            yield part
    # The type of the error depends on what the process was doing: sending a batch, or making one.
    except (RuntimeError, OSError, EOFError, ProcessError) as error:
        raise FeatureError(
            f"a process that decodes pictures died ({error}); if memory ran out (/dev/shm counts, too), give it more "
            "memory or use fewer workers; workers=0 decodes without processes"
        ) from error
    finally:
        end(context.started)
