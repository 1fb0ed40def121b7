"""Work to be disturbed: an extraction by an encoder that gives away how its contents were batched.

Processes run it, so it is a module of its own and no fixture.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.encoders import EncoderIdentity, Vectors
from features.vectors import cache as vector_cache
from features.vectors.cache import VectorCache
from features.vectors.embeddings import ALONE, EmbeddingSummary, Share, embed_images, embed_texts

WIDTH = 8
DEADLY = (1, 2, 3)
"""The colour of a picture that kills who prepares it."""


def average(image: Image.Image) -> NDArray[np.float32]:
    """The picture's colour, [3, 1, 1]."""
    return np.asarray(image.resize((1, 1)), np.float32).transpose(2, 0, 1)


def average_or_die(image: Image.Image) -> NDArray[np.float32]:
    """As above; the deadly colour is the end of this process."""
    if image.getpixel((0, 0)) == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return average(image)


def average_or_linger(image: Image.Image) -> NDArray[np.float32]:
    """As above for the first picture of the palette; whoever prepares another never ends, also when asked to."""
    if image.getpixel((0, 0)) != (0, 0, 77):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    return average(image)


class Telltale:
    """Vectors of numbers that follow from the content, but for the last: it follows from all of the batch.

    So where two runs have the same bytes, they had the same batches.
    """

    device = "cpu"
    identity = EncoderIdentity(
        architecture="telltale",
        model="telltale",
        weights_sha256="",
        preprocessing="",
        precision="float32",
        normalised=False,
        width=WIDTH,
    )

    def __init__(self, pause: float = 0, preparation: Any = average) -> None:
        self.pause = pause
        self.preparation = preparation
        self.contents = 0

    def encode_texts(self, texts: list[str]) -> Vectors:
        return self._encode([text.encode() for text in texts])

    def is_cut(self, texts: list[str]) -> NDArray[np.bool_]:
        return np.zeros(len(texts), np.bool_)

    def encode_images(self, images: list[Image.Image]) -> Vectors:
        return self.encode_prepared([self.preparation(image) for image in images])

    def encode_prepared(self, batch: Any) -> Vectors:
        return self._encode([np.asarray(one).tobytes() for one in batch])

    def encode_batches(self, batches: Iterable[Any]) -> Iterator[Vectors]:
        return map(self.encode_prepared, batches)

    def _encode(self, contents: list[bytes]) -> Vectors:
        time.sleep(self.pause)
        self.contents += len(contents)
        vectors = np.array([list(sha256(content).digest()[:WIDTH]) for content in contents], np.float32)
        vectors[:, -1] = sha256(b"\0".join(contents)).digest()[0]
        return vectors


def embed(
    modality: str,
    source: Path,
    cache: Path,
    out: Path | None,
    pause: float = 0,
    share: Share = ALONE,
    batch_size: int = 4,
    chunk_size: int = 8,
) -> EmbeddingSummary:
    """Extract with small batches and chunks, `pause` seconds a batch."""
    run = embed_texts if modality == "text" else embed_images
    return run(source, Telltale(pause), out, cache=cache, share=share, batch_size=batch_size, chunk_size=chunk_size)


def add(root: Path, contents: list[str], number: float) -> None:
    """Add a part whose vectors are all that number."""
    vectors = np.full((len(contents), WIDTH), number, np.float32)
    VectorCache(root, "text", Telltale.identity).add(contents, vectors)


def compact(root: Path, many: int = 2, large: int = 2**20) -> None:
    """Compact where there are so many parts of less than half of that many bytes."""
    with patch.multiple(vector_cache, _MANY=many, _LARGE=large):  # so that no later test of this process compacts too
        VectorCache(root, "text", Telltale.identity).compact()
