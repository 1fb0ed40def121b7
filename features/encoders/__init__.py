"""Encoders: content to vectors. The only place in the feature store where torch is imported, and lazily."""

from features.encoders.models import describe, model_folder
from features.encoders.protocol import Encoder, EncoderFiles, EncoderIdentity, EncoderSettings, Vectors
from features.encoders.vectors import ReadyVectors
from features.errors import FeatureError

__all__ = [
    "Encoder",
    "EncoderFiles",
    "EncoderIdentity",
    "EncoderSettings",
    "ReadyVectors",
    "Vectors",
    "encoder_identity",
    "open_encoder",
]


def open_encoder(settings: EncoderSettings, *, device: str = "cpu") -> Encoder | ReadyVectors:
    """Open what the settings name: an encoder of content, or vectors looked up by item id.

    Args:
        settings: see :class:`EncoderSettings`.
        device: torch device of a model.

    Raises:
        FeatureError: the model or file cannot be used; the message says what to put where.
    """
    if settings.kind == "sentence-transformers":
        from features.encoders.clip import SentenceTransformersEncoder

        return SentenceTransformersEncoder(settings.model, device=device)
    return _ready_vectors(settings)


def encoder_identity(settings: EncoderSettings) -> EncoderFiles:
    """What decides an encoder's vectors, without loading it (and torch): the part of a recipe that it is.

    Equal to the same fields of ``open_encoder(settings).identity``.

    Raises:
        FeatureError: as :func:`open_encoder`.
    """
    if settings.kind == "sentence-transformers":
        return describe(settings.model, model_folder(settings.model))
    return _ready_vectors(settings).identity


def _ready_vectors(settings: EncoderSettings) -> ReadyVectors:
    if settings.kind == "none":
        return ReadyVectors.none()
    if settings.kind != "vectors":
        raise FeatureError(f"no encoder kind {settings.kind!r}; use sentence-transformers, vectors or none")
    if not settings.path or not settings.column:
        raise FeatureError("encoder kind 'vectors' needs `path` (a Parquet file) and `column`")
    return ReadyVectors.read(settings.path, settings.column)
