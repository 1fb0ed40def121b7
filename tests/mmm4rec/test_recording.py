"""Optimiser steps as recorded work: the same weights as steps that Python starts one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmm4rec.baselines.config import BASELINES, ITEM_KNN
from mmm4rec.config import ModelConfig, RecommenderConfig, TrainConfig
from mmm4rec.data import examples as cutting
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Examples
from mmm4rec.model import recommender
from mmm4rec.registry import make
from mmm4rec.training import loop
from mmm4rec.training.fit import fit
from mmm4rec.training.gradient import accumulate, part_seed
from mmm4rec.training.recording import RecordedSteps, Recorder, recorder_for
from tests.mmm4rec.tape import ReadError, Tapes

Config = Callable[..., ModelConfig]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's different items are not counted, and parts are large enough to be few."""
    monkeypatch.setattr(recommender, "_distinct", lambda items: (items, torch.arange(len(items), device=items.device)))


def test_recorded_steps_are_the_steps(domain: DomainData, small: Config) -> None:
    """With dropout: a repetition draws the random numbers of its seed."""
    same_in_recorded_steps(small(), domain, in_batch=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "in_batch"),
    [
        ({}, False),
        *product([{"compat": "published"}, {"fusion": "dynamic_instance"}, {"layers": 2}], [False, True]),
    ],
)
def test_recorded_steps_of_every_form_are_the_steps(
    domain: DomainData, small: Config, changes: dict, in_batch: bool
) -> None:
    same_in_recorded_steps(small(**changes), domain, in_batch)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in BASELINES if name != ITEM_KNN])
def test_every_baseline_can_be_recorded(domain: DomainData, name: str) -> None:
    config = BASELINES[name].config
    known = {field.name for field in fields(config)}
    sizes = {"hidden": 16, "inner": 16, "length": 6, "heads": 2, "state": 4, "head_width": 8, "experts": 3}
    config = replace(config, **{key: value for key, value in sizes.items() if key in known})
    same_in_recorded_steps(config, domain, in_batch=False)


def same_in_recorded_steps(config: RecommenderConfig, domain: DomainData, in_batch: bool) -> None:
    """Three epochs, so that every shape is recorded and repeated, end with the losses and weights of plain steps."""
    examples = domain.examples("training", 6)
    tapes = Tapes()
    found = [trained(config, domain, examples, in_batch, recorder) for recorder in (None, tapes)]
    assert tapes.recorded >= 3 + 3  # before and after the break
    assert tapes.repeated > 10
    assert len(found[0][0].unique()) > len(found[0][0]) / 2
    for plain, recorded in zip(*found, strict=True):
        torch.testing.assert_close(recorded, plain, rtol=1e-6, atol=1e-6)


def trained(
    config: RecommenderConfig, domain: DomainData, examples: Examples, in_batch: bool, recorder: Recorder | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The losses of all parts of three epochs, and the weights after them. Without a recorder: step by step, with one
    seed for each part. With one: after the first epoch, another process goes on with the weights and the optimiser."""
    torch.manual_seed(0)
    model = make(config, domain).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    optimiser = torch.optim.NAdam(model.parameters(), lr=1e-2, weight_decay=0.005, foreach=True)
    steps = None
    losses = []
    for epoch in range(3):
        if recorder and epoch < 2:
            model.zero_grad()
            steps = RecordedSteps(
                recorder, model, model, optimiser, examples, in_batch=in_batch, step_items=model.step_items
            )
        cut = examples.steps(16, 3, epoch, None if in_batch else 60, fixed_shapes=True)
        for step, parts in enumerate(cut):
            seed_of = partial(part_seed, 1, epoch, step)
            if steps:
                losses.append(steps.step(parts, seed_of))
                continue

            @contextmanager
            def seeded(place: int, seed_of: Callable[[int], int] = seed_of) -> Iterator[None]:
                torch.manual_seed(seed_of(place))
                yield

            torch.manual_seed(seed_of(-1))
            items = None if in_batch else model.step_items()
            losses.append(accumulate(model, examples, parts, in_batch=in_batch, items=items, around=seeded))
            optimiser.step()
            optimiser.zero_grad()
    return torch.cat(losses), {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_a_training_in_recorded_steps_is_the_training(
    domain: DomainData,
    small: Config,
    quick: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole of `fit`. Without dropout, because the two cut a step into other parts."""
    config = small(dropout_embedding=0.0, dropout_hidden=0.0, dropout_time=0.0)
    training = quick(epochs=4, patience=None)
    tapes = Tapes()
    found = ("plain", "recorded")
    for name in found:
        out = tmp_path / name
        out.mkdir()
        fit(domain, config, training, out)
        monkeypatch.setattr(loop, "recorder_for", lambda device: tapes)
        monkeypatch.setitem(loop.LOOK_EVERY, "cpu", 64)
    assert tapes.repeated > 20
    plain, recorded = (pq.read_table(tmp_path / name / "history.parquet")["loss"].to_pylist() for name in found)
    assert recorded[1:] == pytest.approx(plain[1:], rel=1e-4)


def test_work_that_reads_from_the_device_is_refused(domain: DomainData, small: Config) -> None:
    """The stand-in refuses what a CUDA graph refuses."""
    with pytest.raises(ReadError, match="_local_scalar_dense"):
        Tapes().record(lambda: float(torch.ones(3).sum()))
    assert recorder_for(torch.device("cpu")) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 400))
def test_parts_of_fixed_shapes_hold_every_row_once(lengths: list[int], tokens: int) -> None:
    lengths.sort()
    parts = list(cutting._fixed(lengths, 50, tokens))
    assert [row for rows, _ in parts for row in range(rows.start, rows.stop)] == list(range(len(lengths)))
    for rows, longest in parts:
        assert longest >= max(lengths[rows])
        assert longest in (*cutting.FIXED_LENGTHS, 50)
        count = rows.stop - rows.start
        assert count == 1 or count * longest <= tokens
    # Without the limit, the numbers of rows do not depend on the lengths.
    counts = [rows.stop - rows.start for rows, _ in cutting._fixed(lengths, 50, 10**9)]
    assert counts == [rows.stop - rows.start for rows, _ in cutting._fixed([1] * len(lengths), 50, 10**9)]


def test_steps_of_fixed_shapes_have_the_same_examples(domain: DomainData) -> None:
    examples = domain.examples("training", 6)
    for tokens in (None, 60):
        pairs = zip(examples.steps(16, 3, 1, tokens), examples.steps(16, 3, 1, tokens, fixed_shapes=True), strict=True)
        for plain, fixed in pairs:
            chosen = [torch.cat([part.chosen for part in parts]) for parts in (plain, fixed)]
            assert torch.equal(*chosen)
            assert sum(part.share for part in fixed) == pytest.approx(sum(part.share for part in plain))
            assert [replace_length(part) for part in fixed] == [part.longest for part in fixed]


def replace_length(part: cutting.Part) -> int:
    return cutting.fixed_length(part.longest, 6)
