"""Reads the published project's processed folder: vectors by item, and the histories of the same items.

- `text_feat.pth` and `image_feat.pth` are tensors [items, width]. The row of an item is its number - 1, or its number
  if there is a row 0 for padding.
- `item2id.jsonl` has a line `["asin", number]` for each item; numbers start from 1.
- `item.jsonl`, one JSON object despite its name, has the path of the picture, or null, by item number. If it is null,
  the row of the item is the vector of a white square, and is not used.
- `train_seq.jsonl`, `eval_seq.jsonl` and `test_seq.jsonl` have a line `[user number, [[item number, seconds], ...]]`
  for each history.

Tensors are read with ``weights_only=True``, which builds tensors and runs no code.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from features.encoders.models import files_sha256, read_json
from features.encoders.protocol import EncoderFiles, Vectors
from features.encoders.vectors import ReadyVectors, without_zeros
from features.errors import FeatureError
from features.settings import Zeros
from warehouse.artifacts.files import regular, stored

_IDS, _ITEMS = "item2id.jsonl", "item.jsonl"


def published_files(path: str | Path, column: str) -> EncoderFiles:
    """What decides the vectors of :func:`read_published`, from the files alone.

    Raises:
        FeatureError: a file is missing, or `column` is neither text nor image.
    """
    folder = Path(path)
    if column not in ("text", "image"):
        raise FeatureError(f"encoder kind 'published' has no column {column!r}; use text or image")
    files = [folder / f"{column}_feat.pth", folder / _IDS]
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        raise FeatureError(
            f"{folder}: there is no {' and no '.join(lacking)}; set the encoder's path to a processed folder"
        )
    if column == "image" and (folder / _ITEMS).is_file():
        files.append(folder / _ITEMS)
    return EncoderFiles(
        model=f"{folder.name}:{column}",
        weights_sha256=files_sha256(files, folder),
        preprocessing="unknown",
        precision="float32",
    )


def read_published(path: str | Path, column: str, zeros: Zeros = "refused") -> ReadyVectors:
    """Vectors of a processed folder's items, by asin; an item without a picture has no picture vector.

    Args:
        path: the folder.
        column: text or image.
        zeros: how a vector of zeros is treated, as an error or as a missing vector.

    Raises:
        FeatureError: a file is missing or damaged, the files do not belong together, or `zeros` refuses a vector.
    """
    folder, files = Path(path), published_files(path, column)
    items = _items(folder / _IDS)
    vectors = _tensor(folder / f"{column}_feat.pth", len(items))
    if (folder / "test_seq.jsonl").is_file():  # it contains the histories of the other two files
        for _ in read_histories(folder, "test", items):
            pass
    absent = _without_picture(folder / _ITEMS) if column == "image" else set()
    kept = [row for row in range(len(items)) if row + 1 not in absent]
    ids, vectors = without_zeros([items[row] for row in kept], vectors[kept], zeros, str(folder / f"{column}_feat.pth"))
    return ReadyVectors.of(ids, vectors, files, "published vectors")


def read_histories(
    folder: Path, split: Literal["train", "eval", "test"], items: list[str]
) -> Iterator[tuple[int, list[str], list[int]]]:
    """The histories of a split: user number, asins and Unix seconds, oldest first.

    `items` are the asins of the items 1, 2, ... in this order.

    Raises:
        FeatureError: a line is not a history, or names an item that is not in `items`.
    """
    path = folder / f"{split}_seq.jsonl"
    for number, line in _lines(path):
        try:
            user, steps = line
            history = [items[item - 1] for item, _ in steps if item > 0]
            if len(history) != len(steps):
                raise ValueError("item numbers start from 1")
            yield int(user), history, [int(seconds) for _, seconds in steps]
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise FeatureError(
                f"{path}, line {number}: is not [user, [[item, seconds], ...]] with items of {_IDS} ({error}); "
                "fetch the folder again"
            ) from error


def _items(path: Path) -> list[str]:
    """The asins in the order of their numbers, which must be 1, 2, ... without gaps."""
    items: dict[int, str] = {}
    for number, line in _lines(path):
        match line:
            case [str(asin), int(item)] if asin and item not in items:
                items[item] = asin
            case _:
                raise FeatureError(
                    f'{path}, line {number}: is not ["asin", number], or repeats a number; fetch it again'
                )
    if sorted(items) != list(range(1, len(items) + 1)) or len(set(items.values())) != len(items) or not items:
        raise FeatureError(
            f"{path}: the item numbers are not 1 to {len(items)}, or an asin occurs twice; fetch the file again"
        )
    return [items[item] for item in sorted(items)]


def _without_picture(path: Path) -> set[int]:
    """Numbers of the items that have no picture; empty if the file is missing."""
    if not path.is_file():
        return set()
    listing = read_json(path)
    if not all(number.isdecimal() and isinstance(item, dict) for number, item in listing.items()):
        raise FeatureError(f"{path}: is not an object of items by number; fetch it again")
    return {int(number) for number, item in listing.items() if item.get("vision") is None}


def _tensor(path: Path, items: int) -> Vectors:
    """The float32 rows of items 1 to `items`, without the row for padding."""
    import torch

    try:
        tensor = torch.load(stored(path), map_location="cpu", weights_only=True)
    except Exception as error:  # errors of pickle, zip and torch
        raise FeatureError(
            f"{path}: is not a tensor that can be read safely ({type(error).__name__}); fetch it again"
        ) from error
    if (
        not isinstance(tensor, torch.Tensor)
        or not tensor.is_floating_point()
        or tensor.layout is not torch.strided
        or tensor.dim() != 2
        or tensor.nbytes > path.stat().st_size  # a view that repeats its elements
    ):
        raise FeatureError(f"{path}: is not a table of floats [items, width]; fetch it again")
    if len(tensor) not in (items, items + 1):
        raise FeatureError(
            f"{path}: {len(tensor)} rows for the {items} items of {_IDS}; both must be of the same domain"
        )
    vectors: Vectors = tensor.detach()[-items:].float().numpy()
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise FeatureError(
            f"{path}: the vector of item {bad[0] + 1} is not finite ({len(bad)} in total); fetch the file again"
        )
    return vectors


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The number and the value of each line."""
    try:
        with regular(path).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise FeatureError(f"{path}: cannot be read as lines of JSON ({error}); fetch it again") from error
