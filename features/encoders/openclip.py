"""Models of open_clip. The open-clip extra of this package installs open_clip, which needs torchvision."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from features.encoders.base import Options, TorchEncoder, loading
from features.encoders.models import OPEN_CLIP, read_json, unreadable
from features.encoders.preparation import Preparation, scaling
from features.encoders.protocol import EncoderFiles, EncoderIdentity
from features.errors import FeatureError

_FILTERS = {"bicubic": 3, "bilinear": 2}


class OpenClipEncoder(TorchEncoder):
    """A model in a folder with open_clip_config.json and weights. Its vectors have length 1.

    Args:
        folder: folder of the model.
        files: description of its files.
        device, precision, decoding: as in :class:`TorchEncoder`.
        tokens: number of tokens after which a text is cut.

    Raises:
        FeatureError: open_clip is not installed, or the folder's files cannot be loaded.
    """

    def __init__(self, folder: Path, files: EncoderFiles, *, tokens: int, **common: Unpack[Options]) -> None:
        super().__init__(**common)
        self._cut = tokens
        try:
            import open_clip
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision does not fit this torch
            raise FeatureError(
                f"encoder kind 'open-clip' needs open_clip, which cannot be imported ({error}); install it with "
                "`pip install 'mmm4rec[open-clip]'` and a torchvision that fits this torch"
            ) from error
        # Code that a tokenizer brings is never run; open_clip's own tokenizer does not accept the option.
        options = {"trust_remote_code": False} if _text_configuration(folder).get("hf_tokenizer_name") else {}
        name = f"local-dir:{folder}"
        with loading(folder):
            # open_clip loads the first weights file of OPEN_CLIP that exists, as the identity assumes, and requires
            # every weight.
            model = open_clip.create_model(name, require_pretrained=True, weights_only=True, device="cpu")
            self._tokenizer = open_clip.get_tokenizer(name, **options)
        self._model = model.float().eval().to(self.device)
        self._images: dict[str, Any] = model.visual.preprocess_cfg
        with loading(folder):
            width = self._model.encode_text(self._tokens([""])).shape[1]
        self.identity = EncoderIdentity(
            **asdict(files), architecture=f"open_clip {type(model).__name__} > Normalize", normalised=True, width=width
        )

    def _preparation(self) -> Preparation:
        """The preparation that the model's preprocess_cfg defines."""
        size, mode, resample = (self._images[key] for key in ("size", "resize_mode", "interpolation"))
        height, width = (size, size) if isinstance(size, int) else size
        if mode not in ("shortest", "squash") or resample not in _FILTERS or (mode == "shortest" and height != width):
            raise FeatureError(
                f"encoder model {self.identity.model!r} prepares pictures by {mode}, {resample}, {size}, which is not "
                "supported; use a model that resizes by `shortest` or `squash`, bicubic or bilinear"
            )
        return Preparation(
            size=height if mode == "shortest" else (height, width),
            crop=(height, width) if mode == "shortest" else None,
            resample=_FILTERS[resample],
            rounds=True,
            **scaling(1 / 255, self._images["mean"], self._images["std"]),
        )

    def _tokens(self, texts: list[str]) -> Tensor:
        """Token ids [n, the model's own length]: cut, then padded."""
        length = self._model.context_length
        cut = min(self._cut, length)
        tokens: Tensor = self._tokenizer(texts, context_length=cut).to(self.device)
        return torch.nn.functional.pad(tokens, (0, length - cut), value=self._filler)

    @property
    def _filler(self) -> int:
        """The token that pads a text after its end."""
        return getattr(getattr(self._tokenizer, "tokenizer", None), "pad_token_id", None) or 0

    def _is_cut(self, texts: list[str]) -> Tensor:
        # A tokenizer of open_clip does not give the length of a text, and its last token may equal the padding. So the
        # texts are tokenized with one place more: a text is cut if the result differs.
        cut = min(self._cut, self._model.context_length)
        read, longer = (self._tokenizer(texts, context_length=length) for length in (cut, cut + 1))
        differs: Tensor = (longer[:, :cut] != read).any(dim=1) | (longer[:, cut] != self._filler)
        return differs

    def _text_vectors(self, texts: list[str]) -> Tensor:
        vectors: Tensor = self._model.encode_text(self._tokens(texts), normalize=True)
        return vectors

    def _image_vectors(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self._model.encode_image(pixels, normalize=True)
        return vectors


def _text_configuration(folder: Path) -> dict[str, Any]:
    """The configuration of the text tower, after a check that the folder does not depend on another model.

    Raises:
        FeatureError: the configuration would fetch another model, or sets options that are not known here.
    """
    config = read_json(folder / OPEN_CLIP.configuration).get("model_cfg")
    if not isinstance(config, dict) or not all(isinstance(config.get(k), dict) for k in ("text_cfg", "vision_cfg")):
        raise unreadable(folder, f"{OPEN_CLIP.configuration} has no model_cfg with text_cfg and vision_cfg")
    text: dict[str, Any] = config["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    fetches = text.get("hf_model_name") or ":" in str(config["vision_cfg"].get("timm_model_name", ""))
    if fetches or not isinstance(options, dict) or not options.keys() <= {"clean", "strip_sep_token"}:
        raise unreadable(
            folder, f"{OPEN_CLIP.configuration} names another model, or tokenizer options that are not supported"
        )
    return text
