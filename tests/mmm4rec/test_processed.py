"""Processed folders of the published project: what their lines mean, and what is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ModelError
from mmm4rec.published.processed import load_processed
from mmm4rec.training.fit import fit, pretrain

ITEMS, USERS, L = 12, 30, 6


def histories(seed: int = 0) -> dict[int, list[list[int]]]:
    random = np.random.default_rng(seed)
    found = {}
    for user in range(USERS):
        length = int(random.integers(3, 12))
        times = 1_400_000_000 + 86_400 * np.sort(random.integers(0, 400, length))
        found[user] = [[int(i), int(t)] for i, t in zip(random.integers(1, ITEMS + 1, length), times, strict=True)]
    return found


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the published preprocessing leaves it, item 5 without a picture."""
    folder = tmp_path / "Scientific"
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    torch.save(torch.randn(ITEMS, 7, generator=random), folder / "text_feat.pth")
    torch.save(torch.randn(ITEMS, 5, generator=random), folder / "image_feat.pth")
    write_lines(folder / "item2id.jsonl", [[f"B{n:02d}", n] for n in range(1, ITEMS + 1)])
    write_lines(folder / "user2id.jsonl", [[f"A{u:02d}", u] for u in range(USERS)])
    pictures = {str(n): {"vision": None if n == 5 else f"{n}.jpg", "text": "t"} for n in range(1, ITEMS + 1)}
    (folder / "item.jsonl").write_text(json.dumps(pictures, indent=4))
    found = histories()
    write_lines(folder / "train_seq.jsonl", [[u, h[:n]] for u, h in found.items() for n in range(2, len(h) - 1)])
    write_lines(folder / "eval_seq.jsonl", [[u, h[:-1]] for u, h in found.items()])
    write_lines(folder / "test_seq.jsonl", [[u, h] for u, h in found.items()])
    return folder


def by_the_file(line: list[Any]) -> tuple[str, list[int], list[int], int]:
    """User, items, times and label of a line, padded to L, as the published trainer reads it."""
    user, steps = line
    items, times = [item for item, _ in steps], [time for _, time in steps]
    if len(items) > L:
        inputs, seen = items[-L - 1 : -1], times[-L - 1 : -1]
    else:  # the time of the label stays
        inputs, seen = items[:-1], times
    return f"A{user:02d}", inputs + [0] * (L - len(inputs)), seen + [0] * (L - len(seen)), items[-1]


def by_examples(domain: DomainData, split: str) -> list[tuple[str, list[int], list[int], int]]:
    examples = domain.examples(split, L)  # type: ignore[arg-type]
    batch = examples.batch(torch.arange(len(examples)), L, label_time_is_input=True)
    assert batch.labels is not None
    names = [domain.user_ids[u] for u in examples.users.tolist()]
    rows = zip(names, batch.items.tolist(), batch.times.tolist(), batch.labels.tolist(), strict=True)
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("numbered", [True, False])
def test_the_examples_are_the_lines(folder: Path, numbered: bool) -> None:
    if not numbered:
        (folder / "user2id.jsonl").unlink()
    domain = load_processed(folder)
    if not numbered:
        assert domain.user_ids == [str(u) for u in range(USERS)]
        domain = replace(domain, user_ids=[f"A{int(u):02d}" for u in domain.user_ids])
    assert domain.name == "Scientific"
    assert domain.item_ids == [f"B{n:02d}" for n in range(1, ITEMS + 1)]
    for split, file in (("training", "train"), ("validation", "eval"), ("test", "test")):
        assert by_examples(domain, split) == [by_the_file(line) for line in read_lines(folder / f"{file}_seq.jsonl")]


def test_the_order_of_lines_does_not_matter(folder: Path) -> None:
    expected = load_processed(folder)
    for name in ("train_seq", "eval_seq", "test_seq", "item2id"):
        write_lines(folder / f"{name}.jsonl", read_lines(folder / f"{name}.jsonl")[::-1])
    found = load_processed(folder)
    assert found.item_ids == expected.item_ids
    assert found.user_ids == expected.user_ids
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.times, expected.times)


def test_a_folder_for_pretraining_holds_nothing_out(folder: Path) -> None:
    found = histories()
    (folder / "eval_seq.jsonl").unlink()
    (folder / "test_seq.jsonl").unlink()
    lines = [[u, h[:n]] for u, h in found.items() for n in range(2, len(h) + 1)]
    write_lines(folder / "train_seq.jsonl", lines)
    domain = load_processed(folder)
    assert by_examples(domain, "training") == [by_the_file(line) for line in lines]
    assert not len(domain.examples("validation", L))
    assert not len(domain.examples("test", L))


def test_the_white_picture_stays_and_is_marked(folder: Path) -> None:
    domain = load_processed(folder)
    stored = torch.load(folder / "image_feat.pth", weights_only=True)
    assert torch.equal(domain.image.vectors[1:], stored)
    assert not domain.image.vectors[0].any()
    assert (~domain.image.present).nonzero()[:, 0].tolist() == [0, 5]
    assert (~domain.text.present).nonzero()[:, 0].tolist() == [0]
    (folder / "item.jsonl").unlink()
    assert load_processed(folder).image.present[1:].all()


def test_a_row_for_padding_and_half_precision_are_read(folder: Path) -> None:
    stored = torch.load(folder / "text_feat.pth", weights_only=True)
    torch.save(torch.cat([torch.full((1, 7), 9.0), stored]).half(), folder / "text_feat.pth")
    text = load_processed(folder).text.vectors
    assert text.dtype == torch.float32
    assert torch.equal(text[1:], stored.half().float())
    assert (text[0] == 9).all()


@pytest.mark.parametrize("compat", ["published", "default"])
def test_it_is_trained_on_directly(
    folder: Path, tmp_path: Path, small: Callable[..., ModelConfig], quick: Callable[..., TrainConfig], compat: str
) -> None:
    domain = load_processed(folder)
    first, second = tmp_path / "pretrained", tmp_path / "finetuned"
    first.mkdir()
    second.mkdir()
    pretrain([domain], small(compat=compat), quick(epochs=1, loss="in_batch"), first)
    summary = fit(domain, small(compat=compat), quick(epochs=1), second, init=first)
    assert summary.examples_per_epoch == len(read_lines(folder / "train_seq.jsonl"))
    assert summary.validation["ndcg_10"] > 0


def put(file: str, line: int, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = read_lines(folder / file)
        lines[line] = value
        write_lines(folder / file, lines)

    return damage


def drop(file: str, line: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = read_lines(folder / file)
        del lines[line]
        write_lines(folder / file, lines)

    return damage


def twice(file: str) -> Callable[[Path], None]:
    return lambda folder: write_lines(folder / file, read_lines(folder / file) + read_lines(folder / file)[:1])


def save(file: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save(value, folder / file)


def text(file: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(content) and None


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


class Hostile:
    """A pickle that runs a command where it is not read with weights_only."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


STEPS = [[1, 100], [2, 200], [3, 300], [4, 400]]
NAN = torch.full((ITEMS, 7), 1.0)
NAN[3, 2] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            put("test_seq.jsonl", 1, [1, [[0, 100], *STEPS]]),
            r"test_seq\.jsonl, line 2: items run from 0 .*0 is padding",
        ),
        (put("test_seq.jsonl", 1, [1, [[ITEMS + 1, 100], *STEPS]]), rf"items run from 1 to 13, but .*1\.\.{ITEMS}"),
        (put("test_seq.jsonl", 1, [1, STEPS[::-1]]), r"line 2: times go back"),
        (
            put("test_seq.jsonl", 1, [1, STEPS[:2]]),
            r"user 1 has 2 interactions, but 3 are needed, because the last two are held out",
        ),
        (put("test_seq.jsonl", 1, [0, STEPS]), r"line 2: user 0 already has a line"),
        (put("test_seq.jsonl", 1, [1, [[1, 2.5], *STEPS]]), r"in whole numbers"),
        (put("test_seq.jsonl", 1, [1, [[1, 2], [1, 2, 3]]]), r"in whole numbers"),
        (put("test_seq.jsonl", 1, [1, [["1", 2]]]), r"in whole numbers"),
        (put("test_seq.jsonl", 1, [1, [[1, 2**70]]]), r"in whole numbers"),
        (put("test_seq.jsonl", 1, [1, []]), r"line 2: is not \[user"),
        (put("test_seq.jsonl", 1, [-1, STEPS]), r"line 2: is not \[user"),
        (put("test_seq.jsonl", 1, {"user": 1}), r"line 2: is not \[user"),
        (put("eval_seq.jsonl", 1, [1, STEPS]), r"eval_seq\.jsonl, line 2: is not the history of user 1"),
        (twice("eval_seq.jsonl"), r"eval_seq\.jsonl, line 31: is not the history .*, or is there twice"),
        (drop("eval_seq.jsonl", 4), r"eval_seq\.jsonl: lines of 1 users are missing, such as those of 4"),
        (drop("train_seq.jsonl", 2), r"train_seq\.jsonl: lines of 1 users are missing"),
        (twice("train_seq.jsonl"), r"a prefix of 2 items, which is too short for a label or is there twice"),
        (
            put("train_seq.jsonl", 0, [0, STEPS]),
            r"train_seq\.jsonl, line 1: is not a prefix of the training items of user 0",
        ),
        (
            put("train_seq.jsonl", 0, [99, STEPS]),
            r"train_seq\.jsonl, line 1: is not a prefix of the training items of user 99",
        ),
        (text("train_seq.jsonl", ""), r"train_seq\.jsonl: there is no history"),
        (text("train_seq.jsonl", "[" * 100_000), r"train_seq\.jsonl: cannot be read as lines of JSON"),
        (text("train_seq.jsonl", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")), r"lines of JSON"),
        (remove("train_seq.jsonl"), r"train_seq\.jsonl: there is no such file"),
        (remove("eval_seq.jsonl"), r"eval_seq\.jsonl: there is no such file"),
        (remove("test_seq.jsonl"), r"test_seq\.jsonl: there is no such file"),
        (remove("item2id.jsonl"), r"item2id\.jsonl: there is no such file"),
        (drop("item2id.jsonl", 3), r"item2id\.jsonl: the numbers are not 1 to 11"),
        (put("item2id.jsonl", 3, ["B01", 4]), r"or an id occurs twice"),
        (put("item2id.jsonl", 3, ["B04", 3]), r"item2id\.jsonl, line 4: is not .*or repeats a number"),
        (put("item2id.jsonl", 3, ["B04", True]), r"item2id\.jsonl, line 4: is not"),
        (drop("user2id.jsonl", USERS - 1), r"user2id\.jsonl: it has users 0\.\.28, but there is a history of user 29"),
        (text("item.jsonl", "[]"), r"item\.jsonl: is not a JSON object of items"),
        (text("item.jsonl", '{"one": {}}'), r"item\.jsonl: is not a JSON object of items"),
        (remove("text_feat.pth"), r"text_feat\.pth: there is no such file"),
        (save("text_feat.pth", NAN), r"text_feat\.pth: the vector of item 4 has NaN or infinity \(1 in total\)"),
        (save("text_feat.pth", torch.ones(ITEMS + 2, 7)), r"14 rows for the 12 items"),
        (save("text_feat.pth", torch.ones(ITEMS, 7, dtype=torch.int64)), r"not a table of floats"),
        (save("text_feat.pth", torch.ones(ITEMS)), r"not a table of floats"),
        (save("text_feat.pth", torch.ones(ITEMS, 0)), r"not a table of floats"),
        (save("text_feat.pth", torch.ones(1, 1).expand(ITEMS, 10_000)), r"not a table of floats"),
        (save("text_feat.pth", torch.eye(ITEMS).to_sparse()), r"not a table of floats"),
        (save("text_feat.pth", {"text": torch.ones(ITEMS, 7)}), r"not a table of floats"),
        (save("image_feat.pth", Hostile()), r"image_feat\.pth: is not a tensor that can be read safely"),
        (text("image_feat.pth", "not a tensor"), r"image_feat\.pth: is not a tensor that can be read safely"),
    ],
)
def test_a_damaged_folder_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], message: str
) -> None:
    monkeypatch.chdir(folder)
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_processed(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([0, [[1, 5], [2, 6]]], "contradicts an earlier line of user 0"),
        ([40, [[1, 5]]], "too short for a label"),
        ([40, STEPS], r"lines of 1 users are missing, such as those of 40"),
    ],
)
def test_prefixes_that_do_not_add_up_are_refused(folder: Path, line: list[Any], message: str) -> None:
    (folder / "eval_seq.jsonl").unlink()
    (folder / "test_seq.jsonl").unlink()
    write_lines(folder / "train_seq.jsonl", [*read_lines(folder / "train_seq.jsonl"), line])
    with pytest.raises(ModelError, match=message):
        load_processed(folder)
