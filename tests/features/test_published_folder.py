"""The published project's processed folder: what it says of each item, and what is refused."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.encoders import ReadyVectors, encoder_identity, open_encoder
from features.encoders.published import read_histories, read_published
from features.errors import FeatureError
from features.settings import EncoderSettings

ITEMS = [["B1", 1], ["B2", 2], ["B3", 3]]
TEXT = torch.tensor([[3.0, 4.0], [0.0, 1.0], [5.0, 6.0]])
IMAGE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def write_lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    folder = tmp_path / "Scientific"
    folder.mkdir()
    torch.save(TEXT, folder / "text_feat.pth")
    torch.save(IMAGE, folder / "image_feat.pth")
    write_lines(folder / "item2id.jsonl", ITEMS)
    pictures = {"1": "vision/B1.jpg", "2": None, "3": "vision/B3.jpg"}
    items = {number: {"vision": picture, "text": "t"} for number, picture in pictures.items()}
    (folder / "item.jsonl").write_text(json.dumps(items, indent=4))
    write_lines(folder / "train_seq.jsonl", [[0, [[1, 100], [3, 200]]]])
    write_lines(folder / "eval_seq.jsonl", [[0, [[1, 100], [3, 200], [2, 300]]]])
    write_lines(folder / "test_seq.jsonl", [[0, [[1, 100], [3, 200], [2, 300], [1, 400]]]])
    return folder


def opened(folder: Path, column: str = "text") -> ReadyVectors:
    return open_encoder(EncoderSettings(kind="published", path=str(folder), column=column))


def test_the_row_of_an_item_is_its_number_less_one(processed: Path) -> None:
    write_lines(processed / "item2id.jsonl", ITEMS[::-1])
    vectors, present = opened(processed).look_up(["B3", "B1", "unknown", "B2"])
    assert vectors.tolist() == [[5, 6], [3, 4], [0, 0], [0, 1]]
    assert present.tolist() == [True, True, False, True]


def test_a_row_for_padding_is_left_out(processed: Path) -> None:
    torch.save(torch.cat([torch.zeros(1, 2), TEXT]).half(), processed / "text_feat.pth")
    vectors, _ = opened(processed).look_up(["B1", "B2", "B3"])
    assert vectors.tolist() == TEXT.tolist()
    assert vectors.dtype == np.float32


def test_the_vector_of_a_white_square_is_not_taken(processed: Path) -> None:
    vectors, present = opened(processed, "image").look_up(["B1", "B2", "B3"])
    assert present.tolist() == [True, False, True]
    assert vectors[1].tolist() == [0, 0]
    (processed / "item.jsonl").unlink()
    assert opened(processed, "image").look_up(["B2"])[1].all()


def test_zeros_are_refused_or_missing(processed: Path) -> None:
    """But for those of items that have no picture: they are not taken anyway."""
    zeros = IMAGE * torch.tensor([[1.0], [0.0], [0.0]])
    torch.save(zeros, processed / "image_feat.pth")
    with pytest.raises(FeatureError, match=r"image_feat\.pth: the vector of 'B3' is all zeros \(1 in total\)"):
        opened(processed, "image")
    settings = EncoderSettings(kind="published", path=str(processed), column="image", zeros="missing")
    assert open_encoder(settings).look_up(["B1", "B2", "B3"])[1].tolist() == [True, False, False]


def test_identity_is_known_by_the_files_without_torch(processed: Path) -> None:
    settings = EncoderSettings(kind="published", path=str(processed), column="image")
    identity = opened(processed, "image").identity
    assert asdict(encoder_identity(settings)).items() <= asdict(identity).items()
    assert (identity.model, identity.width, identity.normalised) == ("Scientific:image", 2, True)
    assert not opened(processed).identity.normalised
    code = (
        "import sys; from features.encoders import *\n"
        "from features.settings import EncoderSettings\n"
        "encoder_identity(EncoderSettings(kind='published', path=sys.argv[1], column='image'))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, processed], check=True)


@pytest.mark.parametrize("name", ["image_feat.pth", "item2id.jsonl", "item.jsonl"])
def test_identity_follows_every_file_that_decides(processed: Path, name: str) -> None:
    settings = EncoderSettings(kind="published", path=str(processed), column="image")
    before = encoder_identity(settings)
    (processed / name).write_bytes((processed / name).read_bytes() + b"\n")
    assert encoder_identity(settings) != before


def test_histories_name_the_items(processed: Path) -> None:
    items = ["B1", "B2", "B3"]
    assert [list(read_histories(processed, split, items)) for split in ("train", "eval", "test")] == [
        [(0, ["B1", "B3"], [100, 200])],
        [(0, ["B1", "B3", "B2"], [100, 200, 300])],
        [(0, ["B1", "B3", "B2", "B1"], [100, 200, 300, 400])],
    ]


class Malice:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_hostile_tensor_runs_no_code(processed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(processed)
    (processed / "text_feat.pth").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(FeatureError, match=r"text_feat\.pth: is not a tensor that can be read safely"):
        opened(processed)
    torch.save({"rows": Malice()}, processed / "text_feat.pth")
    with pytest.raises(FeatureError, match="read safely"):
        opened(processed)
    assert not (processed / "pwned").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([TEXT], "is not a table of floats"),
        (TEXT.long(), "is not a table of floats"),
        (TEXT[0], "is not a table of floats"),
        (TEXT.to_sparse(), "is not a table of floats"),
        (torch.zeros(1, 1).expand(3, 10_000_000), "is not a table of floats"),
        (TEXT[:2], r"2 rows for the 3 items of item2id\.jsonl; both must be of the same domain"),
        (torch.cat([TEXT, TEXT]), "6 rows for the 3 items"),
        (TEXT / 0, r"the vector of item 1 is not finite \(3 in total\)"),
    ],
    ids=str,
)
def test_what_is_no_table_of_the_items_is_refused(processed: Path, value: Any, message: str) -> None:
    torch.save(value, processed / "text_feat.pth")
    with pytest.raises(FeatureError, match=message):
        opened(processed)


def test_a_cut_off_tensor_is_refused(processed: Path) -> None:
    path = processed / "text_feat.pth"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FeatureError, match="read safely"):
        opened(processed)


@pytest.mark.parametrize(
    "lines",
    [
        [["B1", 1], ["B2", 2], ["B3", 4]],
        [["B1", 0], ["B2", 1], ["B3", 2]],
        [["B1", 1], ["B2", 2], ["B3", 2]],
        [["B1", 1], ["B2", 2], ["B1", 3]],
        [["B1", 1], ["B2", "2"], ["B3", 3]],
        [["B1", 1], ["", 2], ["B3", 3]],
        [{"B1": 1}],
        [],
    ],
    ids=str,
)
def test_numbers_that_are_no_numbering_are_refused(processed: Path, lines: list[Any]) -> None:
    write_lines(processed / "item2id.jsonl", lines)
    with pytest.raises(FeatureError, match=r"item2id\.jsonl(, line \d: is not|: the item numbers are not 1 to)"):
        opened(processed)


@pytest.mark.parametrize(
    "line",
    [
        [0, [[4, 100]]],
        [0, [[0, 100]]],
        [0, [[-1, 100]]],
        [0, [["1", 100]]],
        [0, [[1, None]]],
        [0, [[1]]],
        [0],
        {"user": 0},
        7,
        [0, [[1, float("inf")]]],
    ],
    ids=str,
)
def test_histories_of_another_folder_are_refused(processed: Path, line: Any) -> None:
    write_lines(processed / "test_seq.jsonl", [[0, [[1, 100]]], line])
    with pytest.raises(FeatureError, match=r"test_seq\.jsonl, line 2: is not \[user, "):
        opened(processed)


def test_text_that_is_no_json_is_refused(processed: Path) -> None:
    for name, column in (("item2id.jsonl", "text"), ("test_seq.jsonl", "text"), ("item.jsonl", "image")):
        kept = (processed / name).read_bytes()
        for junk in (b"{", b"\xff\xfe", b"[" * 100_000):
            (processed / name).write_bytes(junk)
            with pytest.raises(FeatureError, match=f"{name}: (cannot be read as lines of JSON|not JSON)"):
                opened(processed, column)
        (processed / name).write_bytes(kept)
    (processed / "item.jsonl").write_text('{"one": {}}')
    with pytest.raises(FeatureError, match="is not an object of items by number"):
        opened(processed, "image")


def test_what_is_missing_is_named(processed: Path) -> None:
    with pytest.raises(FeatureError, match=r"needs a `path` \(a folder\) and a `column` \(text or image\)"):
        open_encoder(EncoderSettings(kind="published", path=str(processed)))
    with pytest.raises(FeatureError, match="has no column 'picture'; use text or image"):
        opened(processed, "picture")
    (processed / "text_feat.pth").unlink()
    (processed / "item2id.jsonl").unlink()
    with pytest.raises(FeatureError, match=r"no text_feat\.pth and no item2id\.jsonl; set the encoder's path"):
        read_published(processed, "text")
