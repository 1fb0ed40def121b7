"""Commands that build: `sample`, `fetch` and `run`; and `domains`, which shows what can be built."""

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmm4rec.printable import duration
from pipelines import signals
from pipelines.cli.answers import (
    answer,
    fail,
    print_error,
    print_json,
    print_text,
    print_warning,
    report_failures,
    warn_of_damaged,
    warn_of_left_out,
)
from pipelines.cli.options import Data, Json, dagster_instance, open_data_folder, with_data
from pipelines.terminal import escaped, out

if TYPE_CHECKING:
    from pipelines.data_folder.folder import DataFolder
    from pipelines.running.runs import StageResult
    from warehouse.raw.fetch import Fetched

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Example: `mmm4rec sample --data data`")
def sample(
    data: Data = None,
    seed: Annotated[int, typer.Option(help="A different seed gives a different catalogue.")] = 0,
    size: Annotated[
        Literal["demo", "tiny"], typer.Option(help="tiny is for a quick look that takes seconds.")
    ] = "demo",
    as_json: Json = False,
) -> None:
    """Write the sample catalogue: raw files for three source domains and two target domains, and their settings."""
    from pipelines.sample import write

    data_folder = open_data_folder(data)
    summary, written = write(data_folder.path, seed, size)
    if as_json:
        print_json({**summary, "written": written})
    else:
        what = f"{'wrote' if written else 'found'} {len(summary['domains'])} domains"
        out.print(
            f"{what} below {escaped(data_folder.path)}; next: [bold]{escaped(with_data('mmm4rec run', data))}[/bold]",
            soft_wrap=True,
        )


@commands.command(
    epilog="Examples: `mmm4rec fetch Scientific` · `mmm4rec fetch Magazine_Subscriptions --from ~/Downloads`"
)
def fetch(
    categories: Annotated[list[str], typer.Argument(help="Categories or known domains.", metavar="CATEGORY")],
    origin: Annotated[
        str | None,
        typer.Option("--from", help="Folder or address. Default: `location` in the settings.", metavar="URL"),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option("--format", help="A format to fetch instead of the first of its kind, such as reviews."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch files again that are already there.")] = False,
    retries: Annotated[int, typer.Option(min=0, help="Number of retries after a temporary failure.")] = 5,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch the raw files of categories. Interrupted downloads continue, and files already there are kept."""
    data_folder = open_data_folder(data)
    from pipelines import progress
    from pipelines.fetch import fetch_categories

    with progress.bars():
        found, failures = signals.aside(
            lambda: fetch_categories(data_folder, categories, origin, chosen=chosen or (), force=force, retries=retries)
        )
    if as_json or found:
        rows = (
            (file.path.name, f"{file.bytes:,}", _fetched_how(file), file.sha256[:16], file.url or "not recorded")
            for file in found
        )
        files = [{**dataclasses.asdict(file), "path": str(file.path)} for file in found]
        answer(as_json, {"files": files, "failures": failures}, ["file", "bytes", "", "sha256", "from"], rows)
    if found and not as_json:
        out.print(
            f"in {escaped(data_folder.raw_folder)}; next: [bold]{escaped(with_data('mmm4rec run', data))}[/bold]",
            soft_wrap=True,
        )
    warn_of_left_out(data_folder, categories)
    for name, message in failures.items():
        print_error(message, about=name)
    if failures:
        raise typer.Exit(1)


def _how_to_begin(data_folder: "DataFolder") -> str:
    if data_folder.raw.path is None:
        return "put raw files there"
    return "run `mmm4rec fetch CATEGORY` or `mmm4rec sample`, or put raw files there"


def _fetched_how(file: "Fetched") -> str:
    if file.kept:
        return "already there"
    return f"continued from {file.resumed_from:,}" if file.resumed_from else "fetched"


@commands.command(epilog="Examples: `mmm4rec run` · `mmm4rec run Scientific` · `mmm4rec run --only core/sequences`")
def run(
    domains: Annotated[list[str] | None, typer.Argument(help="The domains. Default: all with raw files.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Build only this asset (layer/noun) and missing inputs. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is stale and build nothing.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Build every stale asset of the named domains, of the domains that they need, and of all domains together."""
    data_folder = open_data_folder(data)
    from pipelines.planner.plan import plan

    asked = domains or data_folder.present()
    if not asked:
        warn_of_left_out(data_folder)
        fail(f"no raw files in {data_folder.raw}: {_how_to_begin(data_folder)}")
    stages = plan(data_folder, asked, only or [])
    warn_of_left_out(data_folder, domains)
    if dry_run:
        planned = [{"domain": stage.name, "assets": [s.key for s in stage.steps]} for stage in stages]
        answer(as_json, planned, ["domain", "stale"], ((p["domain"], ", ".join(p["assets"])) for p in planned))
        return
    from pipelines import progress
    from pipelines.running import runs

    data_folder.store.sweep()
    began = time.monotonic()
    with dagster_instance(data_folder) as instance, progress.bars():
        stages = runs.unrecorded(data_folder, stages, instance, asked, only or []) + stages
        outcomes = list(runs.execute(data_folder, stages, instance)) if stages else []
    failures = report_failures(outcomes)
    if as_json:
        print_json(
            {
                "runs": [
                    {"domain": o.stage.name, "run_id": o.run_id, "errors": o.errors, "warnings": o.warnings}
                    for o in outcomes
                ],
                "built": [
                    {"key": key, "domain": o.stage.domain, "version": version}
                    for o in outcomes
                    for key, version in o.built.items()
                ],
                "failed": len(failures),
            }
        )
    elif stages:
        print_text(_summary(outcomes, duration(time.monotonic() - began)))
    else:
        what = "what was asked for" if domains or only else "everything"
        out.print(f"nothing to do: {what} is up to date")
    warn_of_damaged(data_folder)
    if failures:
        raise typer.Exit(1)


def _summary(outcomes: "Sequence[StageResult]", took: str) -> str:
    """The last line of a build. Assets that were found unchanged do not count."""
    built = [(key, outcome.stage) for outcome in outcomes for key in outcome.built]
    if not built:
        return f"built nothing new in {took}"
    domains = len({stage.domain for _, stage in built if stage.partition})
    said = f"built {len(built):,} artifact{'s' * (len(built) > 1)}"
    said += f" of {domains:,} domain{'s' * (domains > 1)}" if domains else ""
    seen = "; `mmm4rec report` shows the results" if "warehouse/report" in {key for key, _ in built} else ""
    return f"{said} in {took}{seen}"


@commands.command(name="domains", epilog="Example: `mmm4rec domains --json`")
def list_domains(data: Data = None, as_json: Json = False) -> None:
    """List the domains: role, raw files, counts after the k-core, published counts, and stale assets."""
    data_folder = open_data_folder(data)
    from pipelines.survey import survey

    rows = survey(data_folder)
    answer(as_json, rows, list(rows[0]) if rows else ["domain"], (list(row.values()) for row in rows))
    if not as_json:
        out.print(f"raw files are read from {escaped(data_folder.raw)}", style="dim", soft_wrap=True)
        if not data_folder.present():
            print_text(f"no category has both of its raw files there: {_how_to_begin(data_folder)}")
    warn_of_left_out(data_folder)
    for domain, reason in data_folder.missing().items():
        print_warning(reason, about=f"{domain} has no data")
    warn_of_damaged(data_folder)
    for domain in data_folder.gone():
        print_warning(f"{domain} is built and has no raw files: `mmm4rec forget {domain}` removes it")
