"""`python -m mmm4rec`: training, evaluation and recommendation from exported files, without the pipeline.

The pipeline's `mmm4rec recommend` shows the recommendations of one user. `write-recommendations` in this module writes
those of all users to a file. Needs torch, numpy, pyarrow, safetensors, and lightning-fabric for training. This module
only reads arguments and prints; the modules that it calls do the work.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmm4rec.processes import end_on_signals

if __name__ == "__main__":
    end_on_signals()  # before the imports below, which take seconds

from mmm4rec.checkpoint import load_model
from mmm4rec.config import FINETUNING, PRETRAINING, ModelConfig, TrainConfig, read_config
from mmm4rec.data.domain import DomainData
from mmm4rec.data.reading import load_domain
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.evaluation.ranking import evaluate
from mmm4rec.evaluation.recommending import recommend, write_recommendations
from mmm4rec.files import regular
from mmm4rec.metrics import figures
from mmm4rec.printable import plain, visible
from mmm4rec.published.exchange import Exchange, export_checkpoint, import_checkpoint
from mmm4rec.published.processed import load_processed
from mmm4rec.training.fit import Epoch, TrainSummary, fit, pretrain

T = TypeVar("T")
_LARGEST_CONFIG = 1 << 20
_FORMER = {"recommend": "write-recommendations"}
"""Former names of commands: no help lists them, but they still work."""
DOMAIN = """\
--domain NAME FOLDER             a folder with sequences.parquet, items.parquet, text_embeddings.parquet and
                                 image_embeddings.parquet; each file may be in a subfolder with its name
--domain NAME SEQUENCES TEXT IMAGE
                                 the folder of core/sequences, and the folders or files of text_embeddings and
                                 image_embeddings

Settings come from --config FILE (JSON: {"model": {...}, "training": {...}}) and --set model.hidden=128 or
--set training.epochs=5, which overrides the file. A setting that is not given has the published value.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code: 0 success, 1 an error of data, settings or training, 2 wrong usage (of argparse)."""
    options = _parser().parse_args(_renamed(sys.argv[1:] if arguments is None else arguments))
    try:
        options.command(options)
    except ModelError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 1
    return 0


def _renamed(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a former command name replaced by the present one."""
    first, *others = arguments or [""]
    if first not in _FORMER:
        return [*arguments]
    print(f"notice: the command {first} is now called {_FORMER[first]}", file=sys.stderr)
    return [_FORMER[first], *others]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmm4rec", description="MMM4Rec from exported files.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, epilog=DOMAIN, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(command=function)
        return added

    def domain(to: argparse.ArgumentParser, several: bool = False) -> None:
        text = "name and files of a domain, see below" + ("; repeatable" if several else "")
        to.add_argument("--domain", nargs="+", action="append", required=True, metavar="NAME FILES", help=text)

    def settings(to: argparse.ArgumentParser) -> None:
        to.add_argument("--config", type=Path, help="settings as JSON")
        to.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, such as model.layers=2"
        )

    def training(to: argparse.ArgumentParser) -> None:
        settings(to)
        to.add_argument("--out", type=Path, required=True, help="folder for the model")
        to.add_argument(
            "--state", type=Path, help="folder for the state of an unfinished training (default: OUT/state)"
        )
        to.add_argument("--logs", type=Path, help="folder for the files of training.loggers")
        to.add_argument("--overwrite", action="store_true", help="replace the model in OUT")

    added = command("pretrain", _pretrain, "train on one or several source domains together")
    domain(added, several=True)
    training(added)
    added = command("finetune", _finetune, "train on one domain, from a checkpoint or from scratch")
    domain(added)
    training(added)
    added.add_argument("--init", type=Path, help="checkpoint to start from (default: from scratch)")
    added = command("evaluate", _evaluate, "the metrics, by full ranking")
    domain(added)
    added.add_argument("--checkpoint", type=Path, required=True)
    added.add_argument("--split", choices=["validation", "test"], default="test")
    added.add_argument("--json", action="store_true", help="print JSON")
    text = "the best items for every user, into recommendations.parquet"
    added = command("write-recommendations", _write_recommendations, text)
    domain(added)
    added.add_argument("--checkpoint", type=Path, required=True)
    added.add_argument("--out", type=Path, required=True, help="folder for recommendations.parquet")
    added.add_argument("-k", type=_count, default=10, help="items per user (default: 10)")
    added.add_argument("--include-seen", action="store_true", help="include items that the user has seen")
    added = command("import-checkpoint", _import, "read a published .ckpt")
    settings(added)
    added.add_argument("file", type=Path, help="the .ckpt")
    added.add_argument("out", type=Path, help="folder for the checkpoint")
    added.add_argument("--items", type=Path, help="items.parquet (or its folder) of the domain it was trained on")
    added = command("export-checkpoint", _export, "write a checkpoint of published mode as a published .ckpt")
    added.add_argument("checkpoint", type=Path)
    added.add_argument("file", type=Path, help="the .ckpt to write")
    return parser


def _pretrain(options: argparse.Namespace) -> None:
    model, training = _model(options), _training(options, PRETRAINING)
    _prepare_out(options)
    domains = [_domain(files) for files in options.domain]
    _report(pretrain(domains, model, training, options.out, **_fit_arguments(options, training)), options.out)


def _finetune(options: argparse.Namespace) -> None:
    model, training = _model(options), _training(options, FINETUNING)
    _prepare_out(options)
    summary = fit(
        _only_domain(options), model, training, options.out, init=options.init, **_fit_arguments(options, training)
    )
    _report(summary, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    domain = _only_domain(options)
    found = evaluate(load_model(options.checkpoint, domain), domain, options.split)
    if options.json:
        values: dict[str, Any] = {"split": options.split, "users": found.users}
        for metric, k in figures():
            values.setdefault(metric.name, {})[k] = found.value(metric.title(k))
            if (error := found.error(metric.title(k))) is not None:
                values.setdefault(f"{metric.name}_error", {})[k] = error
        print(json.dumps(plain(values), allow_nan=False))
        return
    print(f"{domain.name}, {options.split}: {found.users} users, {domain.item_count} items")
    lines: dict[int, list[str]] = {}
    for metric, k in figures():
        value, error = found.value(metric.title(k)), found.error(metric.title(k))
        lines.setdefault(k, []).append(f"{metric.title(k)} {value:.4f}" + ("" if error is None else f" ± {error:.4f}"))
    for parts in lines.values():
        print(f"  {'   '.join(parts)}")


def _write_recommendations(options: argparse.Namespace) -> None:
    domain = _only_domain(options)
    model = load_model(options.checkpoint, domain)
    table = recommend(model, domain, options.k, not options.include_seen, _bar("users"))
    options.out.mkdir(parents=True, exist_ok=True)
    write_recommendations({Path(options.checkpoint).stem: table}, options.out)
    print(f"{table.num_rows} recommendations for {domain.user_count} users: {options.out / 'recommendations.parquet'}")


def _import(options: argparse.Namespace) -> None:
    found = import_published(options.file, options.out, options.items, options.config, options.set)
    _report_exchange(found, options.out)


def import_published(
    file: Path, out: Path, items: Path | None, config: Path | None, changes: Sequence[str]
) -> Exchange:
    """`import_checkpoint` with the settings of a command: the file `config`, overridden by `changes` (KEY=VALUE)."""
    settings = _settings(config, changes)
    if settings["training"]:
        raise ConfigError("training: a checkpoint has no training settings; give settings of model only")
    return import_checkpoint(file, out, item_ids=items, settings=settings["model"])


def _export(options: argparse.Namespace) -> None:
    _report_exchange(export_checkpoint(options.checkpoint, options.file), options.file)


def _settings(config: Path | None, changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{"model": ..., "training": ...} from --config and --set."""
    found: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    if config is not None:
        given = _read_json(config)
        if not isinstance(given, dict) or not all(isinstance(part, dict) for part in given.values()):
            raise ConfigError(f'{config}: expected {{"model": {{...}}, "training": {{...}}}}')
        for part in given:
            if part not in found:
                raise ConfigError(f"{config}: unknown part {part!r}; known: model, training")
        found |= given
    for setting in changes:
        key, equals, value = setting.partition("=")
        part, dot, name = key.partition(".")
        if not (equals and dot and part in found):
            raise ConfigError(f"--set {setting}: expected model.NAME=VALUE or training.NAME=VALUE")
        try:
            found[part] = {**found[part], name: json.loads(value, object_pairs_hook=_refuse_repeated_keys)}
        except (ValueError, RecursionError):
            found[part] = {**found[part], name: value}
    return found


def _read_json(config: Path) -> Any:
    """The contents of a settings file: strict JSON, without repeated keys and without NaN."""
    try:
        with regular(config).open(encoding="utf-8") as file:
            text = file.read(_LARGEST_CONFIG + 1)
        if len(text) > _LARGEST_CONFIG:
            raise ConfigError(f"{config}: too large: settings may have at most {_LARGEST_CONFIG:,} characters")
        return json.loads(text, object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant)
    except OSError as error:
        raise ConfigError(f"{config}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{config}: not JSON ({error})") from None
    except RecursionError:
        raise ConfigError(f"{config}: nested too deeply") from None


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, or an error for repeated keys, of which Python would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:200]!r} occurs twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _model(options: argparse.Namespace) -> ModelConfig:
    return ModelConfig.from_dict(_settings(options.config, options.set)["model"])


def _training(options: argparse.Namespace, base: TrainConfig) -> TrainConfig:
    return read_config(TrainConfig, _settings(options.config, options.set)["training"], "training", base)


def _fit_arguments(options: argparse.Namespace, training: TrainConfig) -> Mapping[str, Any]:
    """The arguments of `fit` and `pretrain`."""
    state = options.state or options.out / "state"
    quiet = _is_secondary_process()
    return {
        "state": state,
        "logs": options.logs,
        "on_epoch": None if quiet else _print_epochs(training),
        "progress": None if quiet else _bar("batches"),
    }


def _prepare_out(options: argparse.Namespace) -> None:
    if (options.out / "model.safetensors").exists() and not options.overwrite:
        raise ConfigError(f"{options.out}: this folder already has a model: give another --out, or --overwrite")
    options.out.mkdir(parents=True, exist_ok=True)


def _only_domain(options: argparse.Namespace) -> DomainData:
    if len(options.domain) > 1:
        raise ConfigError("--domain: give only one domain")
    return _domain(options.domain[0])


def _domain(files: Sequence[str]) -> DomainData:
    name, *given = files
    paths = [Path(path) for path in given]
    if len(paths) == 1:
        folder = paths[0]
        if (folder / "item2id.jsonl").exists():
            return load_processed(folder, name)
        return load_domain(
            _within(folder, "sequences").parent,
            _within(folder, "text_embeddings"),
            _within(folder, "image_embeddings"),
            name,
        )
    if len(paths) == 3:
        text, image = (_within(path, f"{m}_embeddings") for path, m in zip(paths[1:], ("text", "image"), strict=True))
        return load_domain(paths[0], text, image, name)
    raise ConfigError(f"--domain {' '.join(files)}: expected NAME FOLDER, or NAME SEQUENCES TEXT IMAGE")


def _within(path: Path, stem: str) -> Path:
    """`stem.parquet` itself, in the folder `path`, or in the folder `stem` in it."""
    if path.is_file():
        return path
    inner = path / stem / f"{stem}.parquet"
    return inner if inner.exists() else path / f"{stem}.parquet"


def _report(summary: TrainSummary, out: Path) -> None:
    """Print what a training did, once, whatever the number of processes."""
    if _is_secondary_process():
        return
    print(f"{out}: {summary.parameters:,} parameters, from epoch {summary.best_epoch}; {summary.stopped}")
    for name, value in summary.validation.items():
        print(f"  validation {name} {value:.4f}")
    print(
        f"  to the best: {summary.best_epoch} epochs, {summary.optimiser_steps_to_best} optimiser steps, "
        f"{summary.seconds_to_best:.1f} s"
    )
    if summary.epochs_to_95 is not None:
        print(
            f"  to 95% of the best: {summary.epochs_to_95} epochs, {summary.optimiser_steps_to_95} optimiser steps, "
            f"{summary.seconds_to_95:.1f} s"
        )
    print(f"  {summary.device}, {summary.examples_per_second:,.0f} examples/s; SSD {summary.ssd}")
    if summary.transfer:
        print(f"  from the checkpoint: {len(summary.transfer.taken)} tensors")
        for what, names in (("left out", summary.transfer.left_out), ("initialised", summary.transfer.fresh)):
            for name, reason in names.items():
                print(f"  {what}: {visible(name)} ({reason})")
        for unknown in summary.transfer.unchecked:
            print(f"  not checked: {unknown}")


def _report_exchange(found: Exchange, to: Path) -> None:
    print(*exchange_lines(found, to), sep="\n")


def exchange_lines(found: Exchange, to: Path) -> list[str]:
    """Lines for people that describe an imported or exported checkpoint."""
    sizes = f"{found.parameters:,} parameters, {found.config.layers} layers, {found.items} items with own weights"
    left_out = (f"  left out: {visible(name)} ({reason})" for name, reason in found.left_out.items())
    return [f"{visible(str(to))}: {sizes}", *left_out]


def _print_epochs(training: TrainConfig) -> Callable[[Epoch], None]:
    """Print one line per epoch."""

    def say(epoch: Epoch) -> None:
        parts = [f"{epoch.optimiser_steps} steps", f"{epoch.seconds:.1f} s"]
        if epoch.loss is not None:
            parts.append(f"loss {epoch.loss:.4f}")
        if epoch.validation is not None:
            parts.append(f"validation {training.metric} {epoch.validation.value(training.metric):.4f}")
        print(f"epoch {epoch.epoch}/{training.epochs}: {', '.join(parts)}", file=sys.stderr)

    return say


def _bar(unit: str) -> Callable[[int, int], None] | None:
    """A progress line, if the output is a terminal."""
    if not sys.stderr.isatty():
        return None
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        if done < total and time.monotonic() - shown < 0.2:
            return
        shown = time.monotonic()
        print(f"\r{done:,} of {total:,} {unit} ", end="\n" if done >= total else "", file=sys.stderr, flush=True)

    return show


def _is_secondary_process() -> bool:
    """Whether this is one of several processes (torchrun, strategy ddp) but not the first."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0"


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
