"""The command line. Every command takes `--data`, prints for people, and with `--json` for programs.

Exit codes: 0 done, 1 an error or a failed check (said on stderr), 2 wrong usage, 128 + n ended by signal n. Imports
that take seconds (Dagster, torch) happen inside the commands that need them.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from gc import set_threshold
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich import box
from rich.table import Table

from mmm4rec.shown import plain
from pipelines import signals
from pipelines.cli.terminal import err, out, said

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data_folder.folder import DataFolder
    from pipelines.planner.runs import Outcome
    from warehouse.catalogue.query import Session
    from warehouse.raw.fetch import Fetched

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="MMM4Rec: raw purchase data to recommendations, with lineage for every artifact.",
    epilog="Exit codes: 0 done, 1 an error or a failed check, 2 wrong usage, 128 + n ended by signal n. Data live "
    "below --data, else MMM4REC_DATA, else ./data.",
)
HOME_VARIABLE = "MMM4REC_DAGSTER_HOME"

Data = Annotated[
    Path | None, typer.Option("--data", help="Data folder; else MMM4REC_DATA, else ./data.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Named = Annotated[
    str,
    typer.Argument(
        help="layer/noun@domain (the current version; without a domain, what spans all), layer/noun@domain:version, "
        "or a version; versions may be cut."
    ),
]


def _data_folder(data: Path | None) -> "DataFolder":
    """The data folder, made known to Dagster through its environment variables."""
    # Loading Dagster makes half a million objects that stay: looking for garbage among them after every 700 of them
    # takes a fifth of a command that has nothing to do.
    set_threshold(100_000)
    from pipelines.data_folder.folder import DATA_VARIABLE, DataFolder

    found = DataFolder.find(data)
    os.environ[DATA_VARIABLE] = str(found.path)
    instance = found.path / ".dagster"
    os.environ["MMM4REC_DAGSTER"] = str(instance)
    home, exported = _dagster_home(instance), os.environ.get("DAGSTER_HOME")
    if exported and Path(exported).resolve() != home.resolve():
        other = f"DAGSTER_HOME={exported} is another Dagster's and is not used; {HOME_VARIABLE} names a folder that is"
        err.print(said(other), style="yellow", highlight=False, soft_wrap=True)
    os.environ["DAGSTER_HOME"] = str(home)
    return found


def _dagster_home(instance: Path) -> Path:
    """The folder of the dagster.yaml that holds: the one asked for, else the checkout's, else Dagster's defaults."""
    if asked := os.environ.get(HOME_VARIABLE):
        folder = Path(asked).expanduser().absolute()
        if not (folder / "dagster.yaml").is_file():
            _fail(f"{HOME_VARIABLE}={asked}: there is no dagster.yaml; copy the shipped one there, and change the copy")
        return folder
    checkout = Path(__file__).parents[2]
    # Installed without the checkout there is no dagster.yaml: then Dagster keeps its defaults, below the data folder.
    return checkout if (checkout / "dagster.yaml").is_file() else instance


def _print_json(value: Any) -> None:
    """JSON for programs: NaN and infinite numbers, which it does not have, are null."""
    typer.echo(json.dumps(plain(value), indent=1, default=str, allow_nan=False))


def _fail(message: str) -> NoReturn:
    """End with an error of the house."""
    from pipelines.errors import CommandError

    raise CommandError(message)


def _catalogue(data_folder: "DataFolder") -> Path:
    """The catalogue file; absence is an error, and so is one that shows another folder."""
    from warehouse.catalogue.query import check_place

    path = data_folder.catalogue
    if not path.is_file():
        _fail(f"there is no catalogue at {path}; `mmm4rec run` builds it")
    check_place(path, data_folder.path)
    return path


def _ask(data_folder: "DataFolder", name: str, bound: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one of the shipped queries."""
    from warehouse.catalogue.query import query

    rows: list[dict[str, Any]] = query(
        _catalogue(data_folder), (Path(__file__).parent / "sql" / name).read_text(), bound
    ).to_pylist()
    return rows


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    heading = None if title is None else said(title)
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in columns:
        table.add_column(said(column), overflow="fold", no_wrap=column in ("domain", "item"))
    for row in rows:
        table.add_row(*("" if cell is None else said(cell) for cell in row))
    out.print(table)


@app.command(epilog="Example: `mmm4rec sample --data data`")
def sample(
    data: Data = None,
    seed: Annotated[int, typer.Option(help="Another seed is another catalogue.")] = 0,
    size: Annotated[Literal["demo", "tiny"], typer.Option(help="tiny is for a look in seconds.")] = "demo",
    as_json: Json = False,
) -> None:
    """Write the sample catalogue: raw files of three source and two target domains, and their settings."""
    from pipelines.sample import write

    data_folder = _data_folder(data)
    summary, written = write(data_folder.path, seed, size)
    if as_json:
        _print_json({**summary, "written": written})
    else:
        what = "wrote" if written else "found"
        out.print(
            f"{what} {len(summary['domains'])} domains below {said(data_folder.path)}; next: [bold]mmm4rec run[/bold]"
        )


@app.command(epilog="Examples: `mmm4rec fetch Scientific` · `mmm4rec fetch Magazine_Subscriptions --from ~/Downloads`")
def fetch(
    categories: Annotated[list[str], typer.Argument(help="Categories, or known domains.", metavar="CATEGORY")],
    origin: Annotated[
        str | None, typer.Option("--from", help="Folder or address; else `location` of the settings.", metavar="URL")
    ] = None,
    reviews: Annotated[bool, typer.Option("--reviews", help="5-core reviews in place of the ratings.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch anew what is there.")] = False,
    retries: Annotated[int, typer.Option(min=0, help="Tries more, of what can pass.")] = 5,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch the raw files of categories; what broke off goes on where it stopped, what is there is kept."""
    data_folder = _data_folder(data)
    from pipelines.cli import progress
    from pipelines.fetch import fetch_categories

    with progress.bars():
        found, failures = signals.aside(
            lambda: fetch_categories(data_folder, categories, origin, reviews=reviews, force=force, retries=retries)
        )
    if as_json:
        files = [{**dataclasses.asdict(file), "path": str(file.path)} for file in found]
        _print_json({"files": files, "failures": failures})
    elif found:
        rows = (
            (file.path.name, f"{file.bytes:,}", _fetched_how(file), file.sha256[:16], file.url or "not recorded")
            for file in found
        )
        _table(["file", "bytes", "", "sha256", "from"], rows)
        out.print(f"in {said(data_folder.raw_folder)}; next: [bold]mmm4rec run[/bold]", soft_wrap=True)
    _say_left_out(data_folder)
    for name, message in failures.items():
        err.print(f"[red]{said(name)}:[/red] {said(message)}", highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)


def _fetched_how(file: "Fetched") -> str:
    if file.kept:
        return "was there"
    return f"went on from {file.resumed_from:,}" if file.resumed_from else "fetched"


@app.command(epilog="Examples: `mmm4rec run` · `mmm4rec run Scientific` · `mmm4rec run --only core/sequences`")
def run(
    domains: Annotated[list[str] | None, typer.Argument(help="Domains; else all with raw files.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this asset (layer/noun); repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is stale and build nothing.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Build what is stale: of the domains named, what they need, and what spans all domains."""
    data_folder = _data_folder(data)
    from pipelines.cli import progress
    from pipelines.planner import runs
    from pipelines.planner.plan import plan

    _say_left_out(data_folder)
    asked = domains or data_folder.present()
    if not asked:
        _fail(
            f"no raw files in {data_folder.raw_folder}: `mmm4rec fetch CATEGORY`, put some there, or `mmm4rec sample`"
        )
    stages = plan(data_folder, asked, only or [])
    if dry_run:
        planned = [{"domain": stage.name, "assets": [s.key for s in stage.steps]} for stage in stages]
        if as_json:
            _print_json(planned)
        else:
            _table(["domain", "stale"], [(p["domain"], ", ".join(p["assets"])) for p in planned])
        return
    data_folder.store.sweep()
    with runs.open_instance(Path(os.environ["MMM4REC_DAGSTER"])) as instance, progress.bars():
        stages = runs.unrecorded(data_folder, stages, instance, asked, only or []) + stages
        outcomes = list(runs.execute(data_folder, stages, instance)) if stages else []
    failures = _say_what_failed(outcomes)
    if as_json:
        _print_json(
            {
                "runs": [
                    {"domain": o.stage.name, "run_id": o.run_id, "errors": o.errors, "warnings": o.warnings}
                    for o in outcomes
                ],
                "failed": len(failures),
            }
        )
    elif not stages:
        out.print("nothing to do: everything is up to date")
    _say_damaged(data_folder)
    if failures:
        raise typer.Exit(1)


def _say_what_failed(outcomes: Sequence["Outcome"]) -> list["Outcome"]:
    """The warnings of all, and the errors of those that failed; the latter."""
    for outcome in outcomes:
        for check, found in outcome.warnings.items():
            err.print(
                f"[yellow]{said(outcome.stage.name)}: {said(check)}:[/yellow] {said(found)}",
                highlight=False,
                soft_wrap=True,
            )
    failures = [o for o in outcomes if o.errors or o.waited_for]
    for outcome in failures:
        place = said(outcome.stage.name)
        if outcome.waited_for:
            key, domain = outcome.waited_for
            err.print(f"{place}: skipped, because {key} of {said(domain)} failed", style="yellow", soft_wrap=True)
        for key, message in outcome.errors.items():
            err.print(f"[red]{place}: {key}:[/red] {said(message)}", highlight=False, soft_wrap=True)
    return failures


def _say_left_out(data_folder: "DataFolder") -> None:
    """Raw files that are not read, and pairs that make no domain."""
    for name, reason in data_folder.left_out().items():
        err.print(f"[yellow]left out {said(repr(name))}:[/yellow] {said(reason)}", highlight=False, soft_wrap=True)


def _say_damaged(data_folder: "DataFolder") -> None:
    """What no run has mended, and so is left out."""
    for message in data_folder.damaged():
        err.print(said(message), style="yellow", highlight=False, soft_wrap=True)


@app.command(name="domains", epilog="Example: `mmm4rec domains --json`")
def list_domains(data: Data = None, as_json: Json = False) -> None:
    """List the domains: role, raw files, counts after the k-core beside the published ones, and what is stale."""
    data_folder = _data_folder(data)
    from pipelines.planner.runs import survey

    rows = survey(data_folder)
    if as_json:
        _print_json(rows)
    else:
        _table(list(rows[0]) if rows else ["domain"], (list(row.values()) for row in rows))
        out.print(f"raw files are read from {said(data_folder.raw_folder)}", style="dim", soft_wrap=True)
    _say_left_out(data_folder)
    _say_damaged(data_folder)
    for domain in data_folder.gone():
        err.print(f"{domain} is built and has no raw files: `mmm4rec forget {domain}` takes it out", style="yellow")


@app.command(epilog="Example: `mmm4rec recommend Sample_Toys --user A001301SAMPLE -k 5`")
def recommend(
    domain: Annotated[str, typer.Argument(help="The domain.")],
    user: Annotated[str, typer.Option(help="A user id of the raw file.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many; the report keeps ten.")] = 10,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show what a user is recommended, with titles and scores."""
    data_folder = _data_folder(data)
    data_folder.settings.domain(domain)
    rows = _ask(data_folder, "recommendations.sql", {"domain": domain, "user": user, "k": k})
    if not rows:
        _fail(f"{domain} has no recommendations for user {user!r}: not a user of its k-core")
    if as_json:
        _print_json(rows)
    else:
        _table(
            ["", "item", "title", "score"], ((r["rank"], r["item_id"], r["title"], f"{r['score']:.3f}") for r in rows)
        )


@app.command(epilog="Examples: `mmm4rec features` · `mmm4rec features --domain Sample_Toys --json`")
def features(
    domain: Annotated[str | None, typer.Option(help="Only of this domain.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List the feature views: what is known of items and users, how wide, by which encoder, and in which version."""
    data_folder = _data_folder(data)
    from pipelines.feature_store import listing

    _say_damaged(data_folder)
    views = listing(data_folder, domain)
    if as_json:
        _print_json(views)
    else:
        shown = ["name", "entity", "domain", "rows", "width", "encoder", "source", "freshness", "version"]
        _table(shown, ([view[column] for column in shown] for view in views))


@app.command(epilog="Examples: `mmm4rec pictures` · `mmm4rec pictures --again unreachable --again timeout`")
def pictures(
    again: Annotated[
        list[str] | None, typer.Option(help="Let addresses that ended so be asked again by the next run.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Say what became of the items' pictures; and let failed addresses be asked again."""
    data_folder = _data_folder(data)
    from features.pictures.item_images import STATUSES, forget
    from pipelines.assets.features import PICTURES

    _say_damaged(data_folder)
    forgotten = forget(data_folder.cache / PICTURES, again) if again else None
    found = {
        artifact.domain: artifact.manifest.summary["statuses"]
        for artifact in data_folder.store.all_current()
        if artifact.key == "features/item_images"
    }
    if as_json:
        _print_json({"domains": found, "forgotten": forgotten})
        return
    if forgotten is not None:
        out.print(f"{forgotten:,} addresses will be asked again; next: [bold]mmm4rec run[/bold]")
    counts = [(domain, status, statuses[status]) for domain, statuses in found.items() for status in statuses]
    _table(["domain", "status", "items", "meaning"], ((*count, STATUSES[count[1]]) for count in counts))


@app.command(
    epilog="Examples: `mmm4rec search --domain Sample_Toys --text 'striped red robot'` · "
    "`mmm4rec search --domain Sample_Toys --image robot.jpg`"
)
def search(
    domain: Annotated[str, typer.Option(help="The domain to search.")],
    text: Annotated[str | None, typer.Option(help="Words.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file.")] = None,
    item: Annotated[str | None, typer.Option(help="An item id: more like this.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write the hits as a sheet: .png a picture, .html a page.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Find the items nearest to words, to a picture, to both together, or to an item, by their vectors."""
    if (item is None) == (text is None and image is None):
        raise typer.BadParameter("give --text, --image or both of them, or else --item")
    data_folder = _data_folder(data)
    from pipelines.search import find

    hits = find(data_folder, domain, k, text=text, image=image, item=item, sheet=sheet)
    if as_json:
        _print_json(hits)
    else:
        _table(
            ["", "item", "title", "score"],
            ((n, h["item_id"], h["title"], f"{h['score']:.3f}") for n, h in enumerate(hits, 1)),
        )


@app.command(
    epilog='Examples: `mmm4rec sql "SELECT domain, users, items FROM domains"` · `mmm4rec sql < questions.sql` · '
    "`mmm4rec sql --example popular_items --param top=5 --csv`"
)
def sql(
    statement: Annotated[
        str | None, typer.Argument(help="One SQL query; else a script from a pipe, or a prompt.")
    ] = None,
    example: Annotated[str | None, typer.Option(help="Run this example query.")] = None,
    examples: Annotated[bool, typer.Option("--examples", help="List the example queries.")] = False,
    param: Annotated[
        list[str] | None, typer.Option(help="Bind a $-name of the query; repeatable.", metavar="NAME=VALUE")
    ] = None,
    data: Data = None,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print CSV with a header line; lists as JSON. A text that a spreadsheet would take for a formula, as "
            "it begins with = + - @, a tab or a carriage return, gets a ' before it.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for programs; NaN and infinite numbers are null.")
    ] = False,
) -> None:
    """Ask the analysts' catalogue, read-only: one query, a script from a pipe, an example, or a prompt.

    A table shows the first 1,000 rows; --csv and --json print all, however many.
    """
    if sum((statement is not None, example is not None, examples)) > 1:
        raise typer.BadParameter("give one of a query, --example and --examples")
    from pipelines.cli import prompt
    from warehouse.catalogue import questions
    from warehouse.catalogue.query import Session

    form = "csv" if as_csv else "json" if as_json else "table"
    if examples:
        _show(prompt.example_table(), form)
        return
    given = prompt.parameters(param or [])
    with Session(_catalogue(_data_folder(data))) as session:
        if example is not None:
            asked = questions.example(example)
            _answer(session, asked.sql, asked.bind(given), form)
        elif statement is not None:
            _answer(session, statement, given, form)
        elif sys.stdin.isatty():
            prompt.Prompt(session, lambda answer: _show(answer, form), _say, _complain).run()
        else:
            for one in session.statements(sys.stdin.read()):
                _answer(session, one, given, form)


def _answer(session: "Session", statement: str, bound: Mapping[str, Any], form: str) -> None:
    """Ask, and print the answer: the first rows as a table, or all of them part by part."""
    from pipelines.cli import prompt

    if form != "table":
        prompt.write(prompt.stream(session, statement, bound), form, sys.stdout)
        return
    answer = prompt.ask(session, statement, bound, limit=prompt.TABLE + 1)
    _show(answer.slice(0, prompt.TABLE), form)
    if answer.num_rows > prompt.TABLE:
        err.print(f"the first {prompt.TABLE:,} rows; --csv and --json print all of them", highlight=False)


def _show(answer: "pa.Table", form: str) -> None:
    """An answer that is in memory, as a table, as JSON or as CSV."""
    from pipelines.cli import prompt

    if form == "table":
        _table(answer.column_names, prompt.rows(answer.to_batches()))
    else:
        prompt.write(prompt.whole(answer), form, sys.stdout)


def _say(text: str) -> None:
    out.print(said(text), highlight=False, soft_wrap=True)


def _complain(text: str) -> None:
    err.print(f"[red]error:[/red] {said(text)}", highlight=False, soft_wrap=True)


@app.command(epilog="Examples: `mmm4rec trace models/finetuned@Sample_Toys` · `mmm4rec trace 3f2a91c0 --json`")
def trace(artifact: Named, data: Data = None, as_json: Json = False) -> None:
    """Show what an artifact was made from, as a tree down to the sha256 of each raw file, and what made it.

    Versions of Python and of packages, commit, device and processor stand where they differ from those above.
    """
    data_folder = _data_folder(data)
    from pipelines import lineage
    from warehouse.artifacts.lineage import Lineage

    known = Lineage.of(data_folder.store)
    root = known.find(artifact)
    if as_json:
        _print_json([lineage.describe(known, version) for version in known.upstream([root])])
    else:
        out.print(lineage.tree(known, root), soft_wrap=True)


@app.command(epilog="Examples: `mmm4rec impact Sample_Toys.csv` · `mmm4rec impact 3f2a91c0`")
def impact(
    raw: Annotated[str, typer.Argument(help="A raw file's name, or the first digits of its sha256.", metavar="RAW")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List every version that was made from a raw file, first what reads it."""
    data_folder = _data_folder(data)
    from pipelines import lineage
    from warehouse.artifacts.lineage import Lineage

    known = Lineage.of(data_folder.store)
    rows = [lineage.describe(known, version) for version in known.downstream(known.readers(raw))]
    if as_json:
        _print_json(rows)
    else:
        shown = ("key", "domain", "version", "created")
        _table([*shown, "current"], ((*(r[name] for name in shown), "yes" if r["current"] else "no") for r in rows))


@app.command(epilog="Examples: `mmm4rec verify` · `mmm4rec verify Sample_Toys --all`")
def verify(
    domains: Annotated[list[str] | None, typer.Argument(help="Domains; else all, and what spans them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Versions that are not current too.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Hash every file again. Exit 1 if one is damaged: `mmm4rec run` then builds it anew."""
    data_folder = _data_folder(data)
    from pipelines import lineage
    from pipelines.cli import progress

    with progress.bars(), progress.show("bytes") as done:
        found = signals.aside(lambda: lineage.verify(data_folder, domains or [], everything, done))
    damaged = {name: problems for name, problems in found.items() if problems}
    if as_json:
        _print_json({"verified": len(found), "damaged": damaged})
    else:
        out.print(f"{len(found):,} versions hashed, {len(damaged):,} damaged")
    for name, problems in damaged.items():
        for problem in problems:
            err.print(f"[red]{said(name)}:[/red] {said(problem)}", highlight=False, soft_wrap=True)
    if damaged:
        err.print("next: [bold]mmm4rec run[/bold]")
        raise typer.Exit(1)


@app.command(epilog="Examples: `mmm4rec gc --dry-run` · `mmm4rec gc`")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remove versions that nothing current, pinned, open or at work needs, and what ended processes left behind."""
    data_folder = _data_folder(data)
    from pipelines.garbage import collect

    found = collect(data_folder, dry_run)
    if as_json:
        _print_json([{"kind": leftover.kind, "name": leftover.name, "bytes": leftover.bytes} for leftover in found])
        return
    if found:
        _table(["", "bytes", "what"], ((leftover.kind, f"{leftover.bytes:,}", leftover.name) for leftover in found))
    what = "would be removed" if dry_run else "removed"
    out.print(f"{what}: {len(found):,}, together {sum(leftover.bytes for leftover in found):,} bytes")


@app.command(name="forget", epilog="Examples: `mmm4rec forget Sample_Toys` · `mmm4rec forget Sample_Toys --yes --json`")
def forget_domain(
    domain: Annotated[str, typer.Argument(help="The domain.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Take a domain out of the catalogue, the report and Dagster; raw files stay, `mmm4rec gc` removes the rest."""
    data_folder = _data_folder(data)
    from pipelines.cli import progress
    from pipelines.forget import check, forget, returns
    from pipelines.planner import runs

    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter(f"there is no terminal to ask at whether to forget {domain}: give --yes")
    folder = Path(os.environ["MMM4REC_DAGSTER"])
    with runs.open_instance(folder) as instance:
        check(data_folder, domain, instance)
    again = returns(data_folder, domain)
    if again:
        err.print(said(again), style="yellow", highlight=False, soft_wrap=True)
    if not yes:
        typer.confirm(f"Forget {domain}?", abort=True, err=True)
    with runs.open_instance(folder) as instance, progress.bars():
        found = forget(data_folder, domain, instance)
    failures = _say_what_failed(found.outcomes)
    if as_json:
        told = {"domain": domain, "versions": found.versions, "pinned": found.pinned, "returns": again}
        _print_json({**told, "failed": len(failures)})
    else:
        for version in found.pinned:
            out.print(f"pinned: {version} stays until `mmm4rec unpin {version}`", soft_wrap=True, highlight=False)
        out.print(
            f"forgot {domain}, {len(found.versions):,} artifacts; next: [bold]mmm4rec gc[/bold] frees their space"
        )
    if failures:
        raise typer.Exit(1)


@app.command(epilog="Examples: `mmm4rec pin models/finetuned@Sample_Toys` · `mmm4rec pin`")
def pin(
    artifact: Annotated[str | None, typer.Argument(help="As for `mmm4rec trace`; else list what is pinned.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Keep a version, and all that it was made from, whatever becomes current."""
    _pin(_data_folder(data), artifact, True, as_json)


@app.command(epilog="Example: `mmm4rec unpin models/finetuned@Sample_Toys:3f2a91c0`")
def unpin(artifact: Named, data: Data = None, as_json: Json = False) -> None:
    """Let `mmm4rec gc` remove a version again, once nothing else needs it."""
    _pin(_data_folder(data), artifact, False, as_json)


def _pin(data_folder: "DataFolder", name: str | None, on: bool, as_json: bool) -> None:
    """Pin a version or let it go, and list what is pinned."""
    from warehouse.artifacts.lineage import Lineage, named

    if name is not None and not data_folder.store.mark(Lineage.of(data_folder.store).find(name), "pin", on):
        _fail(f"{name} has just been collected")
    pinned = [named(version) for version in data_folder.store.marked("pin")]
    if as_json:
        _print_json(pinned)
    else:
        _table(["pinned"], ([version] for version in pinned))


@app.command(epilog="Example: `mmm4rec report`")
def report(data: Data = None, as_json: Json = False) -> None:
    """Print the results of every domain, and where the report and the warehouse are."""
    data_folder = _data_folder(data)
    from pipelines.reports.report import judged, results_table, titles

    catalogue = _catalogue(data_folder)
    rows = results_table(catalogue)
    places = {"report": str(data_folder.report), "warehouse": str(catalogue)}
    if as_json:
        _print_json({"results": rows, **places})
        return
    table = Table(
        title="How well each user's held-out purchase is found among all items",
        title_justify="left",
        caption="A source domain is judged by the pre-trained model as it is. * recommends: the best on validation.",
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
        domain = [said(row["domain"]), *(f"{row[count]:,}" for count in ("users", "items", "interactions"))]
        for model in judged(row):
            values = ("–" if value is None else f"{value:.3f}" for value in model.figures)
            epochs = "–" if model.epochs is None else str(model.epochs)
            table.add_row(*domain, model.model + "*" * model.recommends, *values, epochs)
            domain = [""] * len(domain)
    out.print(table)
    _say(f"report     {places['report']}\nwarehouse  {places['warehouse']}")
    out.print("UI         [bold]make ui[/bold]  (or: mmm4rec ui)")


@app.command(
    epilog="Examples: `mmm4rec compare Sample_Toys --seeds 1` · "
    "`mmm4rec compare Sample_Toys --models finetuned,scratch,sasrec --users 10,100 --no-ablations`"
)
def compare(
    domains: Annotated[list[str], typer.Argument(help="Target domains that are built.", metavar="DOMAIN...")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model.")] = 3,
    models: Annotated[
        str | None, typer.Option(help="Names with commas; else MMM4Rec and the baselines of the settings, or all.")
    ] = None,
    ablations: Annotated[bool, typer.Option(help="Also MMM4Rec from scratch without some of its parts.")] = True,
    users: Annotated[str, typer.Option(help="Percentages of users that MMM4Rec is to learn from.")] = "1,10,100",
    epochs: Annotated[int | None, typer.Option(min=1, help="Cap on epochs, below that of the settings.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="The page; else DATA/comparison.html.", show_default=False)
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Train models side by side, with several seeds: a page of it, and its figures in the catalogue.

    What is finished is kept: a comparison that was stopped goes on, and another trains only what is new.
    """
    data_folder = _data_folder(data)
    from pipelines.cli import progress
    from pipelines.planner import runs
    from pipelines.planner.plan import plan
    from pipelines.reports.compare import ask, compare, page
    from warehouse.artifacts.staging import unlinked

    asked = ask(data_folder, domains, _listed(models), seeds, ablations, _percentages(users), epochs)
    found = []
    with runs.open_instance(Path(os.environ["MMM4REC_DAGSTER"])) as instance, progress.bars():
        for domain in domains:
            with progress.show(f"{domain} comparison") as done:
                found.append(signals.aside(partial(compare, data_folder, domain, asked, done)))
        outcomes = list(runs.execute(data_folder, plan(data_folder, [], ["warehouse/catalogue"]), instance))
    to = to or unlinked(data_folder.path, data_folder.path / "comparison.html")
    to.write_text(page(data_folder, asked, found), encoding="utf-8")
    failures = _say_what_failed(outcomes)
    if as_json:
        _print_json({"page": str(to), "domains": {one.artifact.domain: one.rows for one in found}})
    else:
        for one in found:
            figures = (
                (r["part"], r["model"], f"{r['percent']:g}", f"{r['value']:.4f}", f"{r['standard_error']:.4f}")
                for r in sorted(
                    one.rows["comparison"], key=lambda r: (r["part"] != "models", -r["percent"], -r["value"])
                )
                if (r["metric"], r["k"]) == ("NDCG", 10)
            )
            _table(["part", "model", "% of users", "NDCG@10", "±"], figures, title=one.artifact.domain)
        _say(f"page  {to}")
    if failures:
        raise typer.Exit(1)


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _percentages(text: str) -> list[float]:
    try:
        return [float(part) for part in _listed(text)] or [100.0]
    except ValueError:
        raise typer.BadParameter(f"--users {text}: percentages with commas, such as 1,10,100") from None


@app.command(name="check-parity", epilog="Example: `mmm4rec check-parity with_id_1layer.safetensors`")
def check_parity(
    files: Annotated[list[Path], typer.Argument(help="Tensors computed with the published model.")],
    as_json: Json = False,
) -> None:
    """Hold the model against reference tensors: user vectors, scores, loss and gradients. Exit 1 outside tolerance."""
    from mmm4rec.published.parity import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, check

    reports = [check(path) for path in files]
    if as_json:
        _print_json([{**dataclasses.asdict(r), "gradient": r.gradient, "ok": r.ok} for r in reports])
    else:
        for report in reports:
            rows = [
                *((what, getattr(report, what), OUTPUT_TOLERANCE) for what in ("user", "scores", "loss")),
                ("gradients", report.gradient, GRADIENT_TOLERANCE),
            ]
            shown = ((what, f"{d:.1e}", f"{t:.0e}", "ok" if d <= t else "FAILED") for what, d, t in rows)
            _table(["", "largest difference", "tolerance", ""], shown, title=report.file)
            worst = next(iter(report.gradients), None)
            if worst:
                out.print(f"largest gradient difference at {said(worst)}", style="dim")
            if report.unused:
                out.print(f"not used by this variant: {said(', '.join(report.unused))}", style="dim")
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@app.command(
    name="import-checkpoint",
    epilog="Examples: `mmm4rec import-checkpoint pretrained.ckpt` · "
    "`mmm4rec import-checkpoint finetuned.ckpt --items processed/Scientific --set model.temperature=0.5`",
)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A published .ckpt.")],
    to: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the checkpoint; else DATA/imported/NAME.", show_default=False),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Whose its per-item weights are: items.parquet, or a processed folder.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help='Settings as JSON: {"model": {...}}.')] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="What its shapes do not show; repeatable.", metavar="model.NAME=VALUE"),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Read a published checkpoint, to fine-tune from it in place of a model that is pre-trained here."""
    data_folder = _data_folder(data)
    from mmm4rec.__main__ import exchange_lines, import_published

    folder = to or data_folder.path / "imported" / file.stem
    found = import_published(file, folder, items, config, setting or [])
    if as_json:
        _print_json({"folder": str(folder.resolve()), **dataclasses.asdict(found)})
        return
    for line in exchange_lines(found, folder):
        _say(line)
    place = folder.resolve()
    named = place.relative_to(data_folder.path) if place.is_relative_to(data_folder.path) else place
    _say(f"next: `pretrained: {named}` in {data_folder.path / 'domains.yaml'}, then `mmm4rec run`")


@app.command(epilog="Examples: `mmm4rec ui --port 3000` · `mmm4rec ui --allow-host recommendations.example.org`")
def ui(
    data: Data = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 3000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name of a proxy before it, as browsers write it: NAME or NAME:PORT; repeatable."),
    ] = None,
) -> None:
    """Open Dagster's UI and its daemon on 127.0.0.1 over this data folder; ends with Ctrl-C, and its runs with it."""
    from pipelines.ui.servers import become, check_port

    check_port(port)
    data_folder = _data_folder(data)
    from pipelines.planner.runs import open_instance
    from pipelines.planner.step import DOMAINS

    # Its databases are made before others can meet there, and every domain is there to be chosen.
    with open_instance(Path(os.environ["MMM4REC_DAGSTER"])) as instance:
        instance.add_dynamic_partitions(str(DOMAINS.name), data_folder.present())
    become(port, allow_host or [])


def main() -> None:
    """Run the command line; errors of the house become one message and exit code 1."""
    signals.end_commands()
    from pipelines.errors import EXPECTED
    from warehouse.artifacts.errors import READ_ONLY

    try:
        app(prog_name="mmm4rec")
    except EXPECTED as error:
        _complain(str(error))
        sys.exit(1)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        _complain(f"{error.filename}: {error.strerror}; permit it, or use a data folder that you may write to")
        sys.exit(1)
    except signals.Interrupted as error:
        signals.leave(error.number)
