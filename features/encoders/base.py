"""The common part of encoders with a torch model: device, precision of the forward pass, batches and their order."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from features.encoders.models import unreadable
from features.encoders.preparation import Preparation
from features.encoders.protocol import EncoderIdentity, Vectors
from features.errors import FeatureError
from features.settings import Decoding, Precision

VOCABULARY = 0.9
"""Lowest share of a model's words that its tokenizer must know. It is below 1, because models round the number of their
words up, for example to a multiple of 64."""

TRIAL = ["a mug", "a mug and a lamp"]
"""Texts that are encoded when a model is opened, because missing settings of a tokenizer are noticed only when it pads
texts for the first time."""


class Options(TypedDict):
    """The arguments of :class:`TorchEncoder`, for its subclasses."""

    device: str
    precision: Precision
    decoding: NotRequired[Decoding]


class TorchEncoder:
    """Base class of encoders. A subclass sets `identity` and runs its model on texts and on pixels.

    Args:
        device: torch device; "auto" is cuda if there is a GPU, otherwise cpu.
        precision: precision of the forward pass (autocast); weights and resulting vectors are float32.
        decoding: how the JPEGs of a catalogue are decoded.

    Raises:
        FeatureError: there is no such device.
    """

    identity: EncoderIdentity

    def __init__(self, *, device: str, precision: Precision, decoding: Decoding = "pillow") -> None:
        cuda = torch.cuda.is_available()
        self.device = ("cuda" if cuda else "cpu") if device == "auto" else device
        if self.device.startswith("cuda") and not cuda:
            raise FeatureError(f"there is no device {device!r} for the encoder: torch sees no GPU; use auto or cpu")
        self._decoding = decoding
        self._dtype: torch.dtype = getattr(torch, precision)
        self._batch = 256 if self.device.startswith("cuda") else 32
        """Contents per forward pass."""

    def _text_vectors(self, texts: list[str]) -> Tensor:
        """Vectors [n, width] of texts."""
        raise NotImplementedError

    def _is_cut(self, texts: list[str]) -> Tensor:
        """[n] bool, whether each text has more tokens than the encoder reads."""
        raise NotImplementedError

    def _image_vectors(self, pixels: Tensor) -> Tensor:
        """Vectors [n, width] of pixels [n, 3, height, width], float32 on the device."""
        raise NotImplementedError

    def _preparation(self) -> Preparation:
        """The preparation that the model's files define.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        raise NotImplementedError

    @property
    def preparation(self) -> Preparation:
        """The function that prepares a picture for :meth:`encode_prepared`; it can run in any process.

        Raises:
            FeatureError: the encoder cannot encode pictures.
        """
        return replace(self._preparation(), decoding=self._decoding)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, width]; texts are cut at the settings' `tokens` or the model's own limit."""
        vectors = self._empty(len(texts))
        # Texts of similar length share a batch, because a batch is padded to its longest text.
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            with self._computing():
                vectors[rows] = self._unit(self._text_vectors([texts[row] for row in rows])).cpu().numpy()
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
        return self._started(batch)()

    def encode_batches(self, batches: Iterable[NDArray[np.float32] | Tensor]) -> Iterator[Vectors]:
        """The vectors of each batch, in order. A GPU computes the next batch while those of a batch are used."""
        if not self.device.startswith("cuda"):
            yield from map(self.encode_prepared, batches)
            return
        before: Callable[[], Vectors] | None = None
        for batch in batches:
            now = self._started(batch)
            if before is not None:
                yield before()
            before = now
        if before is not None:
            yield before()

    def _started(self, batch: NDArray[np.float32] | Tensor) -> Callable[[], Vectors]:
        """Start a forward pass; the function that is returned waits for its vectors [n, width]."""
        if not len(batch):
            return lambda: self._empty(0)
        pixels = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
        with self._computing():
            vectors = self._unit(self._image_vectors(pixels.to(self.device, torch.float32, non_blocking=True)))
            if vectors.device.type != "cuda":
                return vectors.numpy
            host = torch.empty(vectors.shape, pin_memory=True).copy_(vectors, non_blocking=True)
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(vectors.device))

        def read() -> Vectors:
            copied.synchronize()  # without using a core, which decodes meanwhile
            return np.array(host.numpy())  # pinned memory is scarce

        return read

    def _empty(self, rows: int) -> Vectors:
        return np.empty((rows, self.identity.width), np.float32)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute without gradients and in the encoder's precision.

        On CUDA, float32 does not become TF32, and the same batch always gives the same bits.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            )
            if self._dtype is not torch.float32:
                stack.enter_context(torch.autocast(torch.device(self.device).type, self._dtype))
            yield

    def _unit(self, vectors: Tensor) -> Tensor:
        """In float32; unit vectors that were rounded to half precision are normalised again."""
        vectors = vectors.float()
        if self.identity.normalised and self._dtype is not torch.float32:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors


def not_encodable(identity: EncoderIdentity, modality: str, modalities: str) -> FeatureError:
    """The error for an encoder that does not support the requested modality."""
    return FeatureError(
        f"encoder model {identity.model!r} cannot encode {modality}s, only {modalities}; use a CLIP model such as "
        "sample-clip or clip-ViT-B-32, ready vectors (kind: vectors), or kind: none"
    )


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Open a model's files inside this: it hides progress bars, and turns every error into a FeatureError.

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
    except Exception as error:  # the errors of a dozen libraries
        raise FeatureError(
            f"encoder model in {folder} cannot be loaded: {type(error).__name__}: {error}; "
            "check that its files are complete and fetch it again"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def check_weights(folder: Path, missing: Collection[str]) -> None:
    """Refuse a model whose files lack some of its weights, because transformers would draw these at random.

    Raises:
        FeatureError: weights are missing; the message names up to three.
    """
    if missing:
        raise unreadable(folder, f"its weights lack {', '.join(sorted(missing)[:3])}")


def check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer that knows too few of the words that the model has vectors for: part of it is missing.

    Raises:
        FeatureError: it knows a share of fewer than VOCABULARY.
    """
    # In a CLIP of transformers, the words are in the text tower.
    words = getattr(model, "text_model", model).get_input_embeddings().num_embeddings
    if tokenizer is not None and len(tokenizer) < VOCABULARY * words:
        raise unreadable(
            folder, f"its tokenizer has {len(tokenizer)} words and parts of words, but its weights are for {words}"
        )


def image_configuration(processor: Any) -> dict[str, Any]:
    """The settings of an image processor of transformers, which may be part of a processor of several modalities."""
    configuration: dict[str, Any] = getattr(processor, "image_processor", processor).to_dict()
    return configuration
