"""What an encoder is: its methods and an identity; and the settings that name one."""

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
    """All that decides what vector a content gets, read from files without loading a model."""

    model: str
    weights_sha256: str
    preprocessing: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity(EncoderFiles):
    """What made a vector, with what follows from the files; equal identities give comparable vectors."""

    architecture: str
    normalised: bool
    """Whether vectors have length 1."""
    width: int


class Encoder(Protocol):
    """Turns content into vectors; the order of the answer is the order of the question."""

    @property
    def identity(self) -> EncoderIdentity:
        """What made the vectors."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: cpu, or cuda with or without a number."""
        ...

    @property
    def preparation(self) -> Callable[[Image.Image], NDArray[np.float32]]:
        """What makes one RGB picture into pixels [3, height, width]; without weights, to be sent to processes.

        Raises:
            FeatureError: the encoder cannot see pictures.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, width] of texts; what exceeds the token limit is cut.

        Raises:
            FeatureError: the encoder cannot read text.
        """
        ...

    def is_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Of texts [n], whether each exceeds the token limit, so that its end has no part in its vector.

        Raises:
            FeatureError: the encoder cannot read text.
        """
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors [n, width] of RGB pictures: those of :meth:`encode_prepared` over their preparations.

        Raises:
            FeatureError: the encoder cannot see pictures.
        """
        ...

    def prepare_image(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels [3, height, width] of one picture, by `preparation`."""
        ...

    def encode_prepared(self, batch: "NDArray[np.float32] | Tensor") -> Vectors:
        """Vectors [n, width] of prepared pictures [n, 3, height, width], in one forward pass.

        Raises:
            FeatureError: the encoder cannot see pictures.
        """
        ...
