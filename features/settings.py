"""What the settings of a domain say about its features: which encoders, and how pictures are fetched.

This module holds only declarations, so that settings can be read without loading the code that encodes and fetches.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from features.errors import FeatureError

__all__ = ["TEXT_TOKENS", "Decoding", "EncoderSettings", "Fetching", "Precision", "Zeros", "unread"]

Zeros = Literal["refused", "missing"]
"""How a ready vector of zeros is treated: as an error, or as a missing vector."""

TEXT_TOKENS = 64
"""The number of tokens after which the published recipe cuts an item's text."""
Precision = Literal["float32", "bfloat16", "float16"]
Decoding = Literal["pillow", "draft", "gpu"]
"""How JPEGs are decoded: at full size by Pillow, by Pillow at a fraction of a large picture's size, or on the GPU."""


@dataclass(frozen=True)
class EncoderSettings:
    """The encoder of one modality, as named in the settings of a domain.

    Examples:
        ``EncoderSettings()``: the small CLIP shipped with this package; it was trained for the sample catalogue.
        ``EncoderSettings(model="clip-ViT-B-32")``: CLIP ViT-B/32, 512 wide, text and pictures.
        ``EncoderSettings(model="google/siglip-base-patch16-224")``: the published one, 768 wide, text and pictures.
        ``EncoderSettings(model="all-MiniLM-L6-v2")``: 384 wide, text only.
        ``EncoderSettings(kind="open-clip", model="laion/CLIP-ViT-B-32-laion2B-s34B-b79K")``: needs the open-clip extra.
        ``EncoderSettings(kind="vectors", path="features.parquet", column="text")``: vectors made elsewhere.
        ``EncoderSettings(kind="published", path="processed/Scientific", column="image")``: the published vectors.
        ``EncoderSettings(kind="none")``: the modality is missing for every item.
    """

    kind: Literal["sentence-transformers", "transformers", "open-clip", "published", "vectors", "none"] = (
        "sentence-transformers"
    )
    """The first two kinds differ only in hub names without an owner; otherwise the model's folder decides how it is
    opened."""
    model: str = "sample-clip"
    """For the first three kinds: a hub id, a local folder, or sample-clip. With kind sentence-transformers, a hub name
    without an owner is a model of the owner sentence-transformers."""
    path: str | None = None
    """vectors: a Parquet file with an id column (item_id or asin); published: the published project's processed
    folder."""
    column: str | None = None
    """vectors: the name of the fixed-size-list column; published: text or image."""
    zeros: Zeros = "refused"
    """vectors, published: how a vector of zeros is treated."""
    text: Literal["clean", "published"] = "clean"
    """Which form of item_text is encoded."""
    tokens: int = TEXT_TOKENS
    """A text is cut after this many tokens, or at the model's own limit if that is lower. Part of the identity."""
    precision: Precision = "float32"
    """Precision of a model's forward pass. Part of the identity."""
    decoding: Decoding = "pillow"
    """How JPEGs are decoded; other formats are always decoded by Pillow. Part of the identity. To encode pictures, gpu
    needs torchvision and a GPU."""
    storage: Literal["float32", "float16"] = "float32"
    """Number format of the vectors in Parquet; they are computed in `precision`."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise FeatureError(f"an encoder's tokens is {self.tokens}: give 1 or more")

    @property
    def encodes(self) -> bool:
        """Whether a model encodes the contents; otherwise their vectors are looked up."""
        return "model" in _READ[self.kind]


_MODEL = {"kind", "model", "text", "tokens", "precision", "decoding", "storage"}
_READY = {"kind", "path", "column", "zeros", "storage"}
_READ = {
    **dict.fromkeys(("sentence-transformers", "transformers", "open-clip"), _MODEL),
    **dict.fromkeys(("published", "vectors"), _READY),
    "none": {"kind"},
}


def unread(kind: str, names: Iterable[str], modality: Literal["text", "image"]) -> list[str]:
    """Those of the settings `names` that an encoder of this kind and modality does not read."""
    others = {"text", "tokens"} if modality == "image" else {"decoding"}
    read = _READ.get(kind, _MODEL | _READY) - others
    return [name for name in names if name not in read]


@dataclass(frozen=True)
class Fetching:
    """How pictures are fetched from the web.

    Raises:
        FeatureError: a value makes no sense.
    """

    http: bool = True
    """Whether pictures are requested from http(s) addresses at all."""
    per_host: int = 4
    """Most requests to one host at the same time."""
    concurrency: int = 32
    """Most requests at the same time; up to this many bodies of features.pictures.decode.MAX_BYTES are in memory."""
    timeout: float = 15.0
    """Seconds to connect, and seconds without any byte."""
    total_timeout: float = 60.0
    """Seconds that all requests for one picture may take, including redirects and retries."""
    attempts: int = 3
    """Most requests for one picture, if the failure is temporary: no connection, a timeout, 408, 425, 429, 5xx."""
    wait: float = 1.0
    """Seconds before the second attempt, doubled before each further one, and randomly up to half more or less."""
    longest_wait: float = 60.0
    """Seconds. If a server's Retry-After asks for a longer wait, it is asked again after this time."""
    give_up_after: int = 20
    """After this many temporary failures in a row, a host is not asked again in this run."""
    max_redirects: int = 5
    private_addresses: bool = False
    """Whether hosts of an intranet, and this machine itself, may be asked."""
    user_agent: str = "mmm4rec (fetches pictures of published catalogues)"

    def __post_init__(self) -> None:
        for name in ("per_host", "concurrency", "attempts", "give_up_after"):
            _require(1 <= getattr(self, name) <= 1000, name, getattr(self, name), "a number from 1 to 1000")
        _require(0 <= self.max_redirects <= 100, "max_redirects", self.max_redirects, "a number from 0 to 100")
        for name in ("timeout", "total_timeout"):
            _require(0 < getattr(self, name) <= 86_400, name, getattr(self, name), "a number of seconds above 0")
        for name in ("wait", "longest_wait"):
            _require(0 <= getattr(self, name) <= 86_400, name, getattr(self, name), "a number of seconds")
        printable = self.user_agent.isascii() and self.user_agent.isprintable() and bool(self.user_agent.strip())
        _require(printable, "user_agent", self.user_agent, "a text of printable ASCII characters")


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise FeatureError(f"pictures: {name} is {value!r}; give {what}")
