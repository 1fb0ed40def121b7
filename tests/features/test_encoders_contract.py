"""One contract for every model that encodes content, whatever library opens it."""

import pytest

CLIPS = ["sample_clip", "tiny_clip", "legacy_clip", "bare_clip", "siglip", "tiny_open_clip"]
MODELS = [*CLIPS, "minilm"]
HALVES = [
    pytest.param(half, marks=pytest.mark.long)  # slow on a CPU
    for half in (
        ("tiny_clip", "bfloat16"),
        ("siglip", "bfloat16"),
        ("siglip", "float16"),
        ("tiny_open_clip", "float16"),
        ("minilm", "bfloat16"),
    )
]
