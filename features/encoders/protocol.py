"""What an encoder is: two methods and an identity; and the settings that name one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Vectors = NDArray[np.float32]
"""Float32, [n, width]."""


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, as named in the settings of a domain.

    Ready settings:
        ``EncoderSettings()``: the small CLIP shipped with this package, at home in the sample catalogue.
        ``EncoderSettings(model="clip-ViT-B-32")``: CLIP ViT-B/32, 512 wide, text and pictures.
        ``EncoderSettings(model="all-MiniLM-L6-v2")``: 384 wide, text only.
        ``EncoderSettings(kind="vectors", path="features.parquet", column="text")``: vectors made elsewhere.
        ``EncoderSettings(kind="none")``: the modality is missing for every item.
    """

    kind: Literal["sentence-transformers", "vectors", "none"] = "sentence-transformers"
    model: str = "sample-clip"
    """sentence-transformers: hub id (a bare name is that library's own), local folder or sample-clip."""
    path: str | None = None
    """vectors: Parquet file with an id column (item_id or asin)."""
    column: str | None = None
    """vectors: name of its fixed-size-list column."""
    text: Literal["clean", "published"] = "clean"
    """Which form of item_text is encoded."""
    storage: Literal["float32", "float16"] = "float32"
    """Number format of the vectors in Parquet; they are computed in `precision`."""


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
        """torch's name of the device that encodes: cpu, cuda, cuda:1 ..."""
        ...

    @property
    def preparation(self) -> Callable[[Image.Image], NDArray[np.float32]]:
        """Resizes, crops and normalises one RGB picture: [3, H, W]. Without weights, so that it pickles small.

        Raises:
            FeatureError: the encoder cannot see pictures.
        """
        ...

    def encode_prepared(self, batch: Any) -> Vectors:
        """Vectors [n, width] of prepared pictures: an array or tensor [n, 3, H, W], on any device."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, width] of texts; what exceeds the token limit is cut.

        Raises:
            FeatureError: the encoder cannot read text.
        """
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors [n, width] of RGB pictures: prepared, stacked, encoded.

        Raises:
            FeatureError: the encoder cannot see pictures.
        """
        ...
