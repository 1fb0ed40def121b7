"""Fixed inputs that show whether an encoder still makes the vectors that its identity stands for.

An identity is read from a model's files. The libraries can make different vectors from the same files: a processor may
resize differently, an attention kernel may have a bug, or a loader may skip weights. So the vectors of a few fixed
texts and pictures are stored beside the vectors of a catalogue, and compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from features.encoders.protocol import Encoder, EncoderIdentity, Vectors
from features.errors import FeatureError

Probe = dict[str, list[float]]
"""A vector for each probe that the encoder can encode, by the probe's name; ready for JSON."""

_TEXTS = {
    "text: a title": "Striped ceramic mug, 350 ml",
    "text: nothing": "",
    "text: other scripts": "été 北京 🦊 100% <b>",
    "text: too long": "blue desk lamp with a steel arm; " * 40,
}
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""By precision: how much a vector may change with another device or library version, as a share of its length."""


def probe_vectors(encoder: Encoder) -> Probe:
    """The vectors of the probes, rounded to six digits; a modality that the encoder does not support is left out."""
    vectors: Probe = {}
    texts, pictures = _TEXTS, _pictures()
    with suppress(FeatureError):
        vectors |= _rounded(texts, encoder.encode_texts(list(texts.values())))
    with suppress(FeatureError):
        vectors |= _rounded(pictures, encoder.encode_images(list(pictures.values())))
    return vectors


def _rounded(names: Iterable[str], vectors: Vectors) -> Probe:
    return {name: [float(f"{number:.6g}") for number in vector] for name, vector in zip(names, vectors, strict=True)}


def check_probe(
    stored: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]], identity: EncoderIdentity
) -> None:
    """Compare the probes of an encoder with the stored ones of an encoder with the same identity.

    Only probes that both have are compared.

    Raises:
        FeatureError: a vector differs by more than its tolerance; the message names the encoder and the largest
            difference.
    """
    tolerance, worst, where = TOLERANCE[identity.precision], 0.0, ""
    for name in sorted(stored.keys() & now.keys()):
        old, new = np.asarray(stored[name], np.float64), np.asarray(now[name], np.float64)
        difference = np.inf
        if old.shape == new.shape and np.isfinite(new).all():
            difference = float(np.linalg.norm(new - old)) / max(float(np.linalg.norm(old)), 1e-12)
        if difference > worst:
            worst, where = difference, name
    if worst > tolerance:
        raise FeatureError(
            f"encoder {identity.model!r} no longer makes the same vectors: its files are the same, but the probe "
            f"{where!r} differs by {worst:.2g} of the vector's length (at most {tolerance:g} in {identity.precision}). "
            "A library or a device changed its results: go back to the versions of constraints.txt, or copy the "
            "model's folder under a new name, which gives it a new identity and encodes everything again"
        )


def _pictures() -> dict[str, Image.Image]:
    """A wide, a tall and a tiny picture, made with integer arithmetic only, so that they are the same everywhere."""

    def picture(height: int, width: int) -> Image.Image:
        y, x = np.mgrid[:height, :width]
        channels = [x * 255 // width, y * 255 // height, (x * 7 ^ y * 13) % 256]
        return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))

    return {
        "picture: wide": picture(180, 320),
        "picture: tall": picture(640, 240),
        "picture: tiny": picture(24, 24),
    }
