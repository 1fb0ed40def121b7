"""Encodes batches on the nodes of a Ray cluster: tasks read and decode pictures, actors encode.

Ray Data runs it. One task reads and decodes the batches of one shard, one after the other; one actor holds the model,
and encodes one batch after the other. A task waits when its batches are not taken, so few of them are in memory. A
batch is the same as in a single process, and so are its vectors, whichever node computes them. When a process or a node
dies, Ray does again what was lost.

An actor on a GPU has the whole GPU. Without GPUs, an actor and a task share a core: an actor computes with one thread,
so that the vectors do not depend on the nodes. If half of the cores are lost, the rest still has room for all actors.
"""

import logging
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from features.cluster import joined
from features.encoders import Encoder, EncoderIdentity, ReadyVectors, Vectors
from features.encoders.probe import Probe, check_probe, probe_vectors
from features.errors import FeatureError
from features.vectors.loading import Form, Original, Prepare, completed, form_of, load_part

__all__ = ["Cluster", "Open", "Where", "cluster_at"]

Open = Callable[..., Encoder | ReadyVectors]
"""Opens the encoder on the `device` that is given by name. It is sent to the nodes."""
Where = Callable[[str], Path]
"""The path of a file of item_images, by its name; brings the file to this machine if it is elsewhere. It is sent to the
nodes."""

_ERROR = -1
"""The number of a batch that cannot be made; the message is in place of its parts."""
_SHARED = 0.5
"""The part of a core that a task and an actor take."""


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster that this process is connected to."""

    open: Open
    where: Where
    device: str
    """cpu or cuda: where the actors encode."""
    actors: int

    def texts(self, encoder: Encoder, batches: Iterable[list[str]]) -> Iterator[tuple[int, Vectors]]:
        """The vectors [n, width] of each batch of texts, with its number, in any order.

        Args:
            encoder: the same encoder in this process, with which those of the nodes are compared.
            batches: the texts.

        Raises:
            FeatureError: the encoder of a node cannot be opened, or is another one.
        """
        return self._vectors(encoder, [_row(number, texts) for number, texts in enumerate(batches)], None)

    def images(self, encoder: Encoder, batches: Sequence[Sequence[Original]]) -> Iterator[tuple[int, Vectors]]:
        """The vectors [n, width] of each batch of pictures, with its number, in any order. A batch is of one shard.

        Raises:
            FeatureError: as :meth:`texts`; or a picture cannot be read or is not the one in the table.
        """
        prepare = encoder.preparation
        shards = groupby(enumerate(batches), key=lambda numbered: numbered[1][0].place.shard)
        rows = [_row(0, list(numbered)) for _, numbered in shards]
        return self._vectors(encoder, rows, _Decode(self.where, prepare, form_of(prepare, self.device)))

    def _vectors(
        self, encoder: Encoder, rows: list[dict[str, Any]], decode: "_Decode | None"
    ) -> Iterator[tuple[int, Vectors]]:
        """Send the rows through the cluster; each comes out as vectors."""
        import ray.data

        _configure()
        share: dict[str, Any] = {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": _SHARED}
        model = _Encode(self, encoder.identity, probe_vectors(encoder), decode)
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        if decode:
            dataset = dataset.map_batches(decode, batch_size=None, num_cpus=share.get("num_cpus", 1))
        made = dataset.map_batches(
            _Actor,
            fn_constructor_args=(model,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(rows))),
            **share,
        )
        for row in made.iter_rows():
            value = pickle.loads(row["value"])  # noqa: S301 - from our own nodes
            if row["number"] == _ERROR:
                raise FeatureError(value)
            yield int(row["number"]), value


@contextmanager
def cluster_at(address: str | None, open_on: Open, where: Where, device: str = "auto") -> Iterator[Cluster | None]:
    """A connection to the cluster at this address, as in :func:`features.cluster.joined`; without an address, None.

    Args:
        address: address of the cluster.
        open_on: opens the encoder.
        where: finds the files of item_images.
        device: device of the actors; auto is cuda if the cluster has a GPU, else cpu.

    Raises:
        FeatureError: there is no such cluster, or it lacks the device.
    """
    if address is None:
        yield None
        return
    with joined(address):
        import ray

        has, free = ray.cluster_resources(), ray.available_resources()
        if device == "auto":
            device = "cuda" if has.get("GPU") else "cpu"
        if device not in ("cpu", "cuda"):
            raise FeatureError(f"device {device!r}: the nodes of a cluster have cpu or cuda; Ray chooses the GPU")
        if device == "cuda" and not has.get("GPU"):
            raise FeatureError("the Ray cluster has no GPU: use the device auto or cpu")
        # What others use now is left to them: actors that wait for it would keep the place of the tasks.
        yield Cluster(open_on, where, device, max(1, int(free.get("GPU" if device == "cuda" else "CPU", 0))))


@dataclass(frozen=True)
class _Decode:
    """The task that reads and decodes the batches of a shard."""

    where: Where
    prepare: Prepare
    form: Form

    def __call__(self, rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The decoded batches, one by one; the last may be an error."""
        for value in rows["value"]:
            for number, originals in pickle.loads(value):  # noqa: S301 - from our own process
                try:
                    folder = self.where(originals[0].place.shard).parent
                    yield _rows(number, load_part(folder, originals, self.prepare, self.form))
                except FeatureError as error:
                    yield _rows(_ERROR, str(error))
                    return


@dataclass(frozen=True)
class _Encode:
    """How an actor opens the encoder, and what the encoder must be."""

    cluster: Cluster
    identity: EncoderIdentity
    probe: Probe
    decode: _Decode | None

    def opened(self) -> Encoder:
        """The encoder of this node.

        Raises:
            FeatureError: it is not there, or is another one than in the process that asks.
        """
        node = socket.gethostname()
        try:
            encoder = self.cluster.open(device=self.cluster.device)
            if isinstance(encoder, ReadyVectors) or encoder.identity != self.identity:
                raise FeatureError(
                    f"its files of the encoder {self.identity.model!r} are others than here: install the same there"
                )
            check_probe(self.probe, probe_vectors(encoder), self.identity)
        except FeatureError as error:
            raise FeatureError(f"node {node}: {error}") from error
        return encoder


class _Actor:
    """The actor that encodes batches. The model is opened with the first, so that its errors are told as others are."""

    def __init__(self, model: _Encode) -> None:
        import torch

        torch.set_num_threads(1)
        self._model = model

    @cached_property
    def _encoder(self) -> Encoder:
        return self._model.opened()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """The vectors of one batch."""
        number, value = int(rows["number"][0]), rows["value"][0]
        if number == _ERROR:
            return _rows(number, pickle.loads(value))  # noqa: S301 - from our own nodes
        try:
            return _rows(number, self._encoded(pickle.loads(value)))  # noqa: S301
        except FeatureError as error:
            return _rows(_ERROR, str(error))

    def _encoded(self, given: Any) -> Vectors:
        decode = self._model.decode
        if decode is None:
            return self._encoder.encode_texts(given)
        batches = ([part] for part in [given])
        made = completed(batches, decode.prepare, decode.form, self._model.cluster.device)
        return next(self._encoder.encode_batches(made))


def _row(number: int, value: Any) -> dict[str, Any]:
    """A row of Ray's table. The value is pickled here: Ray's tables have no arrays of different shapes without that."""
    return {"number": number, "value": pickle.dumps(value, protocol=5)}


def _rows(number: int, value: Any) -> dict[str, Any]:
    """A table of one row."""
    return {name: np.array([one], object if name == "value" else np.int64) for name, one in _row(number, value).items()}


def _configure() -> None:
    """Ray Data prints nothing, because the caller shows the progress, and each batch travels by itself."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1
