"""Kept trainings: none is done twice, and none is trusted unseen."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmm4rec.training.kept import digest_of, keep

SEED = {"seed": 1}


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
    first, second = (keep(tmp_path, SEED, build) for _ in range(2))
    assert first == second
    assert first != keep(tmp_path, {"seed": 2}, build)
    assert len(built) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "ranks").write_text("1 2 4"), "ranks is not what was kept"),
        (lambda folder: (folder / "run.json").unlink(), "run.json is not what was kept"),
        (lambda folder: (folder / "more").touch(), "more is not what was kept"),
        (lambda folder: (folder / "kept.json").unlink(), "kept.json cannot be read"),
        (lambda folder: (folder / "kept.json").write_text("[]"), "kept.json cannot be read"),
        (
            lambda folder: (folder / "kept.json").write_text(
                (folder / "kept.json").read_text().replace(digest_of(SEED), digest_of({}))
            ),
            "kept.json is of another training",
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
    folder = keep(tmp_path, SEED, build)
    damage(folder)
    assert keep(tmp_path, SEED, build) == folder
    assert len(built) == 2
    warning = capsys.readouterr().err
    assert f"{folder}: the kept training is not used, it is trained again: {said}" in warning
    assert len(warning.splitlines()) == 1
    assert (folder / "ranks").read_text() == "1 2 3"
    assert set(json.loads((folder / "kept.json").read_text())["files"]) == {"ranks", "run.json"}
    keep(tmp_path, SEED, build)
    assert len(built) == 2


def test_the_state_of_what_is_unfinished_stays_until_it_is_finished(tmp_path: Path, build: Callable) -> None:
    def stopped(made: Path, unfinished: Path) -> None:
        unfinished.mkdir()
        (unfinished / "state.json").touch()
        (made / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, SEED, stopped)
    place = tmp_path / digest_of(SEED)
    assert (place / "unfinished" / "state.json").exists()
    assert {path.name for path in keep(tmp_path, SEED, build).iterdir()} == {"kept.json", "ranks", "run.json"}
    assert not (place / "unfinished").exists()
