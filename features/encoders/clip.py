"""Encoders over sentence-transformers: CLIP and its kin for texts and pictures, sentence models for texts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from features.encoders.models import TEXT_TOKENS, describe, model_folder
from features.encoders.protocol import EncoderIdentity, Vectors
from features.errors import FeatureError

BATCH = 32
"""Contents in a forward pass."""


class SentenceTransformersEncoder:
    """A sentence-transformers model in float32: a CLIP for texts and pictures, or a text model.

    Args:
        model: hub id, local folder or "sample-clip".
        device: torch device.

    Raises:
        FeatureError: there is no such model, or its files cannot be loaded.
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        folder = model_folder(model)
        files = describe(model, folder)
        self._model = _load(str(folder), device)
        limit = self._model.max_seq_length
        if isinstance(limit, int) and limit > TEXT_TOKENS:
            self._model.max_seq_length = TEXT_TOKENS
        first, *others = self._model
        modules = [type(module).__name__ for module in (getattr(first, "model", first), *others)]
        self.identity = EncoderIdentity(
            **asdict(files),
            architecture=" > ".join(modules),
            normalised="Normalize" in modules,
            width=self._model.get_embedding_dimension(),
        )

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, width]; texts are cut at TEXT_TOKENS or the model's own limit."""
        return self._encode("text", list(texts))

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors [n, width] of RGB pictures."""
        return self._encode("image", list(images))

    def _encode(self, modality: str, contents: list[Any]) -> Vectors:
        if not self._model.supports(modality):
            raise FeatureError(
                f"encoder model {self.identity.model!r} cannot encode {modality}s, only "
                f"{', '.join(map(str, self._model.modalities))}; use a CLIP model such as sample-clip or "
                "clip-ViT-B-32, ready vectors (kind: vectors), or kind: none"
            )
        if not contents:
            return np.empty((0, self.identity.width), np.float32)
        vectors = self._model.encode(contents, batch_size=BATCH, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for loading weights: long work reports through `progress`."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _load(folder: str, device: str) -> Any:
    """The model of a local folder: no network, no code from the folder, float32 whatever the file holds."""
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        with _quiet():
            return SentenceTransformer(
                folder,
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "weights_only": True},
            ).eval()
    except Exception as error:  # any of a dozen libraries' errors
        raise FeatureError(
            f"encoder model in {folder} cannot be loaded: {type(error).__name__}: {error}; "
            "check that its files are complete and fetch it again"
        ) from error
