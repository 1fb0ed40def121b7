"""Commands that query what was built: `recommend`, `features`, `pictures`, `search` and `sql`."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.answers import (
    answer,
    fail,
    print_error,
    print_json,
    print_note,
    print_rows,
    print_table,
    print_text,
    warn_of_damaged,
)
from pipelines.cli.options import Data, Json, catalogue_file, open_data_folder, with_data
from pipelines.terminal import err, escaped, out

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.catalogue.query import Session

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Example: `mmm4rec recommend Sample_Toys --user A001301SAMPLE -k 5`")
def recommend(
    domain: Annotated[str, typer.Argument(help="The domain.")],
    user: Annotated[str, typer.Option(help="A user id from the raw file.")],
    k: Annotated[int | None, typer.Option("-k", min=1, help="Number of items. Default: all that are stored.")] = None,
    model: Annotated[str | None, typer.Option(help="The model. Default: the model that is best on validation.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show the recommendations for a user, with titles and scores."""
    data_folder = open_data_folder(data)
    from warehouse.catalogue.query import Session

    data_folder.settings.domain(domain)
    statement, about = (
        (Path(__file__).parent / "sql" / f"{name}.sql").read_text() for name in ("recommendations", "recommended_to")
    )
    who = {"domain": domain, "user": user}
    with Session(catalogue_file(data_folder)) as session:
        (known,) = session.ask(about, who).to_pylist()
        kept = known["kept"]
        if kept is None:
            fail(f"{domain} has no recommendations yet; `mmm4rec run {domain}` makes them")
        if k is not None and k > kept:
            fail(
                f"{domain} has {kept} recommendations per user, so {k} cannot be shown; "
                f"to keep more, set `recommendations: {{k: {k}}}` in domains.yaml and run `mmm4rec run`"
            )
        if model is not None and model not in known["models"]:
            fail(
                f"{domain} has recommendations by {' and '.join(known['models'])}, not by {model}; "
                "for those of every model, set `recommendations: {models: all}` in domains.yaml and run `mmm4rec run`"
            )
        rows = session.ask(statement, who | {"k": k or kept, "model": model or known["best"]}).to_pylist()
    if not known["users"]:
        fail(
            f"{domain} has no recommendations for user {user!r}, "
            + (
                f"who is not in its k-core: too few of this user's ratings ({known['ratings']:,}) are left"
                if known["ratings"]
                else "whom its ratings do not name: give an id from the raw file"
            )
        )
    if not rows and not as_json:
        print_text(f"{user} has all {known['items']} items of {domain}: no item is left to recommend")
        return
    if as_json:
        print_json(rows)
        return
    shown = ((row["rank"], row["item_id"], row["title"], f"{row['score']:.3f}") for row in rows)
    print_table(["", "item", "title", "score"], shown, title=f"{domain}, ranked by {rows[0]['model']}")


@commands.command(epilog="Examples: `mmm4rec features` · `mmm4rec features --domain Sample_Toys --json`")
def features(
    domain: Annotated[str | None, typer.Option(help="List only this domain.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List the feature views of items and users, with their width, encoder and version."""
    data_folder = open_data_folder(data)
    from pipelines.feature_store import listing

    warn_of_damaged(data_folder)
    views = listing(data_folder, domain)
    shown = ["name", "entity", "domain", "rows", "width", "encoder", "source", "freshness", "version"]
    answer(as_json, views, shown, ([view[column] for column in shown] for view in views))


@commands.command(epilog="Examples: `mmm4rec pictures` · `mmm4rec pictures --again unreachable --again timeout`")
def pictures(
    again: Annotated[
        list[str] | None, typer.Option(help="Let the next run retry addresses with this status. Repeatable.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show the download status of the items' pictures. With --again, the next run retries failed addresses."""
    data_folder = open_data_folder(data)
    from features.pictures.item_images import STATUSES, forget
    from pipelines.assets.features import PICTURES

    warn_of_damaged(data_folder)
    forgotten = forget(data_folder.kept(PICTURES), again) if again else None
    found = {
        artifact.domain: artifact.manifest.summary["statuses"]
        for artifact in data_folder.store.all_current()
        if artifact.key == "features/item_images"
    }
    if forgotten is not None and not as_json:
        again_by = escaped(with_data("mmm4rec run", data))
        out.print(f"{forgotten:,} addresses will be asked again; next: [bold]{again_by}[/bold]", soft_wrap=True)
    counts = [(domain, status, statuses[status]) for domain, statuses in found.items() for status in statuses]
    rows = ((*count, STATUSES[count[1]]) for count in counts)
    answer(as_json, {"domains": found, "forgotten": forgotten}, ["domain", "status", "items", "meaning"], rows)


@commands.command(
    epilog="Examples: `mmm4rec search --domain Sample_Toys --text 'striped red robot'` · "
    "`mmm4rec search --domain Sample_Toys --image robot.jpg`"
)
def search(
    domain: Annotated[str, typer.Option(help="The domain to search.")],
    text: Annotated[str | None, typer.Option(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file to search with.")] = None,
    item: Annotated[str | None, typer.Option(help="An item id: find similar items.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 10,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write the hits to this file: .png for a picture, .html for a page.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Find the items whose vectors are nearest to words, to a picture, to both together, or to an item."""
    if (item is None) == (text is None and image is None):
        raise typer.BadParameter("give --text, --image or both, or give --item")
    data_folder = open_data_folder(data)
    from pipelines.search import find

    hits = find(data_folder, domain, k, text=text, image=image, item=item, sheet=sheet)
    rows = ((rank, hit["item_id"], hit["title"], f"{hit['score']:.3f}") for rank, hit in enumerate(hits, 1))
    answer(as_json, hits, ["", "item", "title", "score"], rows)


@commands.command(
    epilog='Examples: `mmm4rec sql "SELECT domain, users, items FROM domains"` · `mmm4rec sql < questions.sql` · '
    "`mmm4rec sql --example popular_items --param top=5 --csv` · `mmm4rec sql 'FROM results' --out results.parquet`"
)
def sql(
    statement: Annotated[
        str | None, typer.Argument(help="One SQL query. Default: read a script from a pipe, or open a prompt.")
    ] = None,
    example: Annotated[str | None, typer.Option(help="Run this example query.")] = None,
    examples: Annotated[bool, typer.Option("--examples", help="List the example queries.")] = False,
    param: Annotated[
        list[str] | None, typer.Option(help="Set a $-parameter of the query. Repeatable.", metavar="NAME=VALUE")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write the answer to this .parquet file.", show_default=False)
    ] = None,
    data: Data = None,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print CSV with a header line; lists are JSON. A text that starts with = + - @, a tab or a carriage "
            "return gets a ' in front, so that a spreadsheet does not read it as a formula.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for programs; NaN and infinite numbers are null.")
    ] = False,
) -> None:
    """Query the analysts' catalogue, read-only: one query, a script from a pipe, an example, or a prompt.

    A table shows the first 1,000 rows with rounded numbers. --csv, --json and --out write all rows, not rounded.
    """
    if sum((statement is not None, example is not None, examples)) > 1:
        raise typer.BadParameter("give only one of these: a query, --example, --examples")
    if to is not None and (as_csv or as_json or (statement is None and example is None)):
        raise typer.BadParameter("--out is for one query or --example, without --csv and --json")
    from pipelines.cli import prompt
    from pipelines.cli.parquet import check_target
    from warehouse.catalogue import questions
    from warehouse.catalogue.query import Session

    form = "csv" if as_csv else "json" if as_json else "table"
    if examples:
        _print_answer(prompt.example_table(), form, print_table)
        return
    given = prompt.parameters(param or [])
    data_folder = open_data_folder(data)
    place = None if to is None else check_target(to, data_folder.path)
    with Session(catalogue_file(data_folder)) as session:
        if example is not None:
            asked = questions.example(example)
            bound = prompt.chosen(session, asked, given, print_note)
            _answer(session, asked.sql, bound, form, place)
        elif statement is not None:
            _answer(session, statement, given, form, place)
        elif sys.stdin.isatty():
            show, show_list = partial(_print_answer, form=form), partial(_print_answer, form=form, show=print_table)
            prompt.Prompt(session, show, show_list, print_text, print_error).run()
        else:
            for one in session.statements(sys.stdin.read()):
                _answer(session, one, given, form)


def _answer(session: "Session", statement: str, bound: Mapping[str, Any], form: str, place: Path | None = None) -> None:
    """Run a query and print the first rows as a table, or all rows part by part; or write all rows to `place`."""
    from pipelines.cli import prompt
    from pipelines.cli.parquet import write_parquet

    if place is not None:
        rows = write_parquet(prompt.stream(session, statement, bound), place)
        print_text(f"wrote {rows:,} rows to {place}")
        return
    if form != "table":
        prompt.write(prompt.stream(session, statement, bound), form, sys.stdout)
        return
    found = prompt.ask(session, statement, bound, limit=prompt.TABLE + 1)
    _print_answer(found.slice(0, prompt.TABLE), form)
    if found.num_rows > prompt.TABLE:
        err.print(f"only the first {prompt.TABLE:,} rows; --csv and --json print all of them", highlight=False)


def _print_answer(
    table: "pa.Table", form: str, show: Callable[[Sequence[str], Iterable[Sequence[Any]]], None] = print_rows
) -> None:
    """Print an answer that is in memory, with `show` for people, or as JSON or CSV."""
    from pipelines.cli import prompt

    if form == "table":
        show(table.column_names, (tuple(map(prompt.rounded, row)) for row in prompt.rows(table.to_batches())))
    else:
        prompt.write(prompt.whole(table), form, sys.stdout)
