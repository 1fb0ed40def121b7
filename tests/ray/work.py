"""What the nodes of a test's cluster run: an encoder that gives away its batches, and whose processes can be killed."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.encoders import Vectors
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.training.fit import TrainSummary, fit
from tests.features.work import Telltale, average
from tests.mmm4rec.conftest import read_domain


def kill_once(note: Path) -> None:
    """kill -9 for this process, unless somebody has died here before."""
    try:
        note.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Preparing:
    """Prepares a picture as `average` does, in `side` times `side` pixels."""

    side: int = 1
    note: Path | None = None
    """Who prepares the picture of the colour `deadly` dies, once."""
    deadly: tuple[int, int, int] = (40, 0, 77)
    pause: float = 0
    """Seconds that it takes."""

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """The picture's colour, [3, side, side]."""
        time.sleep(self.pause)
        if self.note and image.getpixel((0, 0)) == self.deadly:
            kill_once(self.note)
        return np.broadcast_to(average(image), (3, self.side, self.side)).copy()


class Dying(Telltale):
    """Dies once when it has encoded so many contents."""

    def __init__(self, note: Path, after: int, preparation: Any) -> None:
        super().__init__(preparation=preparation)
        self.note, self.after = note, after

    def _encode(self, contents: list[bytes]) -> Vectors:
        vectors = super()._encode(contents)
        if self.contents >= self.after:
            kill_once(self.note)
        return vectors


class OfNodes(Telltale):
    """Writes down which process has encoded how many contents at a time."""

    def __init__(self, notes: Path, preparation: Any) -> None:
        super().__init__(preparation=preparation)
        self.notes = notes

    def _encode(self, contents: list[bytes]) -> Vectors:
        with (self.notes / f"{os.environ['MMM4REC_TEST_NODE']} {os.getpid()}").open("a") as file:
            file.write(f"{len(contents)}\n")
        return super()._encode(contents)


def dying(note: Path, after: int, preparation: Any = average, device: str = "cpu") -> Dying:
    """Opens it as a node does."""
    return Dying(note, after, preparation)


def of_nodes(notes: Path, preparation: Any = average, device: str = "cpu") -> OfNodes:
    """Opens it as a node does."""
    return OfNodes(notes, preparation)


def telltale(preparation: Any = average, pause: float = 0, device: str = "cpu") -> Telltale:
    """Opens it as a node does."""
    return Telltale(pause, preparation)


def trained(
    folder: Path, model: dict[str, Any], training: dict[str, Any], death: tuple[Path, int, int], out: Path, **how: Any
) -> TrainSummary:
    """Train on the domain in a folder. `death` is a note, a rank and a number: this rank dies once, when the state has
    been saved so many times."""
    (note, rank, after), share, saves = death, how.pop("share"), 0

    def share_and_die(saved: Path) -> None:
        nonlocal saves
        share(saved)
        saves += 1
        if saves == after and os.environ["RANK"] == str(rank):
            note.with_suffix(".node").write_text(os.environ["MMM4REC_TEST_NODE"])
            kill_once(note)

    configs = ModelConfig.from_dict(model), TrainConfig.from_dict(training)
    return fit(read_domain(folder), *configs, out, share=share_and_die, **how)
