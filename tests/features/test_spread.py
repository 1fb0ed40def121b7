"""Vectors that do not tell contents apart are refused; those of small or repetitive catalogues are not."""

from dataclasses import replace

import numpy as np
import pytest

from features.errors import FeatureError
from features.vectors import spread
from features.vectors.spread import check_spread
from tests.features.vectors import identity


def check(vectors: np.ndarray, ready: bool = False, precision: str = "float32") -> None:
    made_by = replace(identity(vectors.shape[1], "model"), precision=precision)
    ids = [f"i{row}" for row in range(len(vectors))]
    check_spread(vectors.astype(np.float32), np.arange(len(vectors)), ids, "text_embeddings", made_by, ready)


def drawn(rows: int, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


@pytest.mark.parametrize("rows", [9, 300, 5000])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_vector_for_all_is_refused(rows: int, precision: str) -> None:
    noise = {"float32": 1e-6, "bfloat16": 1e-3}[precision]
    one = np.ones((rows, 32)) + noise * drawn(rows)
    with pytest.raises(FeatureError, match=r"encoder model does not tell different contents apart: .*tokenizer"):
        check(one, precision=precision)
    with pytest.raises(FeatureError, match=r"the ready vectors model do not tell items apart: .*use null"):
        check(one, ready=True)


@pytest.mark.parametrize("rows", [9, 300, 5000])
def test_a_few_vectors_for_all_are_refused(rows: int) -> None:
    """As of a tokenizer that knows no word: the vector follows from the number of words."""
    few = drawn(6)[np.arange(rows) % 6] + 1e-6 * drawn(rows)
    with pytest.raises(FeatureError, match=r"(33|98|99|100)% of the \S+ compared have the vector of another"):
        check(few)


def test_nearly_parallel_vectors_are_refused() -> None:
    near = 10 + 0.1 * drawn(100)
    near[::50] = drawn(2)  # all but two
    with pytest.raises(FeatureError, match=r"9\d% of the pairs of the 100 compared are nearly parallel"):
        check(near)
    with pytest.raises(FeatureError, match="nearly parallel"):
        check(near * (1 + np.arange(100))[:, None])  # whatever their lengths
    check(near * (1 + np.arange(100))[:, None], ready=True)  # which may be what tells items apart
    check(np.arange(1, 100)[:, None], ready=True)


def test_what_is_alike_by_right_is_taken() -> None:
    vectors = drawn(300)
    vectors[:60] = vectors[60:120]  # a fifth of the contents differ in capitals only
    check(vectors)
    vectors[:140] = vectors[0]  # nearly half have a placeholder's vector
    check(vectors, ready=True)
    check(5 + drawn(300))  # of a narrow cone, as sentence models that were not trained to compare
    check(np.ones((7, 32)))  # fewer than chance is excluded for
    check(np.ones((0, 32)))


def test_of_many_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = drawn(4000)
    vectors[1000:3000] = 1
    with pytest.raises(FeatureError, match=r"(49|50)% of the 1,024 compared"):
        check(vectors)
    monkeypatch.setattr(spread, "_SAMPLE", 8)
    check(drawn(4000))
