"""Results of long computations on disk, each under a digest of everything that decides it, to avoid repeating work.

    <cache>/<digest>/finished/     its files, and beside them in kept.json the sha256 of each
    <cache>/<digest>/unfinished/   the state of a training that was stopped
    <cache>/<digest>/lock          held by the process that trains or uses the result

Every use verifies the stored result. A damaged result is computed again. `mmm4rec.training.once` defines what a
training stores.
"""

import fcntl
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["digest_of", "keep"]

_log = logging.getLogger("mmm4rec")

_RECORD = "kept.json"


def digest_of(decisive: Mapping[str, object]) -> str:
    """The name under which a training is stored: a digest of everything that decides it, as JSON."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def keep(
    cache: Path, decisive: Mapping[str, object], build: Callable[[Path, Path], object], *, lasting: bool = True
) -> Iterator[Path]:
    """The folder that `build(folder, folder for an unfinished training)` has filled, now or earlier.

    If another process works on the same result, this process waits and uses that result. A damaged result causes a
    message on stderr and is built again. At the end the folder is removed, unless it existed before or is `lasting`.
    The lock file stays, because other processes may wait for it.
    """
    digest = digest_of(decisive)
    place = cache / digest
    finished, made = place / "finished", place / "made"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process trains in %s: waiting for its result", place)
            fcntl.flock(lock, fcntl.LOCK_EX)
        stood = finished.exists()
        if stood and (flaw := _flaw(finished, digest)):
            print(f"{finished}: the kept training is not used, the model is trained again: {flaw}", file=sys.stderr)
            shutil.rmtree(finished)
        if not finished.exists():
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            build(made, place / "unfinished")
            record = {"digest": digest, "files": _hashes(made)}
            (made / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            made.rename(finished)
            shutil.rmtree(place / "unfinished", ignore_errors=True)
        yield finished
        if not stood and not lasting:
            finished.rename(made)  # renamed first, so that a kill leaves no half-deleted result that looks damaged
            shutil.rmtree(made)


def _flaw(folder: Path, digest: str) -> str | None:
    """The damage of a finished training, or None."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        named, files = record["digest"], dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_RECORD} cannot be read ({type(error).__name__}: {error})"
    if named != digest:
        return f"{_RECORD} belongs to another training"
    found = _hashes(folder)
    differing = sorted(name for name, _ in files.items() ^ found.items())
    return f"{', '.join(dict.fromkeys(differing))} has changed" if differing else None


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file except the record, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _RECORD:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
