"""Turns a picture into pixels: resize, crop, scale and shift. Uses only Pillow and NumPy, so workers start fast.

A test compares the result with the model library's own processors. These are not used here, because they convert to
arrays and back for each step. They also resize differently if torchvision is installed, and then one identity would
stand for two kinds of vectors.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.errors import FeatureError
from features.pictures.decode import bounded
from features.settings import Decoding

_KNOWN = ("CLIPImageProcessor", "SiglipImageProcessor")


@dataclass(frozen=True)
class Preparation:
    """Turns an RGB picture into float32 pixels [3, height, width]. It has no weights, so it is cheap to send to
    processes."""

    size: int | tuple[int, int]
    """Pixels of the shorter side, with the aspect ratio kept; or (height, width), with the picture squashed."""
    crop: tuple[int, int] | None
    """(height, width) that are cut from the middle; the rest is black if the picture is smaller."""
    resample: int
    """Pillow's number of the resize filter."""
    factor: tuple[float, float, float]
    """Each channel, 0..255, is multiplied by this, 1 / 255 / deviation; then `offset`, mean / deviation, is
    subtracted."""
    offset: tuple[float, float, float]
    rounds: bool = False
    """If the middle is between two pixels, the crop starts at the even one (True, as in torchvision) or at the upper
    left one (False, as in transformers)."""
    decoding: Decoding = "pillow"
    """How JPEGs are decoded before they are prepared."""

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels [3, height, width] of a picture."""
        pixels = self.pixels(image).astype(np.float32)
        self.scale(pixels)
        return pixels

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resized and cropped, as bytes [3, height, width]; in range 0..255, before :meth:`scale`."""
        image = bounded(image)
        if image.mode != "RGB":
            image = image.convert("RGB")
        height, width = self.resized(image.height, image.width)
        image = image.resize((width, height), Image.Resampling(self.resample))
        if self.crop:
            top, left = self.margins(height, width)
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(image).transpose(2, 0, 1).copy(order="C")

    def scale(self, pixels: Any) -> None:
        """Scale and shift float32 pixels [..., 3, height, width], an array or a tensor, in place.

        A GPU and a CPU give the same bits.
        """
        factor, offset = (np.array(each, np.float32)[:, None, None] for each in (self.factor, self.offset))
        if not isinstance(pixels, np.ndarray):
            factor, offset = (pixels.new_tensor(each) for each in (factor, offset))
        pixels *= factor
        pixels -= offset

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result; only a size or a crop that fixes them is accepted by :meth:`of`."""
        shape = self.crop or self.size
        return (shape, shape) if isinstance(shape, int) else shape

    @property
    def least(self) -> int | None:
        """The shorter side that a JPEG needs for the result to be good; None if JPEGs are decoded at full size."""
        if self.decoding != "draft":
            return None
        return 2 * (self.size if isinstance(self.size, int) else max(self.size))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize of a picture, before the crop."""
        if not isinstance(self.size, int):
            return self.size
        if height < width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def margins(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that the crop leaves out at the top and at the left; negative if it adds some."""
        if self.crop is None:
            return 0, 0
        top, left = height - self.crop[0], width - self.crop[1]
        return (round(top / 2), round(left / 2)) if self.rounds else (top // 2, left // 2)

    @classmethod
    def of(cls, configuration: dict[str, Any]) -> "Preparation":
        """The preparation that a processor of transformers does, from its `to_dict()`.

        Raises:
            FeatureError: the processor does something that is not known here.
        """
        kind = str(configuration.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
        size, cut = configuration.get("size") or {}, configuration.get("crop_size") or {}
        sized = "shortest_edge" in size or {"height", "width"} <= size.keys()
        crops = bool(configuration.get("do_center_crop"))
        if kind not in _KNOWN or not configuration.get("do_resize") or not sized or configuration.get("do_pad"):
            raise FeatureError(
                f"pictures for this model are prepared by {kind} with size {size}, which is not supported; "
                f"supported: {', '.join(_KNOWN)} that resize. Use a model with one of these, or make the vectors "
                "elsewhere and name their file (kind: vectors)"
            )
        if "shortest_edge" in size and not crops:
            raise FeatureError(
                "pictures for this model would differ in size; set do_center_crop in its preprocessor_config"
            )
        scale = configuration["rescale_factor"] if configuration.get("do_rescale") else 1.0
        mean, deviation = (0.0,) * 3, (1.0,) * 3
        if configuration.get("do_normalize"):
            mean, deviation = configuration["image_mean"], configuration["image_std"]
        return cls(
            size=size.get("shortest_edge") or (size["height"], size["width"]),
            crop=(cut["height"], cut["width"]) if crops else None,
            resample=int(configuration["resample"]),
            **scaling(scale, mean, deviation),
        )


def scaling(scale: float, mean: Any, deviation: Any) -> dict[str, Any]:
    """The arguments `factor` and `offset` of a preparation that subtracts a mean and divides by a deviation."""
    return {
        "factor": tuple(scale / float(d) for d in deviation),
        "offset": tuple(float(m) / float(d) for m, d in zip(mean, deviation, strict=True)),
    }
