"""Encoders, which turn content into vectors. torch is imported only when it is needed, as when a model is opened."""

import pkgutil
from collections.abc import Mapping
from typing import Final, cast

from features.encoders.models import LAYOUTS, describe, is_clip, model_folder
from features.encoders.probe import check_probe, probe_vectors
from features.encoders.protocol import Encoder, EncoderFiles, EncoderIdentity, Vectors
from features.encoders.published import published_files
from features.encoders.vectors import ReadyVectors
from features.errors import FeatureError
from features.settings import EncoderSettings

__all__ = [
    "Encoder",
    "EncoderFiles",
    "EncoderIdentity",
    "ReadyVectors",
    "Vectors",
    "check_probe",
    "encoder_identity",
    "implementation",
    "open_encoder",
    "probe_vectors",
]

Implementation = str
"""A class or function as `module:name`. `pipelines.planner.code_version` knows a registry by these two annotations."""
Registry = Mapping[str, Implementation]

_READY: Final[Registry] = {
    "published": "features.encoders.published:read_published",
    "vectors": "features.encoders.vectors:ReadyVectors.read",
    "none": "features.encoders.vectors:ReadyVectors.none",
}
"""The function that opens ready vectors, by kind."""


def implementation(settings: EncoderSettings) -> Implementation:
    """The class or function that opens an encoder, as `module:name`. It is imported when the encoder is opened.

    Raises:
        FeatureError: there is no such kind, or the model cannot be used.
    """
    if settings.kind in _READY:
        return _READY[settings.kind]
    if settings.kind not in LAYOUTS:
        kinds = ", ".join((*LAYOUTS, *_READY))
        raise FeatureError(f"there is no encoder kind {settings.kind!r}; use one of {kinds}")
    if settings.kind == "open-clip":
        return "features.encoders.openclip:OpenClipEncoder"
    if is_clip(model_folder(settings)):
        return "features.encoders.clip:ClipEncoder"
    return "features.encoders.sentence:SentenceTransformersEncoder"


def open_encoder(settings: EncoderSettings, *, device: str = "auto") -> Encoder | ReadyVectors:
    """Open what the settings name: a model that encodes content, or ready vectors that are looked up by item id.

    Args:
        settings: see :class:`EncoderSettings`.
        device: torch device of a model; "auto" is cuda if there is a GPU, otherwise cpu.

    Raises:
        FeatureError: the model or file cannot be used; the message says what to put where.
    """
    opens = pkgutil.resolve_name(implementation(settings))
    if settings.kind not in _READY:
        folder = model_folder(settings)
        options = {"precision": settings.precision, "tokens": settings.tokens, "decoding": settings.decoding}
        return cast(Encoder, opens(folder, describe(settings, folder), device=device, **options))
    return cast(ReadyVectors, opens() if settings.kind == "none" else opens(*_named(settings), settings.zeros))


def encoder_identity(settings: EncoderSettings) -> EncoderFiles:
    """What decides an encoder's vectors, found without loading the model. It is the encoder's part of a recipe.

    It equals the same fields of ``open_encoder(settings).identity``.

    Raises:
        FeatureError: as :func:`open_encoder`.
    """
    if settings.kind == "published":
        return published_files(*_named(settings))
    if settings.kind not in _READY:
        return describe(settings, model_folder(settings))
    return cast(ReadyVectors, open_encoder(settings)).identity


def _named(settings: EncoderSettings) -> tuple[str, str]:
    """The path and column of ready vectors."""
    if not settings.path or not settings.column:
        what = {"vectors": "(a Parquet file) and a `column`", "published": "(a folder) and a `column` (text or image)"}
        raise FeatureError(f"encoder kind {settings.kind!r} needs a `path` {what[settings.kind]}")
    return settings.path, settings.column
