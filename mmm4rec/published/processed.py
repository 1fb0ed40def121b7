"""Reads a processed folder of the published project as a domain for direct training.

| file | contents |
|---|---|
| `text_feat.pth`, `image_feat.pth` | a tensor [N, width]; row n-1 is item n (row n where row 0 is padding) |
| `item2id.jsonl` | one line `["asin", n]` per item, n = 1..N |
| `item.jsonl` (optional) | one JSON object: by n, the path of the picture under `vision`, or null |
| `user2id.jsonl` (optional) | one line `["user", u]` per user, u from 0 |
| `test_seq.jsonl` | one line `[u, [[n, seconds], ...]]` per user: the whole history; its last item is the test label |
| `eval_seq.jsonl` | the same without the last item; the item that is then last is the validation label |
| `train_seq.jsonl` | every prefix of 2 or more items of the history without its last two; its last item is the label |

A folder made for pre-training has only `train_seq.jsonl`, with every prefix of the whole history: nothing is held out.
The three files contain the same data more than once. The data is read once and checked against the rest, so the
examples of `DomainData.examples` are the lines of these files, each exactly once; otherwise there is an error.

An item without a picture has the vector of a white square in `image_feat.pth`. The item keeps this vector but is marked
as not present. Published mode reads the vector, as the published model does; default mode uses the mark.

Tensors are read with ``weights_only=True``, which builds tensors and runs no code.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmm4rec.data.domain import DomainData, Features
from mmm4rec.errors import ModelError
from mmm4rec.files import regular, stored

__all__ = ["load_processed"]

History = npt.NDArray[np.int64]
"""[n, 2]: item and seconds, oldest first."""

_MEND = "make or fetch the whole folder again"


def load_processed(folder: Path, name: str | None = None) -> DomainData:
    """The domain of a processed folder, with users in the order of their numbers.

    Args:
        folder: the folder.
        name: prefix of ids when domains are merged, and name in messages. None: the name of the folder.

    Raises:
        ModelError: a file is missing, damaged or hostile, or the files contradict each other.
    """
    item_ids = _numbered(folder / "item2id.jsonl", first=1)
    if (folder / "test_seq.jsonl").exists() or (folder / "eval_seq.jsonl").exists():
        histories = _held_out_histories(folder, len(item_ids))
        held_out = 1
    else:
        histories = _training_histories(folder, len(item_ids))
        held_out = 0
    numbers = sorted(histories)
    flat = np.concatenate([histories[user] for user in numbers])
    lengths = torch.tensor([len(histories[user]) for user in numbers])
    return DomainData(
        name=name or folder.resolve().name,
        user_ids=_user_ids(folder / "user2id.jsonl", numbers),
        item_ids=item_ids,
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        items=torch.from_numpy(flat[:, 0].copy()),
        times=torch.from_numpy(flat[:, 1].copy()),
        training=lengths - 2 * held_out,
        validation=torch.full_like(lengths, held_out),
        text=_features(folder / "text_feat.pth", len(item_ids), set()),
        image=_features(folder / "image_feat.pth", len(item_ids), _without_picture(folder / "item.jsonl")),
    )


def _held_out_histories(folder: Path, items: int) -> dict[int, History]:
    """The whole histories by user, from the lines of all three files."""
    histories: dict[int, History] = {}
    for where, user, history in _histories(folder / "test_seq.jsonl", items):
        if user in histories:
            raise ModelError(f"{where}: user {user} already has a line; {_MEND}")
        if len(history) < 3:
            raise ModelError(
                f"{where}: user {user} has {len(history)} interactions, but 3 are needed, because the last two are "
                "held out: leave out users with fewer"
            )
        histories[user] = history
    validated = set()
    for where, user, history in _histories(folder / "eval_seq.jsonl", items):
        if user in validated or user not in histories or not np.array_equal(history, histories[user][:-1]):
            raise ModelError(
                f"{where}: is not the history of user {user} in test_seq.jsonl without its last item, or is there "
                f"twice; {_MEND}"
            )
        validated.add(user)
    _missing(folder / "eval_seq.jsonl", histories.keys() - validated)
    prefixes = dict.fromkeys(histories, 0)
    for where, user, history in _histories(folder / "train_seq.jsonl", items):
        whole = histories.get(user)
        if whole is None or len(history) > len(whole) - 2 or not np.array_equal(history, whole[: len(history)]):
            raise ModelError(
                f"{where}: is not a prefix of the training items of user {user} in test_seq.jsonl; {_MEND}"
            )
        prefixes[user] = _with_prefix(prefixes[user], history, where)
    _check_prefixes(folder, prefixes, {user: len(history) - 2 for user, history in histories.items()})
    return histories


def _training_histories(folder: Path, items: int) -> dict[int, History]:
    """The longest prefix of each user, which is the whole history."""
    histories: dict[int, History] = {}
    prefixes: dict[int, int] = {}
    for where, user, history in _histories(folder / "train_seq.jsonl", items):
        longest = histories.setdefault(user, history)
        shared = min(len(longest), len(history))
        if not np.array_equal(longest[:shared], history[:shared]):
            raise ModelError(f"{where}: contradicts an earlier line of user {user}; {_MEND}")
        if len(history) > len(longest):
            histories[user] = history
        prefixes[user] = _with_prefix(prefixes.get(user, 0), history, where)
    _check_prefixes(folder, prefixes, {user: len(history) for user, history in histories.items()})
    return histories


def _with_prefix(seen: int, history: History, where: str) -> int:
    """`seen`, a bit set of lengths, with the length of `history` added."""
    bit = 1 << len(history)
    if len(history) < 2 or seen & bit:
        raise ModelError(
            f"{where}: a prefix of {len(history)} items, which is too short for a label or is there twice; {_MEND}"
        )
    return seen | bit


def _check_prefixes(folder: Path, seen: dict[int, int], longest: dict[int, int]) -> None:
    """Check that every prefix is present, from 2 items to the longest."""
    every = {user: (1 << max(length, 1) + 1) - 4 for user, length in longest.items()}
    _missing(folder / "train_seq.jsonl", {user for user, bits in seen.items() if bits != every[user]})


def _missing(path: Path, users: set[int]) -> None:
    if users:
        raise ModelError(f"{path}: lines of {len(users)} users are missing, such as those of {min(users)}; {_MEND}")


def _histories(path: Path, items: int) -> Iterator[tuple[str, int, History]]:
    """(place for messages, user, history) of each line."""
    empty = True
    for where, line in _lines(path):
        empty = False
        match line:
            case [int(user), [[_, _], *_] as steps] if user >= 0 and not isinstance(user, bool):
                try:
                    history = np.array(steps)
                except (ValueError, OverflowError):
                    history = np.empty(0)
            case _:
                user, history = -1, np.empty(0)
        if history.dtype != np.int64 or history.shape[1:] != (2,):
            raise ModelError(f"{where}: is not [user, [[item, seconds], ...]] in whole numbers; {_MEND}")
        if history[:, 0].min() < 1 or history[:, 0].max() > items:
            raise ModelError(
                f"{where}: items run from {history[:, 0].min()} to {history[:, 0].max()}, but item2id.jsonl has "
                f"1..{items} (0 is padding); {_MEND}"
            )
        if (np.diff(history[:, 1]) < 0).any():
            raise ModelError(f"{where}: times go back, but histories are oldest first; {_MEND}")
        yield where, user, history
    if empty:
        raise ModelError(f"{path}: there is no history; {_MEND}")


def _numbered(path: Path, first: int) -> list[str]:
    """The ids in the order of their numbers, which start at `first` without gaps."""
    found: dict[int, str] = {}
    for where, line in _lines(path):
        match line:
            case [str(name), int(number)] if name and number not in found and not isinstance(number, bool):
                found[number] = name
            case _:
                raise ModelError(f'{where}: is not ["id", number], or repeats a number; {_MEND}')
    if not found or len(set(found.values())) != len(found) or sorted(found) != list(range(first, first + len(found))):
        raise ModelError(
            f"{path}: the numbers are not {first} to {first + len(found) - 1}, or an id occurs twice; {_MEND}"
        )
    return [found[number] for number in sorted(found)]


def _user_ids(path: Path, numbers: list[int]) -> list[str]:
    """The ids from `user2id.jsonl`, otherwise the numbers as text."""
    if not path.exists():
        return [str(number) for number in numbers]
    ids = _numbered(path, first=0)
    if numbers[-1] >= len(ids):
        raise ModelError(
            f"{path}: it has users 0..{len(ids) - 1}, but there is a history of user {numbers[-1]}; {_MEND}"
        )
    return [ids[number] for number in numbers]


def _without_picture(path: Path) -> set[int]:
    """The numbers of the items without a picture; empty if the file is missing."""
    if not path.exists():
        return set()
    try:
        listing = json.loads(regular(path).read_text(encoding="utf-8"))
        return {int(number) for number, item in listing.items() if item.get("vision") is None}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: is not a JSON object of items by number ({error}); {_MEND}") from None


def _features(path: Path, items: int, absent: set[int]) -> Features:
    """The vectors of items 1..N, after a row for padding: the one in the file, if it has one, otherwise zeros."""
    try:
        tensor = torch.load(stored(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file; {_MEND}") from None
    except OSError as error:
        raise ModelError(f"{path}: is not a tensor that can be read safely ({error.strerror}); {_MEND}") from None
    except Exception as error:  # errors of pickle, zip and torch
        raise ModelError(f"{path}: is not a tensor that can be read safely ({type(error).__name__}); {_MEND}") from None
    if (
        not isinstance(tensor, Tensor)
        or not tensor.is_floating_point()
        or tensor.layout is not torch.strided
        or tensor.dim() != 2
        or not tensor.shape[1]
        or tensor.nbytes > path.stat().st_size  # a view that repeats its data
    ):
        raise ModelError(f"{path}: is not a table of floats [items, width]; {_MEND}")
    if len(tensor) not in (items, items + 1):
        raise ModelError(
            f"{path}: {len(tensor)} rows for the {items} items of item2id.jsonl; both must be of the same domain"
        )
    vectors = tensor.new_zeros(items + 1, tensor.shape[1], dtype=torch.float32)
    vectors[-len(tensor) :] = tensor.detach()
    bad = (~vectors.isfinite().all(dim=1)).nonzero()[:, 0]
    if len(bad):
        raise ModelError(
            f"{path}: the vector of item {int(bad[0])} has NaN or infinity ({len(bad)} in total); encode it again"
        )
    present = torch.ones(items + 1, dtype=torch.bool)
    present[[0, *(number for number in absent if 1 <= number <= items)]] = False
    return Features(vectors, present)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(place for messages, value) of each line of JSON."""
    try:
        with regular(path).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}, line {number}", json.loads(line)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file; {_MEND}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as lines of JSON ({error}); {_MEND}") from None
