"""Small models of every kind."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from mmm4rec.baselines.config import BASELINES, BaselineConfig

SMALL = {"hidden": 16, "inner": 16, "length": 6, "heads": 2, "state": 4, "head_width": 8, "experts": 3}


@pytest.fixture
def small_one() -> Callable[..., Any]:
    """A factory: the small config of a baseline, without dropout but for what is asked for."""

    def make(name: str, **changes: object) -> BaselineConfig:
        config = BASELINES[name].config
        assert isinstance(config, BaselineConfig)
        known = {field.name for field in fields(config)}
        still = {field: 0.0 for field in known if field.startswith("dropout")}
        sizes = {name: value for name, value in SMALL.items() if name in known}
        return replace(config, **{**sizes, **still, **changes})

    return make
