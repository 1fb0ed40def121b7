"""Commands between a data folder and a bucket: `push` and `pull`."""

import dataclasses
from typing import Annotated

import typer

from pipelines import signals
from pipelines.cli.answers import print_json, print_text, print_warning
from pipelines.cli.options import Data, Json, open_data_folder, with_data

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Examples: `mmm4rec push s3://bucket/prefix --dry-run` · `mmm4rec push s3://bucket/prefix`")
def push(
    address: Annotated[str, typer.Argument(help="The bucket, such as s3://bucket/prefix.")],
    force: Annotated[
        bool, typer.Option("--force", help="Make these versions current also where the bucket has other ones.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Copy the artifacts of the data folder into a bucket: current and pinned versions, and what they were made from.

    The folder is not changed. A push that was stopped continues when it is started again.
    """
    data_folder = open_data_folder(data)
    from pipelines import buckets, progress

    with progress.bars(), progress.show("bytes") as done:
        found = signals.aside(lambda: buckets.push(data_folder, address, force, dry_run, done))
    if as_json:
        print_json(dataclasses.asdict(found) | {"store": address.rstrip("/")})
        return
    would = "would be " if dry_run else ""
    print_text(
        f"{would}sent: {found.versions:,} versions with {found.files:,} files, {found.bytes:,} bytes; "
        f"{found.there:,} versions are there already"
    )
    print_text(f"{would}set: {found.pins:,} pins; {would}current from now on: {found.current:,} artifacts")
    if dry_run or data_folder.place == address.rstrip("/"):
        return
    print_text(
        f"catalogue and report stay: they belong to their folder. To work with the bucket, write this line "
        f"into {data_folder.settings_file}, then call `mmm4rec run`, which builds them again:"
    )
    print_text(f"store: {address.rstrip('/')}")


@commands.command(
    epilog="Examples: `mmm4rec pull s3://bucket/prefix` · `mmm4rec pull --domain Toys --layer core --layer reports`"
)
def pull(
    address: Annotated[
        str | None, typer.Argument(help="The bucket. Default: MMM4REC_STORE or `store` in domains.yaml.")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="Only this domain, and what spans all domains. Repeatable.")
    ] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Only this layer, such as core. Repeatable.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Bring the current tables from a bucket, and a warehouse.duckdb that shows them.

    The tables are plain Parquet files in the data folder. What is there already is not downloaded again. The catalogue
    shows what this call asks for; views of anything else do not exist.
    """
    data_folder = open_data_folder(data)
    from pipelines import buckets, progress

    with progress.bars(), progress.show("bytes") as done:
        found = signals.aside(lambda: buckets.pull(data_folder, address, domain or [], layer or [], done))
    for why in found.damaged:
        print_warning(why, about="left out")
    if as_json:
        print_json(
            {
                "catalogue": str(found.catalogue),
                "fetched": dataclasses.asdict(found.fetched),
                "shown": [artifact.ref for artifact in found.shown],
                "left": [artifact.ref for artifact in found.apart],
            }
        )
        return
    fetched = found.fetched
    print_text(f"fetched: {fetched.files:,} files, {fetched.bytes:,} bytes; {fetched.there:,} were there already")
    left = f"; left in the bucket: {len(found.apart):,}" if found.apart else ""
    print_text(f"{found.catalogue} shows the tables of {len(found.shown):,} artifacts{left}")
    print_text(f"next: {with_data('mmm4rec sql', data)}, or open that file read-only with DuckDB")
