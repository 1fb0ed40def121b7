"""Every split rule that the settings accept is applied, and the check knows what it asks for."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.assets.core import SequencesOf
from pipelines.data_folder.settings import DomainSettings
from pipelines.errors import SettingsError
from pipelines.planner.blocking import CHECKS
from pipelines.planner.step import recorded
from warehouse.core.sequences import build_sequences
from warehouse.core.settings import SplitName, SplitRule
from warehouse.core.splits import split_parts
from warehouse.tables import TABLES

NEEDED: dict[str, dict[str, Any]] = {"global_time": {"validation_from": "1970-01-03", "test_from": "1970-01-05"}}
"""The other settings that a rule needs."""
NAMES = get_args(SplitName)
RULES: list[SplitRule] = [DomainSettings("Toys", split=name, **NEEDED.get(name, {})).split_rule for name in NAMES]
DAY = 86_400
USERS = {"u": range(6), "v": range(1, 7), "w": range(2, 8)}
"""The days on which each user buys the items a to f: not the same days, so that borders in time differ from places."""


def test_the_settings_accept_the_rules_and_nothing_else() -> None:
    assert tuple(rule.name for rule in RULES) == NAMES
    assert {type(rule) for rule in RULES} == {*get_args(SplitRule)}


def test_each_rule_gives_other_parts() -> None:
    times = np.array([day * DAY for days in USERS.values() for day in days])
    starts = np.array([0, 6, 12, 18])
    assert len({split_parts(times, starts, rule).tobytes() for rule in RULES}) == len(RULES)


def test_what_a_rule_lacks_is_said() -> None:
    """A rule that needs a setting and does not get it is refused, and does not become another rule."""
    for name, needed in NEEDED.items():
        for left in needed:
            given = {key: value for key, value in needed.items() if key != left}
            with pytest.raises(SettingsError, match=f"split: {name} needs .*{left}"):
                DomainSettings("Toys", split=name, **given)


@pytest.mark.parametrize("asked", RULES, ids=lambda rule: str(rule.name))
@pytest.mark.parametrize("applied", RULES, ids=lambda rule: str(rule.name))
def test_the_check_refuses_sequences_that_another_rule_has_split(
    tmp_path: Path, asked: SplitRule, applied: SplitRule
) -> None:
    """Also when the summary, which is of the rule that was applied, agrees with the tables."""
    rows = [(user, item, day) for user, days in USERS.items() for item, day in zip("abcdef", days, strict=True)]
    values = [(line, user, item, 5.0, day * DAY) for line, (user, item, day) in enumerate(rows, 1)]
    schema = TABLES["core/interactions/interactions"]
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in values], schema)
    pq.write_table(table, tmp_path / "interactions.parquet")
    out = tmp_path / "out"
    out.mkdir()
    summary = dataclasses.asdict(build_sequences(tmp_path / "interactions.parquet", out, 3, applied))
    assert summary["split"] == applied.name
    check, parameters = CHECKS["core/sequences"], recorded(SequencesOf(3, asked, None))
    counts = check.count("core/sequences", out, [], summary, parameters)
    assert any(counts.values()) == (asked != applied)


def test_the_check_refuses_a_rule_that_it_does_not_know(tmp_path: Path) -> None:
    schema = TABLES["core/sequences/interactions"]
    pq.write_table(schema.empty_table(), tmp_path / "interactions.parquet")
    parameters = {"k": 3, "max_length": None, "split": {"name": "by_nobody"}}
    counts = CHECKS["core/sequences"].count("core/sequences", tmp_path, [], {}, parameters)
    assert {name for name, count in counts.items() if count} == {"rules_that_this_check_does_not_know"}
