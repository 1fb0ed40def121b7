"""Commands for models and their quality: `report`, `compare`, `check-parity` and `import-checkpoint`."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines import signals
from pipelines.cli.answers import print_json, print_table, print_text, report_failures
from pipelines.cli.options import Data, Json, catalogue_file, dagster_instance, open_data_folder, with_data
from pipelines.terminal import escaped, out

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Example: `mmm4rec report`")
def report(data: Data = None, as_json: Json = False) -> None:
    """Print the results of every domain, and the paths of the report and the warehouse."""
    data_folder = open_data_folder(data)
    from pipelines.reports.report import results_table

    catalogue = catalogue_file(data_folder)
    rows = results_table(catalogue)
    places = {"report": str(data_folder.report), "warehouse": str(catalogue)}
    if as_json:
        print_json({"results": rows, **places})
        return
    out.print(_table_of_results(rows))
    print_text(f"report     {places['report']}\nwarehouse  {places['warehouse']}")
    out.print("UI         [bold]make ui[/bold]  (or: mmm4rec ui)")


def _table_of_results(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The results of all domains as a table, with one line per model."""
    from pipelines.reports.report import judged, titles

    table = Table(
        title="How well each user's held-out purchase is found among all items",
        title_justify="left",
        caption="On a source domain, the pre-trained model is tested as it is. * makes the recommendations: it is the "
        "best on validation.",
        caption_justify="left",
        # No lines and one blank between columns, so that it fits 80 columns.
        box=None,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("domain", no_wrap=True)
    for heading in ("users", "items", "inter-\nactions"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for heading in (*(title.replace("@", "\n@") for title in titles()), "best\nepoch"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        domain = [escaped(row["domain"]), *(f"{row[count]:,}" for count in ("users", "items", "interactions"))]
        for model in judged(row):
            values = ("–" if value is None else f"{value:.3f}" for value in model.figures)
            epochs = "–" if model.epochs is None else str(model.epochs)
            table.add_row(*domain, model.model + "*" * model.recommends, *values, epochs)
            domain = [""] * len(domain)
    return table


@commands.command(
    epilog="Examples: `mmm4rec compare Sample_Toys --seeds 1` · "
    "`mmm4rec compare Sample_Toys --models finetuned,scratch,sasrec --users 10,100 --no-ablations`"
)
def compare(
    domains: Annotated[list[str], typer.Argument(help="Target domains that have been built.", metavar="DOMAIN...")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings per model.")] = 3,
    models: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names. popularity and item_knn are always included. Default: MMM4Rec and the "
            "baselines of the settings; all baselines if the settings name none."
        ),
    ] = None,
    ablations: Annotated[bool, typer.Option(help="Also train MMM4Rec without some of its parts.")] = True,
    users: Annotated[str, typer.Option(help="Percentages of the users that MMM4Rec learns from.")] = "1,10,100",
    epochs: Annotated[int | None, typer.Option(min=1, help="Lower the maximum number of epochs to this.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="The page. Default: DATA/comparison.html.", show_default=False)
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compare models: train each with several seeds, write a page, and add the figures to the catalogue.

    Finished trainings are kept. A stopped comparison continues, and a new comparison trains only what is new.
    """
    data_folder = open_data_folder(data)
    from pipelines import progress
    from pipelines.compare import ask, compare, page
    from pipelines.planner.plan import plan
    from pipelines.running import runs
    from warehouse.artifacts.staging import unlinked

    asked = ask(data_folder, domains, _split_at_commas(models), seeds, ablations, _percentages(users), epochs)
    found = []
    with dagster_instance(data_folder) as instance, progress.bars():
        for domain in domains:
            with progress.show(f"{domain} comparison") as done:
                found.append(signals.aside(partial(compare, data_folder, domain, asked, done)))
        outcomes = list(runs.execute(data_folder, plan(data_folder, [], ["warehouse/catalogue"]), instance))
    to = to or unlinked(data_folder.path, data_folder.path / "comparison.html")
    to.write_text(page(data_folder, asked, found), encoding="utf-8")
    failures = report_failures(outcomes)
    if as_json:
        print_json({"page": str(to), "domains": {one.artifact.domain: one.rows for one in found}})
    else:
        for one in found:
            rows = _comparison_lines(one.rows["comparison"])
            print_table(["part", "model", "% of users", "NDCG@10", "±", ""], rows, title=one.artifact.domain)
        print_text(f"page  {to}")
    if failures:
        raise typer.Exit(1)


def _comparison_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The table lines of one comparison: models before ablations, then by share of users, then the best first."""
    from mmm4rec.comparison.tables import UNTRAINED

    for row in sorted(rows, key=lambda row: (row["part"] != "models", -row["percent"], -row["value"])):
        if (row["metric"], row["k"]) == ("NDCG", 10):
            figures = f"{row['percent']:g}", f"{row['value']:.4f}", f"{row['standard_error']:.4f}"
            yield row["part"], row["model"], *figures, "" if row["trained_to_end"] else UNTRAINED


def _split_at_commas(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _percentages(text: str) -> list[float]:
    try:
        return [float(part) for part in _split_at_commas(text)] or [100.0]
    except ValueError:
        raise typer.BadParameter(f"--users {text}: give percentages separated by commas, such as 1,10,100") from None


@commands.command(name="check-parity", epilog="Example: `mmm4rec check-parity with_id_1layer.safetensors`")
def check_parity(
    files: Annotated[list[Path], typer.Argument(help="Tensors computed with the published model.")],
    as_json: Json = False,
) -> None:
    """Compare the model with reference tensors: user vectors, scores, loss, gradients. Exit 1 outside tolerance."""
    from mmm4rec.published.parity import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, check

    reports = [check(path) for path in files]
    if as_json:
        print_json([{**dataclasses.asdict(r), "gradient": r.gradient, "ok": r.ok} for r in reports])
    else:
        for report in reports:
            rows = [
                *((what, getattr(report, what), OUTPUT_TOLERANCE) for what in ("user", "scores", "loss")),
                ("gradients", report.gradient, GRADIENT_TOLERANCE),
            ]
            shown = ((what, f"{d:.1e}", f"{t:.0e}", "ok" if d <= t else "FAILED") for what, d, t in rows)
            print_table(["", "largest difference", "tolerance", ""], shown, title=report.file)
            worst = next(iter(report.gradients), None)
            if worst:
                out.print(f"largest gradient difference at {escaped(worst)}", style="dim")
            if report.unused:
                out.print(f"not used by this variant: {escaped(', '.join(report.unused))}", style="dim")
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@commands.command(
    name="import-checkpoint",
    epilog="Examples: `mmm4rec import-checkpoint pretrained.ckpt` · "
    "`mmm4rec import-checkpoint finetuned.ckpt --items processed/Scientific --set model.temperature=0.5`",
)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A published .ckpt file.")],
    to: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the checkpoint. Default: DATA/imported/NAME.", show_default=False),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="The items of its per-item weights: items.parquet, or a processed folder.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help='Settings as JSON: {"model": {...}}.')] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting that the file does not show. Repeatable.", metavar="model.NAME=VALUE"),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Import a published checkpoint, so that fine-tuning starts from it and no pre-training is needed."""
    data_folder = open_data_folder(data)
    from mmm4rec.__main__ import exchange_lines, import_published

    folder = to or data_folder.path / "imported" / file.stem
    found = import_published(file, folder, items, config, setting or [])
    if as_json:
        print_json({"folder": str(folder.resolve()), **dataclasses.asdict(found)})
        return
    for line in exchange_lines(found, folder):
        print_text(line)
    place = folder.resolve()
    named = place.relative_to(data_folder.path) if place.is_relative_to(data_folder.path) else place
    print_text(f"next: `pretrained: {named}` in {data_folder.settings_file}, then `{with_data('mmm4rec run', data)}`")
