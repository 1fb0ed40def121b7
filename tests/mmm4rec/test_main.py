"""`python -m mmm4rec` on exported files, where only its own five packages and what they need can be imported."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2

from mmm4rec.__main__ import main
from mmm4rec.checkpoint import load
from tests.mmm4rec.conftest import SMALL, write_domain

NEEDED = ("torch", "lightning-fabric", "numpy", "pyarrow", "safetensors")
HIDING = """
import sys
class Hide:
    names = frozenset(sys.argv.pop(1).split(","))
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in self.names else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Hide, sys.meta_path)
"""
TRAINING = {"epochs": 2, "batch_size": 32, "accumulate": 1, "learning_rate": 3e-3, "device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A domain as exported: each table in the folder of its asset."""
    return exported(tmp_path / "Toys")


def exported(folder: Path, **options) -> Path:
    write_domain(folder, **options)
    for table, home in (("sequences", "sequences"), ("items", "sequences")):
        (folder / home).mkdir(exist_ok=True)
        (folder / f"{table}.parquet").rename(folder / home / f"{table}.parquet")
    for name in ("text", "image"):
        (folder / f"{name}_embeddings").mkdir()
        (folder / f"{name}.parquet").rename(folder / f"{name}_embeddings" / f"{name}_embeddings.parquet")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model": SMALL, "training": TRAINING}))
    return file


def others() -> list[str]:
    """Every installed top-level module that belongs neither to `NEEDED` nor to what these require."""
    allowed: set[str] = set()
    waiting = list(NEEDED)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in allowed:
            continue
        allowed.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # required on other systems
            continue
        waiting += [re.split(r"[ <>=!~;\[(]", line)[0] for line in lines if "extra ==" not in line]
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if module not in ("mmm4rec", "tests")
        and not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in owners)
    )


@pytest.mark.long
def test_it_trains_where_nothing_else_is_installed(folder: Path, config: Path, tmp_path: Path) -> None:
    hidden = others()
    assert {"duckdb", "dagster", "transformers"} <= set(hidden)
    runs = [*commands(folder, config, tmp_path)]
    script = (
        HIDING
        + f"""
from importlib.util import find_spec
from mmm4rec.__main__ import main
assert find_spec("duckdb") is None and find_spec("pyarrow")
sys.exit(max(main(arguments) for arguments in {runs!r}))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(hidden)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"epoch 2/2: \d+ steps, .* loss \d", done.stderr)
    assert re.search(r"to 95% of the best: \d epochs, \d+ optimiser steps, \d", done.stdout)
    assert "initialised: image_item (one row per item: learned in each domain)" in done.stdout
    metrics = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert metrics["users"] == 40
    assert 0 < metrics["hr"]["20"] <= 1
    table = pq.read_table(tmp_path / "best" / "recommendations.parquet")
    assert table.num_rows == 40 * 3
    assert not (tmp_path / "tuned" / "state").exists()


def commands(folder: Path, config: Path, tmp_path: Path) -> list[list[str]]:
    """Pre-train, fine-tune, evaluate, recommend."""
    toys = ["--domain", "Toys", str(folder)]
    files = [str(folder / name) for name in ("sequences", "text_embeddings", "image_embeddings")]
    short = ["--config", str(config), "--set", "training.patience=null"]
    tuned = ["--checkpoint", str(tmp_path / "tuned")]
    return [
        ["pretrain", *toys, "--domain", "Games", *files, *short, "--out", str(tmp_path / "pre")],
        ["finetune", *toys, *short, "--init", str(tmp_path / "pre"), "--out", str(tmp_path / "tuned")],
        ["evaluate", *toys, *tuned, "--json"],
        ["write-recommendations", *toys, *tuned, "-k", "3", "--out", str(tmp_path / "best")],
    ]


@pytest.mark.long
def test_the_model_is_imported_without_fabric() -> None:
    script = HIDING + "import mmm4rec.__main__, mmm4rec.training.fit, mmm4rec.evaluation.ranking\n"
    subprocess.run([sys.executable, "-c", script, "lightning_fabric"], env=dict(os.environ), check=True, timeout=120)


def test_checkpoints_go_out_and_come_back(
    folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, file, back = (str(tmp_path / name) for name in ("ours", "a.ckpt", "back"))
    settings = ["--config", str(config), "--set", "model.compat=published", "--set", "training.epochs=1"]
    assert main(["finetune", "--domain", "Toys", str(folder), *settings, "--out", ours]) == 0
    assert main(["export-checkpoint", ours, file]) == 0
    assert main(["import-checkpoint", file, back]) == 1
    assert "--items" in capsys.readouterr().err
    dropout = [part for name in ("embedding", "hidden", "time") for part in ("--set", f"model.dropout_{name}=0.1")]
    assert main(["import-checkpoint", file, back, "--items", str(folder), *dropout]) == 0
    assert (
        "left out: decoder_ssd_layers.0.ssd.A_log (the shared block, which this model holds once)"
        in capsys.readouterr().out
    )
    assert load(Path(back)).config == load(Path(ours)).config
    one, two = (load_file(Path(f"{place}/model.safetensors")) for place in (ours, back))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert main(["evaluate", "--domain", "Toys", str(folder), "--checkpoint", back, "--split", "validation"]) == 0
    assert re.search(r"HR@10 +0\.\d{4} ± 0\.\d{4} +NDCG@10 +0\.\d{4} ±", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "model.hiden=3"], "unknown setting 'hiden' (did you mean 'hidden'?)"),
        (["--set", "epochs=3"], "--set epochs=3: expected model.NAME=VALUE or training.NAME=VALUE"),
        (["--set", "training.epochs=many"], "training.epochs: expected int, found str 'many'"),
        (["--config", "nowhere.json"], "nowhere.json: cannot be read (No such file or directory)"),
        (["--init", "nowhere"], "nowhere: there is no checkpoint"),
        (["--set", 'training.loggers=["csv"]'], "loggers is csv but no folder is given: pass logs (--logs)"),
        (["--domain", "Toys", "a", "b"], "expected NAME FOLDER, or NAME SEQUENCES TEXT IMAGE"),
        (["--domain", "Toys", "nowhere"], "items.parquet: there is no such file"),
    ],
)
def test_errors_are_one_line(
    folder: Path,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    domain = [] if "--domain" in change else ["--domain", "Toys", str(folder)]
    arguments = ["finetune", *domain, "--config", str(config), "--out", str(tmp_path / "out"), *change]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_command_still_answers_to_its_former_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["recommend", "--help"])
    printed = capsys.readouterr()
    assert printed.err == "notice: the command recommend is now called write-recommendations\n"
    assert printed.out.startswith("usage: python -m mmm4rec write-recommendations ")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert " recommend " not in capsys.readouterr().out


def test_a_model_is_not_replaced_unasked(
    folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "--domain", "Toys", str(folder), "--config", str(config), "--out", str(tmp_path / "out")]
    arguments += ["--set", "training.epochs=1"]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "this folder already has a model: give another --out, or --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_tensorboard_and_csv_hold_every_epoch(folder: Path, config: Path, tmp_path: Path) -> None:
    """As people read them: the event file by TensorBoard's format, beside the history."""
    logs = ["--set", 'training.loggers=["csv","tensorboard"]', "--logs", str(tmp_path / "logs")]
    arguments = ["--domain", "Toys", str(folder), "--config", str(config), "--out", str(tmp_path / "out")]
    for _ in range(2):  # a second run replaces the first one's
        assert main(["finetune", *arguments, *logs, "--overwrite"]) == 0
    found = scalars(tmp_path / "logs" / "tensorboard")
    history = pq.read_table(tmp_path / "out" / "history.parquet").to_pylist()
    for name in ("ndcg_10", "hr_50", "loss", "optimiser_steps", "examples"):
        expected = {row["epoch"]: row[name] for row in history if row[name] is not None}
        assert found[name] == pytest.approx(expected, rel=1e-6), name
    rows = (tmp_path / "logs" / "csv" / "metrics.csv").read_text().splitlines()
    columns = rows[0].split(",")
    assert set(columns) == {"step", *found}
    assert len(rows) == 1 + len(history)
    assert float(rows[3].split(",")[columns.index("ndcg_10")]) == pytest.approx(history[2]["ndcg_10"])


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The values of an event file: name -> epoch -> value. A file is records of a length (8 bytes), its checksum (4),
    an event, and its checksum (4)."""
    (file,) = folder.glob("events.out.*")
    content, found = file.read_bytes(), {}
    place = 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
        place += length + 16
    return found


def test_tensorboard_must_be_installed(
    folder: Path,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ("TENSORBOARD", "TENSORBOARDX"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard._{package}_AVAILABLE", False)
    logs = ["--set", 'training.loggers=["tensorboard"]', "--logs", str(tmp_path / "logs")]
    arguments = ["--domain", "Toys", str(folder), "--config", str(config), "--out", str(tmp_path / "out")]
    assert main(["finetune", *arguments, *logs]) == 1
    assert "pip install 'mmm4rec[tensorboard]', or set loggers to [csv]" in capsys.readouterr().err
