"""The common part of encoders with a torch model: device, precision of the forward pass, batches and their order."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from features.encoders.models import unreadable
from features.encoders.preparation import Preparation
from features.encoders.protocol import EncoderIdentity, Vectors
from features.errors import FeatureError
from features.settings import Precision

VOCABULARY = 0.9
"""Least share of a model's words that its tokenizer knows; models round up their number, to a multiple of 64 or so."""

TRIAL = ["a mug", "a mug and a lamp"]
"""Encoded when a model is opened: what is missing of a tokenizer's settings shows at the first padding only."""


class TorchEncoder:
    """An encoder whose subclass sets `identity` and says what its model makes of texts and of pixels.

    Args:
        device: torch device; "auto" is cuda where there is one, else cpu.
        precision: of the forward pass (autocast); weights stay in float32, and vectors come out in it.

    Raises:
        FeatureError: there is no such device.
    """

    identity: EncoderIdentity

    def __init__(self, *, device: str, precision: Precision) -> None:
        cuda = torch.cuda.is_available()
        self.device = ("cuda" if cuda else "cpu") if device == "auto" else device
        if self.device.startswith("cuda") and not cuda:
            raise FeatureError(f"there is no device {device!r} for the encoder: torch sees no GPU; use auto or cpu")
        self._dtype: torch.dtype = getattr(torch, precision)
        self._batch = 256 if self.device.startswith("cuda") else 32
        """Contents in a forward pass."""

    def _text_vectors(self, texts: list[str]) -> Tensor:
        """Vectors [n, width] of texts."""
        raise NotImplementedError

    def _is_cut(self, texts: list[str]) -> Tensor:
        """[n] bool, whether each text has more tokens than are read."""
        raise NotImplementedError

    def _image_vectors(self, pixels: Tensor) -> Tensor:
        """Vectors [n, width] of pixels [n, 3, height, width], float32 on the device."""
        raise NotImplementedError

    @property
    def preparation(self) -> Preparation:
        """What makes a picture ready for :meth:`encode_prepared`, in any process.

        Raises:
            FeatureError: the encoder cannot see pictures.
        """
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, width]; texts are cut at the settings' `tokens` or the model's own limit."""
        vectors = self._empty(len(texts))
        # Those of like length go together: a batch is as long as its longest.
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            with self._computing():
                vectors[rows] = self._as_float32(self._text_vectors([texts[row] for row in rows]))
        return vectors

    def is_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """[n] whether each text is longer than :meth:`encode_texts` reads."""
        parts = [list(texts[start : start + self._batch]) for start in range(0, len(texts), self._batch)]
        found = [self._is_cut(part).cpu().numpy() for part in parts]
        return np.concatenate(found) if found else np.zeros(0, np.bool_)

    def prepare_image(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels [3, height, width] of one RGB picture."""
        return self.preparation(image)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors [n, width] of RGB pictures: :meth:`encode_prepared` over :meth:`prepare_image`, batch by batch."""
        prepare, vectors = self.preparation, self._empty(len(images))
        for start in range(0, len(images), self._batch):
            rows = slice(start, start + self._batch)
            vectors[rows] = self.encode_prepared(np.stack([prepare(image) for image in images[rows]]))
        return vectors

    def encode_prepared(self, batch: NDArray[np.float32] | Tensor) -> Vectors:
        """Vectors [n, width] of prepared pictures [n, 3, height, width], in one forward pass.

        A tensor may be on the device already, or in pinned memory.
        """
        if not len(batch):
            return self._empty(0)
        pixels = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
        with self._computing():
            return self._as_float32(self._image_vectors(pixels.to(self.device, torch.float32, non_blocking=True)))

    def _empty(self, rows: int) -> Vectors:
        return np.empty((rows, self.identity.width), np.float32)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, in the encoder's precision; on CUDA float32 is not TF32, and the same batch the same bits."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            )
            if self._dtype is not torch.float32:
                stack.enter_context(torch.autocast(torch.device(self.device).type, self._dtype))
            yield

    def _as_float32(self, vectors: Tensor) -> Vectors:
        """Float32 on the host; a unit vector that was rounded to half precision is made one again."""
        vectors = vectors.float()
        if self.identity.normalised and self._dtype is not torch.float32:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.cpu().numpy()


def not_encodable(identity: EncoderIdentity, modality: str, modalities: str) -> FeatureError:
    """The error of an encoder that is asked for a modality it does not know."""
    return FeatureError(
        f"encoder model {identity.model!r} cannot encode {modality}s, only {modalities}; use a CLIP model such as "
        "sample-clip or clip-ViT-B-32, ready vectors (kind: vectors), or kind: none"
    )


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """While a model's files are opened: no progress bars, as long work reports through `progress`, and one error.

    Raises:
        FeatureError: anything went wrong.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except FeatureError:
        raise
    except Exception as error:  # any of a dozen libraries' errors
        raise FeatureError(
            f"encoder model in {folder} cannot be loaded: {type(error).__name__}: {error}; "
            "check that its files are complete and fetch it again"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def check_weights(folder: Path, missing: Collection[str]) -> None:
    """Refuse a model some of whose weights its files do not hold: transformers draws them at random.

    Raises:
        FeatureError: there are missing ones; names three.
    """
    if missing:
        raise unreadable(folder, f"its weights lack {', '.join(sorted(missing)[:3])}")


def check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer that knows few of the words that the model has vectors for: part of it is missing.

    Raises:
        FeatureError: it knows less than VOCABULARY of them.
    """
    # A CLIP of transformers has its words in its text tower.
    words = getattr(model, "text_model", model).get_input_embeddings().num_embeddings
    if tokenizer is not None and len(tokenizer) < VOCABULARY * words:
        raise unreadable(
            folder, f"its tokenizer knows {len(tokenizer)} words and parts of words, its weights are for {words}"
        )


def image_configuration(processor: Any) -> dict[str, Any]:
    """What the image processor of transformers, alone or within a processor of several modalities, is set to."""
    configuration: dict[str, Any] = getattr(processor, "image_processor", processor).to_dict()
    return configuration
