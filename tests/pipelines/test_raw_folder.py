"""The raw folder: one order for files that stand for the same thing, and a word on every one that is passed over."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.data_folder.raw_bucket import RawBucket
from pipelines.data_folder.raw_files import find_raw, lacking, misplaced, names, pairs, passed_over
from pipelines.data_folder.raw_folder import LocalFolder, RawFolder
from tests.warehouse.stores import Place, bucket, server
from warehouse.artifacts.copies import Copies
from warehouse.artifacts.hashes import Hashes
from warehouse.artifacts.objects.client import Client

__all__ = ["bucket", "server"]


@dataclass
class Raw:
    """A raw folder of either kind, as another look would find it."""

    folder: Path
    place: Place | None

    def fill(self, *files: str) -> RawFolder:
        """Put empty files there."""
        for name in files:
            if self.place:
                Client(self.place.address).write(name, b"")
            else:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).touch()
        if self.place is None:
            return LocalFolder(self.folder)
        return RawBucket(self.place.address, Hashes(self.folder / "sha256"), Copies(self.folder / "copies", 1 << 20))


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Raw:
    """A raw folder that is empty."""
    return Raw(tmp_path / "raw", request.getfixturevalue("bucket") if request.param == "bucket" else None)


def test_plain_goes_before_compressed_and_ratings_before_reviews(raw: Raw) -> None:
    for kind in ("ratings", "metadata"):
        for name in reversed(names("Toys", kind)):
            assert find_raw(raw.fill(name), "Toys", kind) == name
    assert list(pairs(raw.fill())) == [("meta_Toys.json", "Toys")]
    assert passed_over(raw.fill()) == {
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
    raw: Raw, files: list[str], said: dict[str, str]
) -> None:
    found = passed_over(raw.fill(*files))
    assert found.keys() == said.keys()
    for name, part in said.items():
        assert part in found[name]


def test_what_is_read_or_looks_like_no_raw_file_is_not_spoken_of(raw: Raw) -> None:
    raw.fill("pictures.json/1.jpg")
    # What the files of 2014 are called names a category, where there is a pair of that name.
    raw.fill("Toys.csv", "meta_Toys.json", "reviews_Toys_5.json", "meta_reviews_Toys.json")
    found = raw.fill("sample.json", "notes.txt", "vectors.parquet", ".hidden")
    assert [category for _, category in pairs(found)] == ["Toys", "reviews_Toys"]
    assert passed_over(found) == {}


def test_a_raw_folder_that_is_not_there_holds_nothing(raw: Raw) -> None:
    assert passed_over(raw.fill()) == {}
    assert misplaced(raw.fill(), LocalFolder(raw.folder / "nowhere")) == {}
    assert str(raw.fill()) in str(lacking(raw.fill(), "Toys"))


def test_what_is_missing_is_named_with_what_is_similar(raw: Raw) -> None:
    found = raw.fill("Toys_and_Games.csv", "meta_Toys_and_Game.json.gz")
    assert lacking(found, "Toys_and_Games") == (
        f"there is no meta_Toys_and_Games.json or meta_Toys_and_Games.json.gz in {found}; "
        "similar: 'meta_Toys_and_Game.json.gz'"
    )


def test_raw_files_in_other_places_are_named_with_where_they_belong(raw: Raw, tmp_path: Path) -> None:
    for name in ("Mugs.csv", "meta_Mugs.json.gz", "notes.csv", "domains.yaml", "Games.csv"):
        (tmp_path / name).touch()
    raw.fill("Pots.csv", "meta_Pots.json", "meta_Games.json", "categoryFilesSmall/Toys.csv")
    folder = raw.fill("categoryFilesSmall/notes.csv", "metaFiles2/meta_Toys.json.gz")
    found = misplaced(folder, LocalFolder(tmp_path))
    beside = f"{tmp_path}" if raw.place else ".."
    assert set(found) == {
        f"{beside}/Games.csv",
        f"{beside}/Mugs.csv",
        f"{beside}/meta_Mugs.json.gz",
        "categoryFilesSmall/Toys.csv",
        "metaFiles2/meta_Toys.json.gz",
    }
    assert all(reason.endswith(f"move it to {folder}") for reason in found.values())


def test_a_data_folder_may_be_its_own_raw_folder(tmp_path: Path) -> None:
    (tmp_path / "Mugs.csv").touch()
    (tmp_path / "meta_Mugs.json").touch()
    assert misplaced(LocalFolder(tmp_path), LocalFolder(tmp_path)) == {}
