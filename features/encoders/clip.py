"""CLIP and SigLIP models in the format of transformers, without another library."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from features.encoders.base import TRIAL, TorchEncoder, check_vocabulary, check_weights, image_configuration, loading
from features.encoders.preparation import Preparation
from features.encoders.protocol import EncoderFiles, EncoderIdentity
from features.settings import Precision


class ClipEncoder(TorchEncoder):
    """A CLIP or SigLIP; its vectors have unit length, as those that its own forward pass compares.

    Args:
        folder: of the model.
        files: what its files are.
        device, precision: as of :class:`TorchEncoder`.
        tokens: where a text is cut.

    Raises:
        FeatureError: its files cannot be loaded, or do not hold every weight.
    """

    def __init__(self, folder: Path, files: EncoderFiles, *, device: str, precision: Precision, tokens: int) -> None:
        super().__init__(device=device, precision=precision)
        with loading(folder):
            from transformers import AutoImageProcessor, AutoModel

            # No network, no code from the folder, float32 whatever the file holds.
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

    @property
    def preparation(self) -> Preparation:
        """As of the model's image processor."""
        return Preparation.of(self._images)

    def _is_cut(self, texts: list[str]) -> Tensor:
        # One more than is read, and no more: a text may be as long as a book.
        tokens = self._tokenizer(texts, truncation=True, max_length=self._tokens + 1)
        return torch.tensor([len(ids) > self._tokens for ids in tokens["input_ids"]])

    def _text_vectors(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts,
            # SigLIP was trained on texts filled up to its length, without a mask.
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
    """The tokenizer that tokenizer.json is, whichever class the configuration names.

    SigLIP's own class needs the sentencepiece package, and where it is installed would be taken silently.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, **local)
