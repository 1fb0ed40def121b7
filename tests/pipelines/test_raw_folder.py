"""The raw folder: one order for files that stand for the same thing, and a word on every one that is passed over."""

from pathlib import Path

import pytest

from pipelines.data_folder.raw_files import find_raw, misplaced, names, pairs, passed_over


def _fill(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).touch()
    return folder


def test_plain_goes_before_compressed_and_ratings_before_reviews(tmp_path: Path) -> None:
    for kind in ("ratings", "metadata"):
        for name in reversed(names("Toys", kind)):
            _fill(tmp_path, name)
            assert find_raw(tmp_path, "Toys", kind) == tmp_path / name
    assert list(pairs(tmp_path)) == [(tmp_path / "meta_Toys.json", "Toys")]
    assert passed_over(tmp_path) == {
        "Toys.csv.gz": "Toys.csv is read instead: remove one of the two",
        "Toys_5.json": "Toys.csv is read instead: remove one of the two",
        "Toys_5.json.gz": "Toys.csv is read instead: remove one of the two",
        "meta_Toys.json.gz": "meta_Toys.json is read instead: remove one of the two",
    }


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["Toys.csv"], {"Toys.csv": "there is no meta_Toys.json or meta_Toys.json.gz beside it"}),
        (
            ["meta_Toys.json.gz"],
            {"meta_Toys.json.gz": "there is no Toys.csv, Toys.csv.gz, Toys_5.json or Toys_5.json.gz beside it"},
        ),
        (
            ["Games.csv", "meta_Game.json.gz"],
            {"Games.csv": "if 'meta_Game.json.gz' is that", "meta_Game.json.gz": "if 'Games.csv' is that"},
        ),
        (
            ["ratings_Toys.csv", "reviews_Toys_5.json.gz", "reviews_Toys.json.gz", "meta_Toys.json.gz"],
            {
                "ratings_Toys.csv": "of 2014, whose lines begin with the user: put the item first, and rename the file "
                "to Toys.csv",
                "reviews_Toys_5.json.gz": "of 2014: rename it to Toys_5.json, with .gz",
                "reviews_Toys.json.gz": "to have all its reviews read, rename it to Toys_5.json",
                "meta_Toys.json.gz": "there is no Toys.csv",
            },
        ),
        (
            ["Toys.jsonl.gz", "meta_Toys.jsonl.gz"],
            {"Toys.jsonl.gz": "like the files of 2023", "meta_Toys.jsonl.gz": "like the files of 2023"},
        ),
        (
            ["Toys.json.gz", "meta_Toys.json.gz"],
            {
                "Toys.json.gz": "a file of all reviews: get the ratings file Toys.csv, or",
                "meta_Toys.json.gz": "no Toys",
            },
        ),
        (
            ["Toys.csv", "meta_Toys.csv.gz"],
            {"Toys.csv": "there is no meta_Toys.json", "meta_Toys.csv.gz": "must be JSON Lines, one object with an"},
        ),
        (
            ["Toys.CSV", "meta_Toys.JSON"],
            {"Toys.CSV": "rename it to Toys.csv", "meta_Toys.JSON": "rename it to meta_Toys.json"},
        ),
    ],
)
def test_what_is_no_pair_is_named_with_what_is_missing_or_meant(
    tmp_path: Path, files: list[str], said: dict[str, str]
) -> None:
    found = passed_over(_fill(tmp_path, *files))
    assert found.keys() == said.keys()
    for name, part in said.items():
        assert part in found[name]


def test_what_is_read_or_looks_like_no_raw_file_is_not_spoken_of(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures.json"
    pictures.mkdir()
    # What the files of 2014 are called names a category, where there is a pair of that name.
    _fill(tmp_path, "Toys.csv", "meta_Toys.json", "reviews_Toys_5.json", "meta_reviews_Toys.json")
    _fill(tmp_path, "sample.json", "notes.txt", "vectors.parquet", ".hidden")
    assert [category for _, category in pairs(tmp_path)] == ["Toys", "reviews_Toys"]
    assert passed_over(tmp_path) == {}


def test_a_raw_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert passed_over(tmp_path / "nothing") == {}


def test_raw_files_in_other_places_are_named_with_where_they_belong(tmp_path: Path) -> None:
    raw = tmp_path / "raw_files"
    for place in (raw, raw / "categoryFilesSmall", raw / "metaFiles2"):
        place.mkdir()
    _fill(tmp_path, "Mugs.csv", "meta_Mugs.json.gz", "notes.csv", "domains.yaml", "Games.csv")
    _fill(raw, "Pots.csv", "meta_Pots.json", "meta_Games.json")
    _fill(raw / "categoryFilesSmall", "Toys.csv", "notes.csv")
    _fill(raw / "metaFiles2", "meta_Toys.json.gz")
    found = misplaced(raw, tmp_path)
    assert set(found) == {
        "../Games.csv",
        "../Mugs.csv",
        "../meta_Mugs.json.gz",
        "categoryFilesSmall/Toys.csv",
        "metaFiles2/meta_Toys.json.gz",
    }
    assert all(reason.endswith(f"move it to {raw}") for reason in found.values())
    assert misplaced(tmp_path, tmp_path) == {}, "a data folder may be its own raw folder"
    assert misplaced(tmp_path / "nothing", tmp_path / "nowhere") == {}
