"""What an edit of the project makes stale: a table to be read, a row an edited file.

It holds for a shop with a source domain and a target domain, whose texts the sample's CLIP encodes, with GRU4Rec and
SASRec beside MMM4Rec. The edits are made on a copy of the packages.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.planner import code_version
from pipelines.planner.step import all_steps
from tests.conftest import REPOSITORY
from tests.warehouse.work import write_raw

STEPS = all_steps()

WORDS = "other words in SQL"
MODELS = {"models/pretrained", "models/scratch", "models/finetuned", "models/baselines"}

# A file, what is replaced in it, by what, and the assets that the edited code builds. What is built from those is
# stale too.
EDITS: dict[str, tuple[str, str, str, set[str]]] = {
    "a baseline that is asked for": (
        "mmm4rec/baselines/gru4rec.py", "super()", "super(*())", {"models/baselines", "reports/metrics"},
    ),
    "another baseline": (
        "mmm4rec/baselines/sasrec.py", "super()", "super(*())", {"models/baselines", "reports/metrics"},
    ),
    "a baseline that nobody asks for": ("mmm4rec/baselines/unisrec.py", "super()", "super(*())", set()),
    "an ablation": ("mmm4rec/comparison/ablations.py", "super()", "super(*())", set()),
    "the encoder in use": (
        "features/encoders/sentence.py", "super()", "super(*())", {"features/text_embeddings"},
    ),
    "an encoder of another library": ("features/encoders/clip.py", "dim=-1", "dim=1", set()),
    "an encoder that is not in use": ("features/encoders/openclip.py", "return text\n", "return text or {}\n", set()),
    "one encoder more": (
        "features/encoders/__init__.py", 'if settings.kind == "open-clip":',
        'if settings.kind == "onnx":\n        return "features.encoders.clip:ClipEncoder"\n'
        '    if settings.kind == "open-clip":', set(),
    ),
    "one layout of model folders more": (
        "features/encoders/models.py", '    "open-clip": OPEN_CLIP,',
        '    "open-clip": OPEN_CLIP,\n    "onnx": OPEN_CLIP,', set(),
    ),
    "one baseline more": (
        "mmm4rec/registry.py", '    "GRU4Rec": ',
        '    "NewRec": "mmm4rec.baselines.sasrec:SASRec",\n    "GRU4Rec": ', set(),
    ),
    # Its columns are in the history of every training, in the metrics and in the report.
    "one metric more": (
        "mmm4rec/metrics.py", '    ListMetric(\n        "coverage"',
        '    UserMetric("top", "share of users whose label is first", lambda ranks, k: ranks <= 1),\n'
        '    ListMetric(\n        "coverage"', {*MODELS, "reports/metrics", "warehouse/catalogue", "warehouse/report"},
    ),
    "how a domain is read": (
        "mmm4rec/data/reading.py", "counts.min() == 0", "counts.min() <= 0", MODELS,
    ),
    "the loss": (
        "mmm4rec/model/losses.py", "return F.cross_entropy(", "return 1 * F.cross_entropy(", MODELS,
    ),
    "the format of the ratings at hand": (
        "warehouse/raw/ratings.py", 'text.split(",")', 'text.split(",", -1)', {"raw/ratings"},
    ),
    "a format of ratings that no file has": (
        "warehouse/raw/reviews.py", 'record.get("asin")', 'record.get("asin", None)', set(),
    ),
    "the format of the metadata at hand": (
        "warehouse/raw/metadata.py", 'record.get("asin")', 'record.get("asin", None)', {"raw/metadata"},
    ),
    "by which names a format is known": (
        "warehouse/raw/formats.py", '"{}.csv.gz"', '"{}.csv.gz", "{}.csv.bz2"', set(),
    ),
    "one format more": (
        "warehouse/raw/formats.py", "FORMATS: Final[Registry] = (\n",
        'FORMATS: Final[Registry] = (\n'
        '    RawFormat("notes", "ratings", ("{}.txt",), "warehouse.raw.ratings:ingest_ratings"),\n',
        set(),
    ),
    "an SQL file of items": ("warehouse/core/sql/kept_items.sql", "BY item_id", "BY item_id, line", {"core/items"}),
    "an SQL file of interactions": (
        "warehouse/core/sql/judged_ratings.sql", "ratings.line,", "ratings.line AS line,", {"core/interactions"},
    ),
    "an SQL file of sequences": ("warehouse/core/sql/user_ids.sql", "SELECT", "SELECT ALL", {"core/sequences"}),
    "an SQL file of the catalogue": (
        "warehouse/catalogue/sql/length_distribution.sql", "SELECT", "SELECT ALL", {"warehouse/catalogue"},
    ),
    "an SQL file of the report": (
        "pipelines/reports/sql/report_curves.sql", "ORDER BY domain", "ORDER BY domain DESC", {"warehouse/report"},
    ),
    "an SQL file of the UI": ("pipelines/reports/sql/exhibit_metrics.sql", "SELECT", "SELECT ALL", set()),
    "an SQL file of a command": ("pipelines/cli/sql/recommendations.sql", "SELECT", "SELECT ALL", set()),
    "the SQL of a check": ("warehouse/sql/check_sequences.sql", "SELECT", "SELECT ALL", set()),
    "what a check is bound to": ("pipelines/planner/blocking.py", 'summary["lines"]', '(summary["lines"])[0]', set()),
    "a helper that one asset uses": (
        "features/lookup/search.py", "def find_pictures(", "def find_pictures(*,\n    ", {"warehouse/report"},
    ),
    "the template of the report": ("pipelines/reports/templates/report.html", "</h1>", " </h1>", {"warehouse/report"}),
    "a comment of a column": ("mmm4rec/tables.py", '"optimiser steps so far"', '"steps so far"', set()),
    "a comment of a column of features": ("features/tables.py", '"Title as published."', '"Title."', set()),
    "the type of a column": (
        "mmm4rec/tables.py", '_field("users", pa.int64()', '_field("users", pa.int32()',
        {"reports/metrics"},
    ),
    "the command line": ("pipelines/cli/app.py", "import typer", "import typer as typer_\nimport typer", set()),
    "what plans runs": ("pipelines/planner/plan.py", "return [Stage(", "return [*()] + [Stage(", set()),
    "settings": ("pipelines/data_folder/settings.py", "return merged", "return dict(merged)", set()),
    "the build of the metrics": (
        "pipelines/assets/reports.py", "if of.trained:", "if len(of.trained):", {"reports/metrics"},
    ),
}  # fmt: skip

SCRIPT = """
import importlib, json, pathlib, sys
sys.dont_write_bytecode = True  # Python takes a .pyc for that of a source of the same second and size
from pipelines.planner import code_version
from pipelines.assets import models
from pipelines.planner.plan import plan
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.step import all_steps, upstream_first
import features.tables, mmm4rec.tables, warehouse.tables, pipelines.planner.step

data, edits = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
domains = ["Mugs", "Toys"]
STEPS = all_steps()

def stale():
    code_version.forget()
    for module, name in ((features.tables, "FEATURE"), (mmm4rec.tables, "MODEL"), (warehouse.tables, "CORE")):
        setattr(pipelines.planner.step, f"{name}_TABLES", importlib.reload(module).TABLES)
    for step in STEPS.values():
        vars(step).pop("code_version", None)
    data_folder = DataFolder(data)
    inputs = STEPS["models/baselines"].inputs(data_folder, "Toys")
    kept = [recipe.digest for recipe in models.baseline_recipes(data_folder, inputs).values()]
    found = plan(data_folder, domains)
    return {"steps": sorted({step.key for stage in found for step in stage.steps}), "kept": sorted(kept)}

built = []
for step in upstream_first():
    for domain in step.domains(DataFolder(data), domains):
        step.publish(DataFolder(data), domain)
        built.append(step.key)
found = [stale()]
for edit in edits:
    before = {name: pathlib.Path(name).read_text() for name, _, _ in edit}
    for name, old, new in edit:
        assert old in before[name], (name, old)
        pathlib.Path(name).write_text(before[name].replace(old, new, 1))
    found.append(stale())
    for name, text in before.items():
        pathlib.Path(name).write_text(text)
print(json.dumps({"built": built, "stale": found}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is built, and what is stale by the name of an edit."""
    folder = tmp_path_factory.mktemp("staleness")
    copy, data = folder / "copy", folder / "data"
    for room in code_version.ROOMS:
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for domain in ("Mugs", "Toys"):
        write_raw(data / "raw_files", domain, 0)
    settings = {
        "defaults": {"k": 3, "text_encoder": {"model": "sample-clip"}, "image_encoder": {"kind": "none"}},
        "domains": {"Mugs": {"role": "source"}, "Toys": {}},
        "model": {"hidden": 16, "inner": 16, "head_width": 8, "state": 8},
        "pretraining": {"epochs": 1},
        "finetuning": {"epochs": 1},
        "baselines": {"gru4rec": {}, "sasrec": {}},
    }
    (data / "domains.yaml").write_text(yaml.safe_dump(settings))
    edits = {name: [edit[:3]] for name, edit in EDITS.items()}
    in_sql = [edit[:2] for edit in EDITS.values() if edit[0].endswith(".sql")]
    edits[WORDS] = [(file, old, f"-- in other words\n/* and\nmore */ {old}") for file, old in in_sql]
    edits |= {step.key: [_own(step.build)] for step in STEPS.values()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data), json.dumps(list(edits.values()))],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {"built": found["built"], "stale": dict(zip(["nothing", *edits], found["stale"], strict=True))}


def _own(build: Any) -> tuple[str, str, str]:
    """An edit of a build function: a first statement more."""
    file = Path(build.__code__.co_filename).relative_to(REPOSITORY)
    head = f"def {build.__name__}("
    text = (REPOSITORY / file).read_text()
    line = next(line for line in text.split("\n") if line.startswith(head))
    return str(file), line, f"{line}\n    job = (job, 0)[0]"


def _with_downstream(built: set[str], told: dict[str, Any]) -> set[str]:
    """These assets, and all that are built from them."""
    while more := {key for key in told["built"] if built & set(STEPS[key].upstream)} - built:
        built = built | more
    return built


@pytest.mark.long
def test_nothing_is_stale_that_was_built_or_is_said_in_other_words(told: dict[str, Any]) -> None:
    assert set(told["built"]) == set(STEPS)
    assert told["stale"]["nothing"]["steps"] == told["stale"][WORDS]["steps"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_stale_what_it_builds(name: str, told: dict[str, Any]) -> None:
    assert set(told["stale"][name]["steps"]) == _with_downstream(EDITS[name][3], told)


@pytest.mark.long
@pytest.mark.parametrize("key", sorted(STEPS))
def test_an_edit_of_its_own_build_is_noticed(key: str, told: dict[str, Any]) -> None:
    assert set(told["stale"][key]["steps"]) == _with_downstream({key}, told)


@pytest.mark.long
@pytest.mark.parametrize("name", ["a baseline that is asked for", "another baseline"])
def test_a_baseline_that_is_mended_is_trained_again_and_no_other(name: str, told: dict[str, Any]) -> None:
    before, after = (set(told["stale"][of]["kept"]) for of in ("nothing", name))
    assert len(before) == len(after) == 2
    assert len(before & after) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["how a domain is read", "the loss"])
def test_what_all_baselines_run_is_mended_and_none_is_taken_from_before(name: str, told: dict[str, Any]) -> None:
    before, after = (set(told["stale"][of]["kept"]) for of in ("nothing", name))
    assert not before & after
