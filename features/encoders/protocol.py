"""What an encoder is: its methods and an identity; and the settings that name one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.errors import FeatureError

if TYPE_CHECKING:
    from torch import Tensor

Vectors = NDArray[np.float32]
"""Float32, [n, width]."""

Zeros = Literal["refused", "missing"]
"""What a ready vector of zeros is: an error, or an item that has none."""

TEXT_TOKENS = 64
"""The published recipe's cut of an item's text."""
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, as named in the settings of a domain.

    Ready settings:
        ``EncoderSettings()``: the small CLIP shipped with this package, at home in the sample catalogue.
        ``EncoderSettings(model="clip-ViT-B-32")``: CLIP ViT-B/32, 512 wide, text and pictures.
        ``EncoderSettings(model="google/siglip-base-patch16-224")``: the published one, 768 wide, text and pictures.
        ``EncoderSettings(model="all-MiniLM-L6-v2")``: 384 wide, text only.
        ``EncoderSettings(kind="open-clip", model="laion/CLIP-ViT-B-32-laion2B-s34B-b79K")``: with the extra open-clip.
        ``EncoderSettings(kind="vectors", path="features.parquet", column="text")``: vectors made elsewhere.
        ``EncoderSettings(kind="published", path="processed/Scientific", column="image")``: the published ones.
        ``EncoderSettings(kind="none")``: the modality is missing for every item.
    """

    kind: Literal["sentence-transformers", "transformers", "open-clip", "published", "vectors", "none"] = (
        "sentence-transformers"
    )
    """The first two differ in bare names of the hub only; what a model is, its folder says."""
    model: str = "sample-clip"
    """Of the first three kinds: hub id (a bare name is sentence-transformers' own), local folder or sample-clip."""
    path: str | None = None
    """vectors: Parquet file with an id column (item_id or asin); published: the project's processed folder."""
    column: str | None = None
    """vectors: name of the fixed-size-list column; published: text or image."""
    zeros: Zeros = "refused"
    """vectors, published: what a vector of zeros is."""
    text: Literal["clean", "published"] = "clean"
    """Which form of item_text is encoded."""
    tokens: int = TEXT_TOKENS
    """Where a text is cut; a model with a lower limit cuts at its own. Part of the identity."""
    precision: Precision = "float32"
    """Of a model's forward pass; part of the identity."""
    storage: Literal["float32", "float16"] = "float32"
    """Number format of the vectors in Parquet; they are computed in `precision`."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise FeatureError(f"an encoder's tokens is {self.tokens}: a text is cut at 1 token or more")


_MODEL = {"kind", "model", "text", "tokens", "precision", "storage"}
_READY = {"kind", "path", "column", "zeros", "storage"}
_READ = {
    **dict.fromkeys(("sentence-transformers", "transformers", "open-clip"), _MODEL),
    **dict.fromkeys(("published", "vectors"), _READY),
    "none": {"kind"},
}


def unread(kind: str, names: Iterable[str], modality: Literal["text", "image"]) -> list[str]:
    """Those of the settings `names` that decide nothing for an encoder of this kind and modality."""
    read = _READ.get(kind, _MODEL | _READY) - ({"text", "tokens"} if modality == "image" else set())
    return [name for name in names if name not in read]


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
