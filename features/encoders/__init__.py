"""Encoders: content to vectors. The only place in the feature store where torch is imported, and lazily."""

from features.encoders.models import OPEN_CLIP, describe, is_clip, layout_of, model_folder
from features.encoders.probe import check_probe, probe_vectors
from features.encoders.protocol import Encoder, EncoderFiles, EncoderIdentity, EncoderSettings, Vectors, unread
from features.encoders.published import published_files, read_published
from features.encoders.vectors import ReadyVectors
from features.errors import FeatureError

__all__ = [
    "Encoder",
    "EncoderFiles",
    "EncoderIdentity",
    "EncoderSettings",
    "ReadyVectors",
    "Vectors",
    "check_probe",
    "encoder_identity",
    "open_encoder",
    "probe_vectors",
    "unread",
]

_MODELS = ("sentence-transformers", "transformers", "open-clip")


def open_encoder(settings: EncoderSettings, *, device: str = "auto") -> Encoder | ReadyVectors:
    """Open what the settings name: an encoder of content, or vectors looked up by item id.

    Args:
        settings: see :class:`EncoderSettings`.
        device: torch device of a model; "auto" is cuda where there is one, else cpu.

    Raises:
        FeatureError: the model or file cannot be used; the message says what to put where.
    """
    if settings.kind == "published":
        return read_published(*_named(settings), settings.zeros)
    if settings.kind not in _MODELS:
        return _ready_vectors(settings)
    folder = model_folder(settings)
    files, precision = describe(settings, folder), settings.precision
    if layout_of(settings) is OPEN_CLIP:
        from features.encoders.openclip import OpenClipEncoder

        return OpenClipEncoder(folder, files, device=device, precision=precision, tokens=settings.tokens)
    if is_clip(folder):
        from features.encoders.clip import ClipEncoder

        return ClipEncoder(folder, files, device=device, precision=precision, tokens=settings.tokens)
    from features.encoders.sentence import SentenceTransformersEncoder

    return SentenceTransformersEncoder(folder, files, device=device, precision=precision, tokens=settings.tokens)


def encoder_identity(settings: EncoderSettings) -> EncoderFiles:
    """What decides an encoder's vectors, without loading it (and torch): the part of a recipe that it is.

    Equal to the same fields of ``open_encoder(settings).identity``.

    Raises:
        FeatureError: as :func:`open_encoder`.
    """
    if settings.kind == "published":
        return published_files(*_named(settings))
    if settings.kind not in _MODELS:
        return _ready_vectors(settings).identity
    return describe(settings, model_folder(settings))


def _ready_vectors(settings: EncoderSettings) -> ReadyVectors:
    if settings.kind == "none":
        return ReadyVectors.none()
    if settings.kind != "vectors":
        kinds = ", ".join((*_MODELS, "published", "vectors"))
        raise FeatureError(f"no encoder kind {settings.kind!r}; use {kinds} or none")
    return ReadyVectors.read(*_named(settings), settings.zeros)


def _named(settings: EncoderSettings) -> tuple[str, str]:
    """The path and column of ready vectors."""
    if not settings.path or not settings.column:
        what = {"vectors": "(a Parquet file) and `column`", "published": "(a folder) and `column` (text or image)"}
        raise FeatureError(f"encoder kind {settings.kind!r} needs `path` {what[settings.kind]}")
    return settings.path, settings.column
