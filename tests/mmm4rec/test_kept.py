"""Kept trainings: none is done twice, and none is trusted unseen."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mmm4rec.training.kept import digest_of, keep
from tests.warehouse.disturb import killed_at

SEED = {"seed": 1}


def kept(*given: Any, **more: Any) -> Path:
    """The folder that `keep` gives, after its use."""
    with keep(*given, **more) as folder:
        assert folder.exists()
    return folder


@pytest.fixture
def built() -> list[Path]:
    """The folders that were filled."""
    return []


@pytest.fixture
def build(built: list[Path]) -> Callable[[Path, Path], None]:
    def build(made: Path, _: Path) -> None:
        built.append(made)
        (made / "ranks").write_text("1 2 3")
        (made / "run.json").write_text("{}")

    return build


def test_what_is_whole_is_not_built_again(tmp_path: Path, build: Callable, built: list[Path]) -> None:
    first, second = (kept(tmp_path, SEED, build) for _ in range(2))
    assert first == second
    assert first != kept(tmp_path, {"seed": 2}, build)
    assert len(built) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "ranks").write_text("1 2 4"), "ranks has changed"),
        (lambda folder: (folder / "run.json").unlink(), "run.json has changed"),
        (lambda folder: (folder / "more").touch(), "more has changed"),
        (lambda folder: (folder / "kept.json").unlink(), "kept.json cannot be read"),
        (lambda folder: (folder / "kept.json").write_text("[]"), "kept.json cannot be read"),
        (
            lambda folder: (folder / "kept.json").write_text(
                (folder / "kept.json").read_text().replace(digest_of(SEED), digest_of({}))
            ),
            "kept.json belongs to another training",
        ),
    ],
)
def test_what_is_damaged_is_built_again_with_a_warning(
    tmp_path: Path,
    build: Callable,
    built: list[Path],
    damage: Callable[[Path], object],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = kept(tmp_path, SEED, build)
    damage(folder)
    assert kept(tmp_path, SEED, build) == folder
    assert len(built) == 2
    warning = capsys.readouterr().err
    assert f"{folder}: the kept training is not used, the model is trained again: {said}" in warning
    assert len(warning.splitlines()) == 1
    assert (folder / "ranks").read_text() == "1 2 3"
    assert set(json.loads((folder / "kept.json").read_text())["files"]) == {"ranks", "run.json"}
    kept(tmp_path, SEED, build)
    assert len(built) == 2


def test_the_state_of_what_is_unfinished_stays_until_it_is_finished(tmp_path: Path, build: Callable) -> None:
    def stopped(made: Path, unfinished: Path) -> None:
        unfinished.mkdir()
        (unfinished / "state.json").touch()
        (made / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, SEED, stopped)
    place = tmp_path / digest_of(SEED)
    assert (place / "unfinished" / "state.json").exists()
    assert {path.name for path in kept(tmp_path, SEED, build).iterdir()} == {"kept.json", "ranks", "run.json"}
    assert not (place / "unfinished").exists()


def test_what_is_not_to_last_goes_after_its_use_unless_it_was_there(
    tmp_path: Path, build: Callable, built: list[Path]
) -> None:
    assert not kept(tmp_path, SEED, build, lasting=False).exists()
    assert [path.name for path in tmp_path.glob("*/*")] == ["lock"]
    folder = kept(tmp_path, SEED, build)
    assert kept(tmp_path, SEED, build, lasting=False) == folder
    assert folder.exists()
    assert len(built) == 2
    (folder / "ranks").unlink()
    assert kept(tmp_path, SEED, build, lasting=False).exists(), "it was damaged, and is mended"
    assert len(built) == 3


def test_who_waits_for_what_then_goes_makes_it_anew(tmp_path: Path, build: Callable, built: list[Path]) -> None:
    def slow(made: Path, unfinished: Path) -> None:
        time.sleep(0.05)
        build(made, unfinished)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: kept(tmp_path, SEED, slow, lasting=False), range(4)))) == 1
    assert len(built) == 4
    assert [path.name for path in tmp_path.glob("*/*")] == ["lock"]


def _tested(folder: Path) -> Path:
    """What came of a training, whose weights then go."""

    def train(made: Path, _: Path) -> None:
        (made / "weights").write_text("1 2 3")

    def test(made: Path, _: Path) -> None:
        trained = weights.enter_context(keep(folder / "trainings", SEED, train, lasting=False))
        (made / "ranks").write_text((trained / "weights").read_text())

    with ExitStack() as weights:
        return kept(folder / "results", SEED, test)


def test_killed_at_any_call_it_goes_on_and_leaves_nothing_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number, killed = -1, True
    while killed:
        number += 2
        folder, report = tmp_path / str(number), tmp_path / "report"
        killed = killed_at(number, _tested, folder, report=report)
        assert (_tested(folder) / "ranks").read_text() == "1 2 3"
        assert {path.name for path in (folder / "results").glob("*/*/*")} == {"kept.json", "ranks"}
        assert not report.exists()
    assert number > 10
    assert capsys.readouterr().err == "", "what was killed is not taken for damaged"
