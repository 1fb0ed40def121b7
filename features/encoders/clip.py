"""CLIP and SigLIP models in the format of transformers; they need no other library."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

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
)
from features.encoders.preparation import Preparation
from features.encoders.protocol import EncoderFiles, EncoderIdentity


class ClipEncoder(TorchEncoder):
    """A CLIP or SigLIP model. Its vectors have length 1, like those that the model's own forward pass compares.

    Args:
        folder: folder of the model.
        files: description of its files.
        device, precision, decoding: as in :class:`TorchEncoder`.
        tokens: number of tokens after which a text is cut.

    Raises:
        FeatureError: its files cannot be loaded, or weights are missing.
    """

    def __init__(self, folder: Path, files: EncoderFiles, *, tokens: int, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        with loading(folder):
            from transformers import AutoImageProcessor, AutoModel

            # No network, no code from the folder, and float32 whatever the format of the weights file.
            local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            model, found = AutoModel.from_pretrained(
                folder, dtype=torch.float32, weights_only=True, output_loading_info=True, **local
            )
            self._tokenizer = _tokenizer(folder, local)
            images = AutoImageProcessor.from_pretrained(folder, **local)  # type: ignore[no-untyped-call]
        check_weights(folder, found["missing_keys"])
        check_vocabulary(folder, self._tokenizer, model)
        self._model = model.eval().to(self.device)
        self._images = image_configuration(images)
        config = model.config
        self._siglip = config.model_type == "siglip"
        self._tokens = min(tokens, config.text_config.max_position_embeddings)
        self.identity = EncoderIdentity(
            **asdict(files),
            architecture=f"{type(model).__name__} > Normalize",
            normalised=True,
            width=config.vision_config.hidden_size if self._siglip else config.projection_dim,
        )
        with loading(folder):
            self._text_vectors(TRIAL)

    def _preparation(self) -> Preparation:
        """The preparation that the model's image processor defines."""
        return Preparation.of(self._images)

    def _is_cut(self, texts: list[str]) -> Tensor:
        # The tokenizer stops one token after the limit, because a text may be as long as a book.
        tokens = self._tokenizer(texts, truncation=True, max_length=self._tokens + 1)
        return torch.tensor([len(ids) > self._tokens for ids in tokens["input_ids"]])

    def _text_vectors(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts,
            # SigLIP was trained on texts that are padded to its full length, without a mask.
            padding="max_length" if self._siglip else True,
            truncation=True,
            max_length=self._tokens,
            return_tensors="pt",
        ).to(self.device)
        mask = None if self._siglip else tokens["attention_mask"]
        return _unit(self._model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask))

    def _image_vectors(self, pixels: Tensor) -> Tensor:
        return _unit(self._model.get_image_features(pixel_values=pixels))


def _unit(output: Any) -> Tensor:
    return torch.nn.functional.normalize(output.pooler_output, dim=-1)


def _tokenizer(folder: Path, local: dict[str, Any]) -> Any:
    """The tokenizer in tokenizer.json, whatever class the configuration names.

    SigLIP's own class needs the sentencepiece package, and would be used silently if that is installed.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, **local)
