"""GRU4Rec and SASRec are RecBole's: the same scores from the same weights, the same start. `make recbole` runs it."""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.recbole import Theirs, apart, configs, open_recbole, renamed
from benchmarks.training import make_domain
from mmm4rec.config import TrainConfig
from mmm4rec.registry import make
from tests.conftest import REPOSITORY

pytest.importorskip("recbole", reason="RecBole is not among the dependencies: `make recbole`")

LENGTH = 20
DOMAIN = make_domain(400, 100)


@pytest.fixture(params=list(configs(LENGTH)))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theirs]:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield open_recbole(model, DOMAIN, TrainConfig(batch_size=64), LENGTH, tmp_path)


def test_the_same_weights_give_the_same_scores(model: str, opened: Theirs) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in opened.network.parameters():
        # Far from the start, so that every term shows.
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    assert apart(model, opened, DOMAIN, LENGTH) < 1e-5


def test_training_starts_from_weights_of_the_same_spread(model: str, opened: Theirs) -> None:
    torch.manual_seed(0)
    mine = dict(make(configs(LENGTH)[model], DOMAIN).named_parameters())
    found = renamed(opened.network.state_dict(), opened.ids)
    assert mine.keys() == found.keys()
    for name, weight in mine.items():
        assert weight.shape == found[name].shape
        if weight.numel() > 1 and name != "out.bias":  # of few numbers, whose spread is chance
            assert float(weight.std()) == pytest.approx(float(found[name].std()), rel=0.1, abs=1e-9), name


def test_dropout_is_recboles(model: str, opened: Theirs) -> None:
    config, known = configs(LENGTH)[model], opened.config
    names = {
        "GRU4Rec": {"dropout": "dropout_prob"},
        "SASRec": {"dropout_hidden": "hidden_dropout_prob", "dropout_attention": "attn_dropout_prob"},
    }[model]
    for mine, theirs in names.items():
        assert getattr(config, mine) == known[theirs]


def test_the_quick_form_trains_both() -> None:
    command = [sys.executable, "-m", "benchmarks.recbole", "--quick", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for model in configs(LENGTH):
        assert found[f"{model}_same_weights"] < 1e-5, "after training, too"
        assert min(found[f"{model}_{program}_NDCG@10"] for program in ("ours", "RecBole")) > 0
