"""The strict reader: every mistake is an error that names the place and the nearest known thing."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mmm4rec.config import FINETUNING, PRETRAINING, ModelConfig, TrainConfig, read_config
from mmm4rec.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float = 0.5
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner = Inner()
    inners: dict[str, Inner] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    root: Path | None = None
    either: int | str = 0


def test_every_kind_of_value_is_read() -> None:
    read = read_config(
        Outer,
        {
            "name": "n",
            "ratio": 1,
            "mode": "slow",
            "inner": {"size": 2},
            "inners": {"a": {"size": 3}},
            "sizes": [1, 2],
            "pair": [2, "b"],
            "root": "/data",
            "either": "x",
        },
    )
    assert read == Outer("n", 1.0, "slow", Inner(2), {"a": Inner(3)}, (1, 2), (2, "b"), Path("/data"), "x")
    assert isinstance(read.ratio, float)
    assert read_config(Outer, {"ratio": 2}, base=read).name == "n"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"nme": "x"}, r"house: unknown setting 'nme' \(did you mean 'name'\?\)"),
        ({}, "house: the setting 'name' is missing"),
        ({"name": 3}, r"house\.name: expected str, found int 3"),
        ({"name": "x", "ratio": "1e-4"}, r"house\.ratio: expected float.*YAML reads 1e-4 as text, write 1\.0e-04"),
        ({"name": "x", "ratio": True}, r"house\.ratio: expected float, found bool"),
        ({"name": "x", "ratio": float("nan")}, "not a finite number"),
        ({"name": "x", "mode": "fats"}, r"house\.mode: 'fats' is unknown \(did you mean 'fast'\?\)"),
        ({"name": "x", "inner": {"size": 1.5}}, r"house\.inner\.size: expected int, found float"),
        ({"name": "x", "inner": 3}, r"house\.inner: expected a mapping"),
        ({"name": "x", "inners": {"a": {"sise": 1}}}, r"house\.inners\.a: unknown setting 'sise'"),
        ({"name": "x", "sizes": [1, "2"]}, r"house\.sizes\[1\]: expected int"),
        ({"name": "x", "sizes": 1}, r"house\.sizes: expected"),
        ({"name": "x", "pair": [1]}, r"house\.pair: expected 2 values, found 1"),
        ({"name": "x", "either": 1.5}, r"house\.either: expected int or str, found float"),
        ([], "expected a mapping"),
    ],
)
def test_mistakes_are_named(mapping: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(Outer, mapping, "house")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"hiden": 64}, "did you mean 'hidden'"),
        ({"hidden": 0}, r"model: hidden is 0: it must be greater than 0"),
        ({"hidden": 60}, "head_width 64 does not divide expand \\* hidden = 120"),
        ({"groups": 3}, "groups 3 does not divide the 8 heads"),
        ({"dropout_time": 1.0}, "dropout_time is 1.0"),
        ({"compat": "publisht"}, "did you mean 'published'"),
    ],
)
def test_model_settings_are_checked(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(mapping)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"metric": "NDCG@5"}, "did you mean 'NDCG@50'|did you mean 'NDCG@10'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"validate_every": 0}, "keep is 'best' but validate_every is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"patience": 0}, "patience is 0"),
    ],
)
def test_training_settings_are_checked(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(mapping)


def test_the_defaults_are_the_published_ones() -> None:
    config = ModelConfig()
    assert (config.heads, config.group_count, config.inner_width) == (8, 8, 512)
    assert (FINETUNING.learning_rate, FINETUNING.batch_size * FINETUNING.accumulate) == (1e-4, 8192)
    assert (PRETRAINING.learning_rate, PRETRAINING.epochs, PRETRAINING.loss) == (2.5e-4, 40, "in_batch")


@pytest.mark.long
def test_the_package_imports_without_anything_heavy() -> None:
    code = (
        "import sys, mmm4rec; assert 'torch' not in sys.modules\n"
        "import mmm4rec.training.fit, mmm4rec.evaluation.ranking, mmm4rec.published.parity\n"
        "found = {'lightning_fabric', 'pandas', 'duckdb', 'yaml', 'dagster'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
