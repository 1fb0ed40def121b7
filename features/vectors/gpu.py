"""Brings batches of pictures to a GPU: copies pixels, or decodes JPEGs there, while the GPU encodes the batch before.

Everything here happens on a separate stream. On the GPU, bytes become float32 and are scaled: a CPU would send four
times as much for the same bits.
"""

import io
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from features.encoders.preparation import Preparation
from features.errors import FeatureError
from features.pictures.decode import PictureError, decode

if TYPE_CHECKING:
    from features.vectors.loading import Batches, Undecoded

THREADS = 2
"""Threads that decode and resize batches, each on a stream of its own."""
AT_ONCE = 64 * 2**20
"""Pixels that are decoded at once, which take three bytes each."""
_ENOUGH = 8
"""A picture of twice this many times the target's side or more is first averaged down to about this many times, because
torch's filters have a limit."""
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters for which torch has the same ones."""


def copied(batches: "Batches", preparation: Any, device: str) -> Iterator[Tensor]:
    """Each batch as one tensor [n, 3, H, W] on the GPU, float32.

    Args:
        batches: each a sequence of parts [n, 3, H, W], arrays or tensors, float32 or bytes.
        preparation: scales parts of bytes (:meth:`Preparation.scale`).
        device: the GPU.
    """
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready = None
    with closing(batches):
        for parts in batches:
            pinned = [part if part.is_pinned() else part.pin_memory() for part in map(torch.as_tensor, parts)]
            with torch.cuda.stream(copying):
                moved = [part.to(device, non_blocking=True) for part in pinned]
                whole = moved[0] if len(moved) == 1 else torch.cat(moved)
                if whole.dtype == torch.uint8:
                    whole = whole.float()
                    preparation.scale(whole)
            if ready is not None:
                yield ready
            computing = torch.cuda.current_stream(torch.device(device))
            computing.wait_stream(copying)
            whole.record_stream(computing)
            ready = whole
        if ready is not None:
            yield ready


def decoded(batches: "Batches", preparation: Preparation, device: str) -> Iterator[Tensor]:
    """As :func:`copied`, for parts of JPEGs that the GPU decodes, and pixels of other pictures.

    Threads decode ahead of the batch that is used. While one waits for the decoder, another one resizes.

    Raises:
        FeatureError: torchvision cannot decode JPEGs on the device; or one can be decoded by nobody.
    """
    with ExitStack() as stack:
        stack.enter_context(closing(batches))
        decoders = [JpegDecoder(preparation, device) for _ in range(THREADS)]
        threads = [(stack.enter_context(ThreadPoolExecutor(1)), decoder) for decoder in decoders]
        waiting: deque[Future[Tensor]] = deque()
        for parts, (thread, decoder) in zip(batches, cycle(threads), strict=False):
            waiting.append(thread.submit(decoder, parts))
            if len(waiting) > THREADS:
                yield decoder.received(waiting.popleft())
        while waiting:
            yield decoders[0].received(waiting.popleft())


@dataclass(frozen=True)
class _Jpeg:
    """A JPEG: its row in the batch, its bytes [n], and the pixels that it will have."""

    row: int
    data: Tensor
    area: int


class JpegDecoder:
    """Decodes and prepares JPEGs with torchvision.

    A GPU's decoder and Pillow's round in different ways, so this is another preparation than Pillow's.

    Args:
        preparation: what is done with each picture.
        device: torch device.

    Raises:
        FeatureError: torchvision is not installed or has no decoder for the device, or the model resizes in a way that
            torch does not know.
    """

    def __init__(self, preparation: Preparation, device: str) -> None:
        if preparation.resample not in _FILTERS:
            raise FeatureError(
                f"decoding: gpu: the model's pictures are resized by Pillow's filter {preparation.resample}, only "
                f"{' and '.join(_FILTERS.values())} are supported; use decoding: pillow"
            )
        try:
            from torchvision.io import ImageReadMode, decode_jpeg
        except Exception as error:  # ImportError, or RuntimeError if it does not fit this torch
            raise _unavailable(device, error) from error
        self._decode, self._mode = decode_jpeg, ImageReadMode.RGB
        self._preparation, self._device = preparation, torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._cuda else None  # type: ignore[no-untyped-call]
        try:
            with self._on_stream():
                self._decode_all([_trial()])
                self._finish()
        except RuntimeError as error:
            raise _unavailable(device, error) from error

    def __call__(self, parts: Sequence["Undecoded"]) -> Tensor:
        """The pictures of all parts, prepared, [n, 3, H, W] float32 on the device.

        Raises:
            FeatureError: neither the device nor Pillow can decode a JPEG.
        """
        jpegs: list[_Jpeg] = []
        start = 0
        with torch.no_grad(), self._on_stream():
            batch = torch.zeros(
                (sum(part.pictures for part in parts), 3, *self._preparation.shape), device=self._device
            )
            for part in parts:
                if part.other_rows:
                    rows = torch.tensor(part.other_rows, device=self._device)
                    batch[start + rows] = torch.as_tensor(part.others).to(self._device).float()
                jpegs += (_Jpeg(start + row, torch.as_tensor(data), area) for row, data, area in part.jpegs())
                start += part.pictures
            for some in _split(jpegs):
                # The decoder writes on a stream of its own to memory that this stream has released.
                self._finish()
                for jpeg, pixels in zip(some, self._decoded([jpeg.data for jpeg in some]), strict=True):
                    self._place(pixels, batch[jpeg.row])
            self._preparation.scale(batch.round_().clamp_(0, 255))
            self._finish()
        return batch

    def received(self, future: "Future[Tensor]") -> Tensor:
        """The finished batch, for use on the current stream."""
        batch = future.result()
        if self._cuda:
            batch.record_stream(torch.cuda.current_stream(self._device))
        return batch

    def _decoded(self, data: list[Tensor]) -> list[Tensor]:
        """The pixels [3, height, width] of JPEGs, in bytes. Those that the device refuses are decoded by Pillow."""
        try:
            return self._decode_all(data)
        except RuntimeError as error:
            if "CUDA error" in str(error):
                raise
        if len(data) > 1:
            return [pixels for one in data for pixels in self._decoded([one])]
        try:
            picture = decode(data[0].numpy().tobytes())
        except PictureError as problem:
            raise FeatureError(f"a picture is {problem}; rebuild item_images") from problem
        return [torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy()).to(self._device)]

    def _decode_all(self, data: list[Tensor]) -> list[Tensor]:
        return cast(list[Tensor], self._decode(data, mode=self._mode, device=self._device))

    def _place(self, pixels: Tensor, target: Tensor) -> None:
        """Resize and crop pixels [3, height, width] into their place [3, H, W] in the batch."""
        whole = self._preparation.resized(*pixels.shape[-2:])
        mode = _FILTERS[self._preparation.resample]
        given = pixels[None].float()
        if (times := min(pixels.shape[-2:]) // (_ENOUGH * min(whole))) > 1:
            given = avg_pool2d(given, times, ceil_mode=True, count_include_pad=False)
        resized = interpolate(given, whole, mode=mode, align_corners=False, antialias=True)[0]
        top, left = self._preparation.margins(*whole)
        height, width = target.shape[-2:]
        seen = resized[:, max(top, 0) : top + height, max(left, 0) : left + width]
        place = target[:, max(-top, 0) :, max(-left, 0) :][:, : seen.shape[1], : seen.shape[2]]
        place.copy_(seen)

    def _on_stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


def _split(jpegs: Sequence[_Jpeg]) -> Iterator[Sequence[_Jpeg]]:
    """The JPEGs in groups of at most AT_ONCE pixels, or of one."""
    start = total = 0
    for number, jpeg in enumerate(jpegs):
        if number > start and total + jpeg.area > AT_ONCE:
            yield jpegs[start:number]
            start, total = number, 0
        total += jpeg.area
    if start < len(jpegs):
        yield jpegs[start:]


def _trial() -> Tensor:
    """A JPEG that every decoder knows."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "JPEG")
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unavailable(device: str, error: Exception) -> FeatureError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return FeatureError(
        f"decoding: gpu needs a torchvision that fits this torch and decodes JPEGs on {device} ({reason}); install it, "
        "or use decoding: pillow or draft, which make other vectors"
    )
