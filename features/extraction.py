"""Embeddings from the command line, for a GPU node without Dagster and DuckDB: one process or several torchrun ranks.

    python -m features.extraction image --items item_images --cache cache/vectors --model clip-ViT-B-32
    python -m torch.distributed.run --nproc-per-node 8 -m features.extraction image --items ... --cache ... --out ...

    python -m features.extraction image --items item_images --cache cache/vectors --ray auto --out ...

`--items` is the folder of an artifact, features/item_text or features/item_images. Vectors go to `--cache`, which all
ranks share. If a data folder has these vectors in its cache/vectors, `mmm4rec run` does not encode them again. With
`--out`, rank 0 also writes the table when all ranks are done, with the same bytes as a single process. A run that was
stopped continues where it stopped.

With `--ray`, the nodes of a Ray cluster read, decode and encode, and this process, on one of them, writes cache and
table. All nodes need the folder `--items` and the model under the same paths.
"""

import argparse
import dataclasses
import functools
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from warehouse.artifacts.processes import end_on_signals

if __name__ == "__main__":
    end_on_signals()  # called here, because the imports below take some time

from features.encoders import Encoder, ReadyVectors, open_encoder
from features.errors import FeatureError
from features.settings import EncoderSettings, unread
from features.vectors.cluster import Cluster, cluster_at
from features.vectors.embeddings import ALONE, EmbeddingSummary, Share, embed_images, embed_texts
from warehouse.artifacts.progress import Progress

_EVERY = 5.0
"""Seconds between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, extract, and print the result. Returns 1 if an input cannot be used."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mmm4rec").setLevel(logging.INFO)
    settings = EncoderSettings(**{name: getattr(options, name) for name in _settings()})
    share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    given = [name for name, value in dataclasses.asdict(settings).items() if value != getattr(EncoderSettings, name)]
    try:
        if idle := unread(settings.kind, given, options.modality):
            raise FeatureError(
                f"--{idle[0]}: not read for {options.modality} by an encoder of kind {settings.kind}; give the --kind "
                "that reads it, or leave it out"
            )
        extract(
            options.modality, options.items, settings, options.cache, options.out,
            share=share, device=options.device, workers=options.workers, batch_size=options.batch_size, ray=options.ray,
        )  # fmt: skip
    except FeatureError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def extract(
    modality: Literal["text", "image"],
    items: Path,
    settings: EncoderSettings,
    cache: Path,
    out: Path | None,
    *,
    share: Share = ALONE,
    device: str = "auto",
    workers: int | None = None,
    batch_size: int | None = None,
    ray: str | None = None,
) -> EmbeddingSummary:
    """Encode this rank's share. With `out`, rank 0 then waits for the others and writes the table there.

    Args:
        modality: text or image.
        items: folder of item_text or item_images.
        settings: the encoder.
        cache: folder of the vector caches, the same for all ranks.
        out: folder to create; it must be missing or empty.
        share: this rank and the number of ranks. Several ranks need the environment that torchrun sets.
        device: torch's name of a device; auto uses the GPU of this local rank if there is one.
        workers: number of processes that decode pictures; None chooses.
        batch_size: contents per encoder call; None uses the default of the modality and device.
        ray: address of a Ray cluster whose nodes do the work.

    Raises:
        FeatureError: see :func:`features.vectors.embeddings.embed_texts`; `out` is not empty; arguments contradict each
            other.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FeatureError(f"{out} exists and is not empty; name a new folder with --out, or remove it")
    if ray is not None and (share.world > 1 or workers is not None):
        raise FeatureError("--ray: Ray starts the processes: leave out --workers, and do not start it with torchrun")
    # On a cluster, this process encodes only probes.
    encoder = open_encoder(settings, device=_device(device) if ray is None else "cpu")
    who = f"rank {share.rank} of {share.world}: " if share.world > 1 else ""
    where = items.absolute().joinpath
    with cluster_at(ray, functools.partial(open_encoder, settings), where, device) as cluster:
        embed = _embedding(modality, items, settings, cache, workers, batch_size, cluster)
        with _together(share):
            summary = embed(encoder, None, share, _PrintedProgress(who))
        if out is not None and share.rank == 0:
            unfinished = out.with_name(f"{out.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            encoded = summary.encoded
            summary = embed(encoder, unfinished, ALONE, None)
            summary = dataclasses.replace(summary, encoded=encoded, reused=summary.reused - encoded)
            unfinished.replace(out)
    print(f"{who}{summary.encoded:,} encoded, {summary.reused:,} reused, {summary.missing:,} missing", file=sys.stderr)
    return summary


@contextmanager
def _together(share: Share) -> Iterator[None]:
    """At the end of the block, the ranks wait for each other."""
    if share.world == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield
        dist.barrier()  # an error here means that another rank died; that rank printed the reason
    finally:
        dist.destroy_process_group()


def _embedding(
    modality: str,
    items: Path,
    settings: EncoderSettings,
    cache: Path,
    workers: int | None,
    batch_size: int | None,
    cluster: Cluster | None,
) -> Callable[[Encoder | ReadyVectors, Path | None, Share, Progress | None], EmbeddingSummary]:
    """embed_texts or embed_images, with the arguments that are the same in every call."""
    size = {} if batch_size is None else {"batch_size": batch_size}

    def embed(
        encoder: Encoder | ReadyVectors, out: Path | None, share: Share, progress: Progress | None
    ) -> EmbeddingSummary:
        if modality == "text":
            return embed_texts(
                items, encoder, out,
                form=settings.text, cache=cache, storage=settings.storage, share=share, progress=progress,
                cluster=cluster, **size,
            )  # fmt: skip
        return embed_images(
            items, encoder, out,
            cache=cache, storage=settings.storage, share=share, workers=workers, progress=progress,
            cluster=cluster, **size,
        )  # fmt: skip

    return embed


def _device(named: str) -> str:
    if named != "auto":
        return named
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


class _PrintedProgress:
    """Prints lines of progress on stderr: the number done, the total, and the number per second."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._start = self._printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._printed >= _EVERY or done == total:
            self._printed = now
            rate = done / max(now - self._start, 1e-9)
            print(f"{self._who}{done:,} of {total:,}, {rate:,.0f} a second", file=sys.stderr, flush=True)


def _settings() -> list[str]:
    return [field.name for field in dataclasses.fields(EncoderSettings)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m features.extraction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("modality", choices=["text", "image"])
    parser.add_argument("--items", type=Path, required=True, help="folder of item_text or item_images")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the vector caches, shared by all ranks")
    parser.add_argument("--out", type=Path, help="folder to write the table to")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (auto: this rank's GPU if any)")
    parser.add_argument(
        "--workers", type=int, help="processes that decode pictures (default: chosen by the number of cores)"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="address of a Ray cluster (auto: this machine's)")
    parser.add_argument("--batch-size", type=int, help="contents handed to the encoder at once")
    hints = get_type_hints(EncoderSettings)
    for field in dataclasses.fields(EncoderSettings):
        kind = hints[field.name]
        choices = list(get_args(kind)) if get_origin(kind) is Literal else None
        parser.add_argument(
            f"--{field.name}",
            type=int if kind is int else str,
            default=field.default,
            choices=choices,
            help="of the encoder settings",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
