"""Encoders over sentence-transformers: CLIP and its kin for texts and pictures, sentence models for texts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.encoders.models import TEXT_TOKENS, describe, model_folder
from features.encoders.protocol import EncoderIdentity, Vectors
from features.errors import FeatureError
from features.pictures import bounded

BATCH = 32
"""Texts in a forward pass."""


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
        self.device = str(self._model.device)
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
        self._check("text")
        if not texts:
            return np.empty((0, self.identity.width), np.float32)
        vectors = self._model.encode(list(texts), batch_size=BATCH, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors [n, width] of RGB pictures."""
        if not images:
            return np.empty((0, self.identity.width), np.float32)
        preparation = self.preparation
        return self.encode_prepared(np.stack([preparation(image) for image in images]))

    @property
    def preparation(self) -> "_Preparation":
        """Resizes, crops and normalises one RGB picture: [3, H, W]."""
        self._check("image")
        return _Preparation(self._model[0].processor.image_processor)

    def encode_prepared(self, batch: Any) -> Vectors:
        """Vectors [n, width] of prepared pictures: an array or tensor [n, 3, H, W]."""
        import torch

        with torch.inference_mode():
            pixels = torch.as_tensor(batch).to(self.device, non_blocking=True)
            vectors = self._model({"pixel_values": pixels, "modality": "image"})["sentence_embedding"]
        return np.ascontiguousarray(vectors.float().cpu().numpy())

    def _check(self, modality: str) -> None:
        if not self._model.supports(modality):
            raise FeatureError(
                f"encoder model {self.identity.model!r} cannot encode {modality}s, only "
                f"{', '.join(map(str, self._model.modalities))}; use a CLIP model such as sample-clip or "
                "clip-ViT-B-32, ready vectors (kind: vectors), or kind: none"
            )


@dataclass(frozen=True)
class _Preparation:
    """The image half of a processor, which knows nothing of weights."""

    processor: Any

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        pixels: NDArray[np.float32] = self.processor(bounded(image), return_tensors="np")["pixel_values"][0]
        return pixels


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
