"""The interface of an encoder, and its identity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Vectors = NDArray[np.float32]
"""Float32, [n, width]."""


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """Everything that decides which vector a content gets, read from files without loading a model."""

    model: str
    weights_sha256: str
    preprocessing: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity(EncoderFiles):
    """What made a vector: the files, and what follows from them. Vectors are comparable if their identities are
    equal."""

    architecture: str
    normalised: bool
    """Whether vectors have length 1."""
    width: int


class Encoder(Protocol):
    """Turns contents into vectors; the vectors are in the order of the contents."""

    @property
    def identity(self) -> EncoderIdentity:
        """What made the vectors."""
        ...

    @property
    def device(self) -> str:
        """The device that it computes on: cpu, or cuda with or without a number."""
        ...

    @property
    def preparation(self) -> Callable[[Image.Image], NDArray[np.float32]]:
        """Turns one RGB picture into pixels [3, height, width]. It has no weights, so it can be sent to processes.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, width] of texts; texts are cut at the token limit.

        Raises:
            FeatureError: the encoder cannot encode text.
        """
        ...

    def is_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """[n] whether each text exceeds the token limit, so that its end does not count in its vector.

        Raises:
            FeatureError: the encoder cannot encode text.
        """
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors [n, width] of RGB pictures, by `preparation` and :meth:`encode_prepared`.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        ...

    def prepare_image(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels [3, height, width] of one picture, by `preparation`."""
        ...

    def encode_prepared(self, batch: "NDArray[np.float32] | Tensor") -> Vectors:
        """Vectors [n, width] of prepared pictures [n, 3, height, width], in one forward pass.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        ...
