"""What people look at in Dagster's UI: made of every artifact, small, and never in the way."""

import base64
import io
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from pipelines.data_folder.folder import DATA_VARIABLE, DataFolder
from pipelines.planner.asset import NOT_SHOWN
from pipelines.planner.plan import plan
from pipelines.reports import exhibits as module
from pipelines.reports.exhibits import exhibits
from pipelines.running import runs
from tests.conftest import Cli
from warehouse.artifacts.store import ALL

PLOTS = {
    "core/interactions": ["ratings_plot"],
    "core/sequences": ["length_plot", "popularity_plot"],
    "features/item_text": ["words_plot"],
    "features/item_images": ["sheet"],
    "models/pretrained": ["training_plot"],
    "models/scratch": ["training_plot"],
    "models/finetuned": ["training_plot"],
    "reports/recommendations": ["shelves"],
}


def pictures(value: Any) -> list[bytes]:
    """The pictures in a markdown text."""
    return [base64.b64decode(found) for found in re.findall(r"\(data:image/\w+;base64,([^)]+)\)", value.value)]


@pytest.mark.long
def test_every_artifact_has_something_to_look_at(tiny: Cli) -> None:
    data_folder = DataFolder(tiny.data)
    for artifact in data_folder.store.all_current():
        if artifact.domain not in ("Sample_Kitchen", "Sample_Toys", ALL):  # a source, a target
            continue
        shown, failed = exhibits(data_folder, artifact)
        assert not failed, artifact.ref
        assert shown, artifact.ref
        assert set(PLOTS.get(artifact.key, [])) <= set(shown), artifact.ref
        for name, value in shown.items():
            if isinstance(value, dg.MarkdownMetadataValue):
                assert len(value.value) < 60_000, (artifact.ref, name, len(value.value))
                for picture in pictures(value):
                    assert Image.open(io.BytesIO(picture)).width > 300, (artifact.ref, name)


@pytest.mark.long
def test_the_same_artifact_is_shown_the_same(tiny: Cli) -> None:
    data_folder = DataFolder(tiny.data)
    for key in ("core/sequences", "features/item_images", "reports/recommendations"):
        artifact = data_folder.store.require(key, "Sample_Toys")
        assert exhibits(data_folder, artifact) == exhibits(data_folder, artifact)


def test_what_comes_from_outside_is_text(tiny: Cli, tmp_path: Path) -> None:
    """A title in a table is a cell, cut to size, never markdown."""
    data_folder = DataFolder(tiny.data)
    shown, _ = exhibits(data_folder, data_folder.store.require("raw/metadata", "Sample_Toys"))
    rows = shown["preview"].records
    assert len(rows) == 5
    assert all(isinstance(cell, str | int | float | bool) for row in rows for cell in row.data.values())
    assert max(len(str(cell)) for row in rows for cell in row.data.values()) <= 5 * 62


def test_a_users_id_is_no_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = "u` ![x](http://127.0.0.1:9/x.png) [log in](http://127.0.0.1:9) `\n\n# <b>"
    item = {"item_id": user, "title": user}
    subject = module.Subject(DataFolder(tmp_path), cast(Any, None), (), ExitStack())
    rows = [{"user": user, "bought": [item], "next": [item]}]
    monkeypatch.setattr(module.Subject, "ask", lambda *_, **__: rows)
    monkeypatch.setattr(module.Subject, "pictures", None)
    parts = MarkdownIt("commonmark").parse(module._shelves(subject).value)
    inline = [part for block in parts for part in block.children or ()]
    assert {block.type for block in parts} == {"paragraph_open", "inline", "paragraph_close"}
    pictures = [part.attrs["src"] for part in inline if part.type == "image"]
    assert len(pictures) == 2
    assert all(str(source).startswith("data:image/webp;base64,") for source in pictures)
    assert not [part for part in inline if part.type in ("link_open", "html_inline")]
    assert any("127.0.0.1" in part.content for part in inline if part.type == "code_inline")


def test_a_picture_that_cannot_be_read_takes_nothing_else_with_it(tiny: Cli, tmp_path: Path) -> None:
    shutil.copytree(tiny.data, tmp_path / "data", ignore=shutil.ignore_patterns(".dagster", "cache"))
    data_folder = DataFolder(tmp_path / "data")
    artifact = data_folder.store.require("features/item_images", "Sample_Toys")
    for shard in artifact.path.glob("*.tar"):
        shard.unlink()
    shown, failed = exhibits(data_folder, artifact)
    assert set(failed) == {"sheet"}
    assert ".tar" in failed["sheet"]
    assert {"preview", "statuses_table"} <= set(shown)


def test_a_picture_that_fails_fails_alone_and_is_said(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(subject: module.Subject) -> Any:
        raise ZeroDivisionError("no axis")

    cli("sample", "--size", "tiny")
    monkeypatch.setenv(DATA_VARIABLE, str(cli.data))
    monkeypatch.setattr(module, "_EXHIBITS", {"raw/ratings": ((), {"plot": broken})})
    data_folder = DataFolder(cli.data)
    stages = plan(data_folder, ["Sample_Toys"], ["raw/ratings"])
    with dg.DagsterInstance.ephemeral() as instance:
        (outcome,) = runs.execute(data_folder, stages, instance)
        record = instance.fetch_materializations(dg.AssetKey(["raw", "ratings"]), limit=1).records[0]
    assert not outcome.errors
    assert "no axis" in outcome.warnings[f"raw/ratings {NOT_SHOWN}"]
    assert record.asset_materialization
    assert record.asset_materialization.metadata[NOT_SHOWN].value == {"plot": "ZeroDivisionError: no axis"}
    assert data_folder.store.current("raw/ratings", "Sample_Toys")
