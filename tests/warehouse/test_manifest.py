"""Manifests: what is written is what is read, what is damaged is named, and old ones are read still."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warehouse.work import ENVIRONMENT, make_old, manifest, overwrite
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.manifest import FORMAT, Environment, FileEntry, Input, Manifest, content_version, parse
from warehouse.artifacts.store import Artifact, Recipe, Store

VERSION = "0123456789abcdef"
NAMED = ("core/items", "Toys", VERSION)
FULL = manifest(
    *NAMED,
    inputs={"raw/metadata@Toys": "f" * 16},
    sources={"meta_Toys.json": "e" * 64},
    parameters={"k": 5},
    files={
        "items.parquet": FileEntry(sha256="d" * 64, bytes=9, rows=2, columns={"item_id": "string"}),
        "notes.txt": FileEntry(sha256="c" * 64, bytes=0),
    },
    summary={"rows": 2},
)
"""One that has everything."""

words = st.text(max_size=8)
digests = st.binary(min_size=8, max_size=8).map(bytes.hex)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(0, 2**63 - 1)
keys = st.from_regex(r"[a-z][a-z0-9_]{0,5}/[a-z][a-z0-9_]{0,5}", fullmatch=True)
references = st.from_regex(r"[a-z]{1,5}/[a-z]{1,5}@(_all|[A-Z][A-Za-z0-9_]{0,5})", fullmatch=True)
file_names = st.from_regex(r"[a-z]{1,8}\.(parquet|txt)", fullmatch=True)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(words, parts, max_size=3),
    max_leaves=6,
)
entries = st.builds(
    FileEntry,
    sha256=hashes,
    bytes=counts,
    rows=st.none() | counts,
    columns=st.none() | st.dictionaries(words, words, max_size=3),
)
environments = st.builds(
    Environment,
    python=words,
    packages=st.dictionaries(words, words, max_size=3),
    git_commit=st.none() | words,
    git_clean=st.none() | st.booleans(),
    device=words,
    processor=words,
)
manifests = st.builds(
    Manifest,
    format=st.just(FORMAT),
    key=keys,
    domain=words,
    version=digests,
    recipe=words,
    code_version=words,
    inputs=st.dictionaries(references, digests, max_size=3),
    sources=st.dictionaries(words, words, max_size=3),
    parameters=st.dictionaries(words, anything, max_size=3),
    files=st.dictionaries(file_names, entries, max_size=3),
    summary=st.dictionaries(words, anything, max_size=3),
    created=words,
    environment=environments,
)


def _plain() -> dict[str, Any]:
    """FULL as JSON has it."""
    plain: dict[str, Any] = json.loads(FULL.text)
    return plain


def _refused(plain: Any) -> str:
    """Why this is no manifest of NAMED."""
    with pytest.raises(ValueError, match=r"\w") as said:
        parse(json.dumps(plain), *NAMED)
    return str(said.value)


@given(manifests)
@settings(max_examples=40)
def test_what_is_written_is_read(written: Manifest) -> None:
    read = parse(written.text, written.key, written.domain, written.version)
    assert read == written
    assert read.text == written.text
    assert {f"{read.key}@{read.domain}": read.version for read in written.made_from} == written.inputs
    assert written.made_from == sorted(written.made_from)


def test_what_it_says_of_files_and_inputs() -> None:
    read = parse(FULL.text, *NAMED)
    assert read.made_from == [Input("raw/metadata", "Toys", "f" * 16)]
    assert read.files["items.parquet"].columns == {"item_id": "string"}
    assert json.loads(read.text)["files"]["notes.txt"] == {"sha256": "c" * 64, "bytes": 0}, "rows are of tables alone"


def test_the_order_of_what_is_said_is_no_part_of_it() -> None:
    plain = _plain()
    turned = {name: plain[name] for name in reversed(plain)}
    turned["sources"] = dict(reversed(plain["sources"].items()))
    assert parse(json.dumps(turned), *NAMED).text == FULL.text


@pytest.mark.parametrize("field", [field for field in Manifest.__struct_fields__ if field != "format"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    plain = _plain()
    del plain[field]
    assert f"`{field}`" in _refused(plain)


@pytest.mark.parametrize("field", Manifest.__struct_fields__)
@given(wrong=anything)
@settings(max_examples=25)
def test_a_field_of_the_wrong_type_is_named(field: str, wrong: Any) -> None:
    right = _plain()[field]
    if type(wrong) is type(right) or (type(wrong) is float and type(right) is int):
        wrong = [wrong]
    assert field in _refused(_plain() | {field: wrong})


@pytest.mark.parametrize("field", Environment.__struct_fields__)
def test_a_fault_of_the_environment_is_named(field: str) -> None:
    plain = _plain()
    plain["environment"][field] = ["wrong"]
    assert f"$.environment.{field}" in _refused(plain)
    del plain["environment"][field]
    said = _refused(plain)
    assert f"`{field}`" in said
    assert "$.environment" in said


@pytest.mark.parametrize("field", FileEntry.__struct_fields__)
@pytest.mark.parametrize("name", ["items.parquet", "notes.txt"])
def test_a_fault_of_a_file_names_file_and_field(name: str, field: str) -> None:
    plain = _plain()
    plain["files"][name][field] = ["wrong"]
    said = _refused(plain)
    assert said.startswith(f"files '{name}': ")
    assert f"$.{field}" in said
    del plain["files"][name][field]
    if field in ("sha256", "bytes"):
        assert _refused(plain) == f"files '{name}': Object missing required field `{field}`"


@pytest.mark.parametrize("where", [(), ("environment",), ("files", "items.parquet")])
def test_an_unknown_field_is_named(where: tuple[str, ...]) -> None:
    plain = _plain()
    part = plain
    for name in where:
        part = part[name]
    part["host"] = "mine"
    said = _refused(plain)
    assert "unknown field `host`" in said
    assert not where or where[-1] in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": {"raw/metadata@Toys": None}}, "inputs 'raw/metadata@Toys': Expected `str`, got `null`"),
        ({"inputs": {"raw/metadata": "f" * 16}}, "inputs: 'raw/metadata' is no input"),
        ({"sources": {"a.csv": 5}}, "sources 'a.csv': Expected `str`, got `int`"),
        ({"files": {"a": {"sha256": "0", "bytes": 1}}}, "files: 'a' has no sha256"),
        ({"files": {"a": {"sha256": "0" * 64, "bytes": True}}}, "files 'a': Expected `int`, got `bool` - at `$.bytes`"),
        ({"files": {"a": None}}, "files 'a': Expected `object`, got `null`"),
        ({"environment": None}, "environment is missing"),
        ({"format": FORMAT + 1, "new": 1}, f"format is {FORMAT + 1}, and only 1 and {FORMAT} are known here"),
        ({"format": 0}, "format is 0"),
        ({"format": 1}, "format 1 has no environment"),
        ({"format": "2"}, "Expected `int`, got `str` - at `$.format`"),
        ({"format": True}, "Expected `int`, got `bool` - at `$.format`"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], said: str) -> None:
    assert said in _refused(_plain() | changes)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "12345678901234567890123"])
def test_numbers_that_only_python_writes_are_read(number: str) -> None:
    """A loss that is NaN stands so in a summary."""
    text = FULL.text.replace('"rows": 2\n },\n "version"', f'"rows": {number}\n }},\n "version"')
    assert number in text
    assert parse(text, *NAMED).summary.keys() == {"rows"}


# In a store


def _publish(store: Store, **parameters: int) -> tuple[Artifact, bool]:
    recipe = Recipe("core/items", "Toys", "c", {}, {}, parameters)
    return store.publish(recipe, lambda out: {"characters": (out / "items.txt").write_text("a")})


def test_an_error_names_the_file_and_the_field(tmp_path: Path) -> None:
    artifact, _ = _publish(Store(tmp_path))
    path = artifact.path / "manifest.json"
    overwrite(path, path.read_text().replace('"bytes": 1', '"bytes": "one"'))
    fault = "(files 'items.txt': Expected `int`, got `str` - at `$.bytes`)"
    with pytest.raises(StoreError, match=re.escape(f"{artifact.path} has no readable manifest {fault}")):
        Store(tmp_path).require("core/items", "Toys")


def test_a_manifest_from_before_there_were_environments_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    new, _ = _publish(store, k=5)
    make_old(new)
    old = store.require("core/items", "Toys")
    assert (old.manifest.format, old.manifest.environment) == (1, None)
    assert msgspec.structs.replace(old.manifest, format=FORMAT, environment=new.manifest.environment) == new.manifest
    assert store.whole("core/items", "Toys") == old
    assert store.verify(old) == []
    assert _publish(store, k=5) == (old, False)
    assert _publish(store, k=3)[0].version == old.version


def test_an_environment_in_an_old_manifest_is_an_error() -> None:
    plain = _plain()
    del plain["format"]
    assert "format 1 has no environment" in _refused(plain)


def test_the_summary_that_is_returned_is_the_one_that_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recipe = Recipe("core/items", "Toys", "c", {}, {}, {"sizes": (1, 2)})

    def build(out: Path) -> dict[str, Any]:
        (out / "items.txt").touch()
        return {"counts": {5: (1, 2)}}

    artifact, _ = store.publish(recipe, build)
    assert artifact.manifest.summary == {"counts": {"5": [1, 2]}}
    assert store.current("core/items", "Toys") == artifact


def test_what_made_it_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    other = msgspec.structs.replace(ENVIRONMENT, python="4", git_clean=False, device="abacus")
    for number, environment in enumerate([ENVIRONMENT, other]):
        monkeypatch.setattr("warehouse.artifacts.store.watch", lambda environment=environment: lambda: environment)
        for identity in ("content", "recipe"):
            recipe = Recipe("core/items", "Toys", "c", {}, {}, {})
            store = Store(tmp_path / identity / str(number))
            artifact, _ = store.publish(recipe, lambda out: {"n": (out / "a.txt").write_text("a")}, identity)
            assert artifact.manifest.environment == environment
            assert store.verify(artifact) == []
            made.append((artifact.manifest.recipe, artifact.version, content_version(artifact.manifest.files)))
    assert made[:2] == made[2:]
