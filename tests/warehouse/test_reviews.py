"""raw/ratings from reviews: the same table by the same bounds, and the same split, as the ratings-only file gives."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.warehouse.agreement import assert_agrees
from warehouse.artifacts.store import Store
from warehouse.errors import DataError
from warehouse.raw import records
from warehouse.raw.formats import format_of
from warehouse.raw.rating_rows import Rating
from warehouse.raw.ratings import ingest_ratings
from warehouse.raw.reviews import ingest_reviews, read_line

Stage = Callable[[], Path]

REVIEW = {
    "overall": 5.0,
    "vote": "3",
    "verified": True,
    "reviewTime": "11 8, 2001",
    "reviewerID": "AH2IFH762VY5U",
    "asin": "B00005N7P0",
    "reviewerName": "ted \u201csedman\u201d",
    "reviewText": 'for "computer" enthusiast, MaxPC is\n a welcome sight',
    "summary": "AVID READER",
    "unixReviewTime": 1005177600,
}
GOOD = Rating("B00005N7P0", "AH2IFH762VY5U", 5.0, 1_005_177_600)


def review(**fields: object) -> bytes:
    """A line with other fields; None leaves one out."""
    return json.dumps({name: value for name, value in (REVIEW | fields).items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("line", "rating"),
    [
        (review(), GOOD),
        (review(overall=4), GOOD._replace(rating=4.0)),
        (review(unixReviewTime=1005177600.0), GOOD),
        (review(unixReviewTime=0), GOOD._replace(time=0)),
        (review(overall="5.0", unixReviewTime="1005177600"), GOOD),
        (review(unixReviewTime=None), GOOD),
        (review(unixReviewTime=None, reviewTime="09 01, 2016"), GOOD._replace(time=1_472_688_000)),
        (review(asin="B,1", reviewerID="Zo\u00eb"), GOOD._replace(item_id="B,1", user_id="Zo\u00eb")),
        (repr(REVIEW).encode(), GOOD),
        (b'{"asin": 7, ' + review()[1:], GOOD),  # of a field that occurs twice, the last counts
    ],
)
def test_a_good_line_is_a_rating(stage: Stage, line: bytes, rating: Rating) -> None:
    assert read_line(line) == rating
    out = stage()
    source = out.with_suffix(".json")
    source.write_bytes(line)
    assert ingest_reviews(source, out).rows == 1
    assert pq.read_table(out / "ratings.parquet").to_pylist() == [{"line": 1, **rating._asdict()}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "neither JSON nor a Python literal"),
        (b"[]", "not an object"),
        (review(asin=None), "asin or reviewerID is missing or not text"),
        (review(reviewerID=7), "asin or reviewerID is missing or not text"),
        (review(asin="B\u00001"), "control character"),
        (review(reviewerID="A\ud800"), "control character"),
        (review(asin=""), "empty id"),
        (review(reviewerID="A" * 256), "id is too long"),
        (review(overall=None), "rating is not a finite number"),
        (review(overall="five"), "rating is not a finite number"),
        (review(overall="0x5"), "rating is not a finite number"),
        (review(overall=True), "rating is not a finite number"),
        (review(overall=float("nan")), "rating is not a finite number"),
        (review(overall=1e39), "rating is not a finite number"),
        (review(overall=10**400), "rating is not a finite number"),
        (review(unixReviewTime=None, reviewTime=None), "time is not a whole number"),
        (review(unixReviewTime=None, reviewTime="13 8, 2001"), "time is not a whole number"),
        (review(unixReviewTime=None, reviewTime="8 November 2001"), "time is not a whole number"),
        (review(unixReviewTime="", reviewTime="11 8, 2001"), "time is not a whole number"),
        (review(unixReviewTime=1.5), "time is not a whole number"),
        (review(unixReviewTime=-1), "time is out of range"),
        (review(unixReviewTime=1005177600000), "time is in milliseconds, not in seconds"),
        (review(reviewText="x" * (5 << 20)), "line is too long"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(stage: Stage, line: bytes, reason: str) -> None:
    out = stage()
    source = out.with_suffix(".json.gz")
    content = review() + b"\n" + line + b"\n" + review()
    source.write_bytes(gzip.compress(content, 1, mtime=0))
    assert assert_agrees("reviews", source, out, content) == {reason: 1}


_number = (
    st.integers() | st.floats() | st.sampled_from([5, 5.0, 3.4e38, 3.5e38, 4_102_444_800, 4_102_444_801, "5", True])
)
_id = st.text(max_size=8) | st.sampled_from(["B" * 255, "B" * 256, "\u00e9" * 128, "B\x7f"])

_change = st.fixed_dictionaries(
    {}, optional={"asin": _id, "reviewerID": _id, "overall": _number, "unixReviewTime": _number}
)


@pytest.mark.long
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_change), st.sampled_from([1, 1 << 20]), st.booleans())
def test_the_fast_reader_agrees_with_the_plain_one(
    stage: Stage, changes: list[dict[str, object]], batch: int, escaped: bool
) -> None:
    out = stage()
    lines = [json.dumps(REVIEW | change, ensure_ascii=escaped) for change in [{}, *changes]]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    source = out.with_suffix(".json")
    source.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BATCH_BYTES", batch)
        assert_agrees("reviews", source, out, content)


def test_the_name_says_which_reader(stage: Stage) -> None:
    for name in ("X_5.json", "X_5.json.gz", "X.csv", "X.csv.gz"):
        out = stage()
        source = out.parent / name
        source.write_bytes(b"B00005N7P0,AH2IFH762VY5U,5.0,1005177600\n" if "csv" in name else review())
        format_of("ratings", name).read(source, out)
        assert pq.read_table(out / "ratings.parquet").to_pylist() == [{"line": 1, **GOOD._asdict()}]


@pytest.mark.parametrize("content", [None, b"", gzip.compress(review() * 99, mtime=0)[:99], b"B1,A1,5.0,1100000000\n"])
def test_an_unusable_file_is_an_error_that_names_it(stage: Stage, content: bytes | None) -> None:
    out = stage()
    source = out.with_suffix(".json.gz")
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError) as error:
        ingest_reviews(source, out)
    assert str(source) in str(error.value)


def test_reviews_and_ratings_give_the_same_rows(stage: Stage, shared: Path) -> None:
    source = shared / "data/amazon_2018/Magazine_Subscriptions.csv"
    out, other = stage(), stage()
    ingest_ratings(source, out)
    reviews = _as_reviews(source.read_text(), other.with_suffix(".json.gz"))
    ingest_reviews(reviews, other)
    assert (out / "ratings.parquet").read_bytes() == (other / "ratings.parquet").read_bytes()


def test_a_domain_from_reviews_has_the_split_of_its_ratings(
    tmp_path: Path, materialise: Callable[[Store, str, Path, Path, int], object]
) -> None:
    ratings = tmp_path / "X.csv"
    lines = [f"B{i * 7 % 11},A{i % 13},{i % 5 + 1}.0,{1_000_000_000 + i * 86_400}" for i in range(150)]
    ratings.write_text("\n".join([*lines, lines[3]]) + "\n")
    metadata = tmp_path / "meta_X.json"
    metadata.write_text("\n".join(json.dumps({"asin": f"B{i}", "title": f"Item {i}"}) for i in range(10)))
    reviews = _as_reviews(ratings.read_text(), tmp_path / "X_5.json.gz")
    splits = []
    for source in (ratings, reviews):
        store = Store(tmp_path / source.name.replace(".", "_"))
        materialise(store, "X", source, metadata, 3)
        folder = store.require("core/sequences", "X").path
        splits.append({path.name: path.read_bytes() for path in folder.glob("*.parquet")})
    assert splits[0] == splits[1]
    assert splits[0]


def _as_reviews(ratings: str, path: Path) -> Path:
    with gzip.open(path, "wt", compresslevel=1) as file:
        for line in ratings.splitlines():
            item_id, user_id, rating, time = line.split(",")
            fields = {
                "overall": float(rating),
                "reviewerID": user_id,
                "asin": item_id,
                "unixReviewTime": int(float(time)),
            }
            file.write(json.dumps(REVIEW | fields) + "\n")
    return path
