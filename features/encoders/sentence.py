"""Encoders with sentence-transformers: its CLIP models for texts and pictures, its sentence models for texts."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from features.encoders.base import (
    TRIAL,
    Options,
    TorchEncoder,
    check_vocabulary,
    check_weights,
    image_configuration,
    loading,
    not_encodable,
)
from features.encoders.models import modules_of, unreadable
from features.encoders.preparation import Preparation
from features.encoders.protocol import EncoderFiles, EncoderIdentity


class SentenceTransformersEncoder(TorchEncoder):
    """A model in the layout of sentence-transformers, or a text model that sentence-transformers can open.

    Args:
        folder: folder of the model.
        files: description of its files.
        device, precision, decoding: as in :class:`TorchEncoder`.
        tokens: number of tokens after which a text is cut.

    Raises:
        FeatureError: its files cannot be loaded, or weights or words are missing.
    """

    def __init__(self, folder: Path, files: EncoderFiles, *, tokens: int, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        with loading(folder):
            from sentence_transformers import SentenceTransformer

            # No network, no code from the folder, and float32 whatever the format of the weights file.
            self._model = SentenceTransformer(
                str(folder),
                device=self.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "weights_only": True},
            ).eval()
            for (_, place), module in zip(modules_of(folder), self._model, strict=False):
                _check_loaded(place, module)
        first: Any
        first, *others = self._model
        limit = self._model.max_seq_length
        self._limit = min(limit, tokens) if isinstance(limit, int) else None
        """Number of tokens that are read; None for a model that reads all."""
        if self._limit is not None:
            self._cut_at(self._limit)
        self._processor = getattr(first, "processor", None)
        modules = [type(module).__name__ for module in (getattr(first, "model", first), *others)]
        width = self._model.get_embedding_dimension()
        if not width:
            raise unreadable(folder, "its configuration does not give the width of its vectors")
        self.identity = EncoderIdentity(
            **asdict(files),
            architecture=" > ".join(modules),
            normalised="Normalize" in modules,
            width=width,
        )
        if self._model.supports("text"):
            with loading(folder):
                self._text_vectors(TRIAL)

    def _preparation(self) -> Preparation:
        """The preparation that the model's processor defines."""
        self._check("image")
        return Preparation.of(image_configuration(self._processor))

    def _check(self, modality: Literal["text", "image"]) -> None:
        if not self._model.supports(modality):
            raise not_encodable(self.identity, modality, ", ".join(map(str, self._model.modalities)))

    def _cut_at(self, limit: int) -> None:
        first: Any = self._model[0]
        self._model.max_seq_length = limit
        if hasattr(first, "processing_kwargs"):  # the length saved with a CLIP's tokenizer overrides max_seq_length
            settings = first.processing_kwargs
            first.processing_kwargs = {**settings, "text": {**settings.get("text", {}), "max_length": limit}}

    def _is_cut(self, texts: list[str]) -> Tensor:
        self._check("text")
        if self._limit is None:
            return torch.zeros(len(texts), dtype=torch.bool)
        self._cut_at(self._limit + 1)  # only one token after the limit, because a text may be as long as a book
        try:
            mask: Tensor = self._model.preprocess(texts)["attention_mask"]
        finally:
            self._cut_at(self._limit)
        return mask.sum(dim=1) > self._limit

    def _text_vectors(self, texts: list[str]) -> Tensor:
        self._check("text")
        vectors: Tensor = self._model.encode(
            texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True
        )
        return vectors

    def _image_vectors(self, pixels: Tensor) -> Tensor:
        self._check("image")
        vectors: Tensor = self._model({"pixel_values": pixels, "modality": "image"})["sentence_embedding"]
        return vectors


def _check_loaded(folder: Path, module: Any) -> None:
    """Check that the files of a module have all its weights and words. sentence-transformers does not check this.

    Only modules that are models of transformers are checked.

    Raises:
        FeatureError: weights are missing, or more words than `VOCABULARY` permits.
    """
    from transformers import PreTrainedModel
    from transformers.utils import logging

    model = getattr(module, "model", None)
    if not isinstance(model, PreTrainedModel):
        return
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:  # load it again, because sentence-transformers does not pass on the list of missing weights
        loaded: Any = type(model).from_pretrained(
            folder, config=model.config, dtype=torch.float32, weights_only=True, output_loading_info=True,
            local_files_only=True,
        )  # fmt: skip
    finally:
        logging.set_verbosity(verbosity)
    # Sentence vectors are pooled from the token vectors: a model's own pooler is not used, and often not stored.
    check_weights(folder, {name for name in loaded[1]["missing_keys"] if not name.startswith("pooler.")})
    check_vocabulary(folder, getattr(module, "tokenizer", None), model)
