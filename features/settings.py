"""What the settings of a domain say about its features: which encoders, and how pictures are fetched.

Only declarations live here, so that settings are read without loading what encodes and fetches.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from features.errors import FeatureError

__all__ = ["TEXT_TOKENS", "EncoderSettings", "Fetching", "Precision", "Zeros", "unread"]

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


@dataclass(frozen=True)
class Fetching:
    """How pictures are fetched from the web.

    Raises:
        FeatureError: a value makes no sense.
    """

    http: bool = True
    """Whether http(s) addresses are asked at all."""
    per_host: int = 4
    """Requests to one host at the same time."""
    concurrency: int = 32
    """Requests at the same time; as many bodies of features.pictures.decode.MAX_BYTES may be in memory."""
    timeout: float = 15.0
    """Seconds to connect, and of silence."""
    total_timeout: float = 60.0
    """Seconds that all requests for one picture may take, redirects and further attempts included."""
    attempts: int = 3
    """Requests for one picture, if what failed may pass: no connection, a timeout, 408, 425, 429, 5xx."""
    wait: float = 1.0
    """Seconds before the second attempt, doubled before each further one, give or take half."""
    longest_wait: float = 60.0
    """Seconds; a server that asks for more by Retry-After is asked again after this."""
    give_up_after: int = 20
    """Attempts in a row that fail in this way until a host is not asked any more in this run."""
    max_redirects: int = 5
    private_addresses: bool = False
    """Whether hosts of an intranet and this machine itself may be asked."""
    user_agent: str = "mmm4rec (fetches pictures of published catalogues)"

    def __post_init__(self) -> None:
        for name in ("per_host", "concurrency", "attempts", "give_up_after"):
            _require(1 <= getattr(self, name) <= 1000, name, getattr(self, name), "a number from 1 to 1000")
        _require(0 <= self.max_redirects <= 100, "max_redirects", self.max_redirects, "a number from 0 to 100")
        for name in ("timeout", "total_timeout"):
            _require(0 < getattr(self, name) <= 86_400, name, getattr(self, name), "seconds, more than 0")
        for name in ("wait", "longest_wait"):
            _require(0 <= getattr(self, name) <= 86_400, name, getattr(self, name), "seconds")
        printable = self.user_agent.isascii() and self.user_agent.isprintable() and bool(self.user_agent.strip())
        _require(printable, "user_agent", self.user_agent, "printable ASCII")


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise FeatureError(f"pictures: {name} is {value!r}; give {what}")
