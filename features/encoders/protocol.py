"""The interface of an encoder, and its identity."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.settings import Decoding

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Vectors = NDArray[np.float32]
"""Float32, [n, width]."""

DECODINGS: Final[Mapping[Decoding, str]] = {
    "pillow": "",
    "draft": "; JPEGs decoded at the smallest eighth, quarter, half or whole with twice the input's sides",
    "gpu": "; JPEGs decoded and resized on the GPU",
}
"""What an identity says at the end of `preprocessing` about how JPEGs are decoded."""


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """Everything that decides which vector a content gets, read from files without loading a model."""

    model: str
    weights_sha256: str
    preprocessing: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity(EncoderFiles):
    """What made a vector: the files, and what follows from them. Vectors of one identity are exchangeable."""

    architecture: str
    normalised: bool
    """Whether vectors have length 1."""
    width: int

    def comparable(self, other: "EncoderIdentity") -> bool:
        """Whether vectors of both have meaningful cosines: at most the way in which JPEGs are decoded differs."""
        return _without_decoding(self) == _without_decoding(other)


def _without_decoding(identity: EncoderIdentity) -> EncoderIdentity:
    preprocessing = identity.preprocessing
    for said in filter(None, DECODINGS.values()):
        preprocessing = preprocessing.removesuffix(said)
    return replace(identity, preprocessing=preprocessing)


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
    def preparation(self) -> "Callable[[Image.Image], NDArray[np.float32]]":
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

    def encode_images(self, images: "Sequence[Image.Image]") -> Vectors:
        """Vectors [n, width] of RGB pictures, by `preparation` and :meth:`encode_prepared`.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        ...

    def prepare_image(self, image: "Image.Image") -> NDArray[np.float32]:
        """Pixels [3, height, width] of one picture, by `preparation`."""
        ...

    def encode_prepared(self, batch: "NDArray[np.float32] | Tensor") -> Vectors:
        """Vectors [n, width] of prepared pictures [n, 3, height, width], in one forward pass.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        ...

    def encode_batches(self, batches: "Iterable[NDArray[np.float32] | Tensor]") -> Iterator[Vectors]:
        """The vectors of each batch, in order, as :meth:`encode_prepared` makes them.

        On a GPU, the next batch is already being computed when the vectors of a batch are handed out.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        ...
