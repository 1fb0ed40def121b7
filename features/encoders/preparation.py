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

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels [3, height, width] of a picture."""
        image = bounded(image)
        if image.mode != "RGB":
            image = image.convert("RGB")
        height, width = self._resized(image.height, image.width)
        image = image.resize((width, height), Image.Resampling(self.resample))
        if self.crop:
            top, left = (self._margin(whole, part) for whole, part in zip((height, width), self.crop, strict=True))
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        # Channels are moved while they are still bytes, which take a quarter of the memory.
        pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels *= np.array(self.factor, np.float32)[:, None, None]
        pixels -= np.array(self.offset, np.float32)[:, None, None]
        return pixels

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        if height < width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def _margin(self, whole: int, part: int) -> int:
        return round((whole - part) / 2) if self.rounds else (whole - part) // 2

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
