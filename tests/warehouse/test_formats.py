"""The registry of raw formats: what each must say, so that adding one is a module and a line."""

import pkgutil

import pytest

from pipelines.planner.code_version import reached
from warehouse.raw.formats import FORMATS, KINDS, RawFormat, category_in, format_of, formats


@pytest.mark.parametrize("each", formats(), ids=lambda each: each.name)
def test_a_format_is_whole(each: RawFormat) -> None:
    assert each.kind in KINDS
    assert each.file_names
    for pattern in (*each.file_names, *each.misnamed, *([each.origin] if each.origin else [])):
        assert pattern.count("{}") == 1
    assert callable(pkgutil.resolve_name(each.reader))
    assert [found for found in formats() if found.name == each.name] == [each]
    for pattern in each.file_names:
        assert format_of(each.kind, pattern.format("Toys")) is each, "another format takes its files"


def test_names_of_formats_differ() -> None:
    assert len({each.name for each in formats()}) == len(FORMATS)
    assert sorted(each.name for kind in KINDS for each in formats(kind)) == sorted(each.name for each in formats())


def test_a_reader_runs_no_registry() -> None:
    """Else one format more would make every raw table stale."""
    for each in formats():
        assert "warehouse.raw.formats:FORMATS" not in reached(each.reader)


def test_what_is_no_raw_file_has_no_format() -> None:
    with pytest.raises(KeyError, match="is not a name of a file of ratings"):
        format_of("ratings", "notes.txt")
    assert category_in("meta_{}.json", "meta_.json") is None, "a category has a name"
