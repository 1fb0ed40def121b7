"""Commands for versions of artifacts and their lineage: `trace`, `impact`, `verify`, `gc`, `forget`, `pin` and
`unpin`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import signals
from pipelines.cli.answers import answer, fail, print_error, print_json, print_warning, report_failures
from pipelines.cli.options import ArtifactName, Data, Json, dagster_instance, open_data_folder, with_data
from pipelines.terminal import err, escaped, out

if TYPE_CHECKING:
    from pipelines.data_folder.folder import DataFolder

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Examples: `mmm4rec trace models/finetuned@Sample_Toys` · `mmm4rec trace 3f2a91c0 --json`")
def trace(artifact: ArtifactName, data: Data = None, as_json: Json = False) -> None:
    """Show what an artifact was made from, as a tree down to the sha256 of each raw file, and how it was made.

    A version shows Python, packages, commit, device and processor only if they differ from the version above.
    """
    data_folder = open_data_folder(data)
    from pipelines import lineage
    from warehouse.artifacts.lineage import Lineage

    known = Lineage.of(data_folder.store)
    root = known.find(artifact)
    if as_json:
        print_json([lineage.describe(known, version) for version in known.upstream([root])])
    else:
        out.print(lineage.tree(known, root))  # wrapped, so that no commit and no sha256 is cut


@commands.command(epilog="Examples: `mmm4rec impact Sample_Toys.csv` · `mmm4rec impact 3f2a91c0`")
def impact(
    raw: Annotated[str, typer.Argument(help="A raw file's name, or the first digits of its sha256.", metavar="RAW")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List every version that was made from a raw file. The versions that read it directly come first."""
    data_folder = open_data_folder(data)
    from pipelines import lineage
    from warehouse.artifacts.lineage import Lineage

    known = Lineage.of(data_folder.store)
    rows = [lineage.describe(known, version) for version in known.downstream(known.readers(raw))]
    shown = ("key", "domain", "version", "created")
    table = ((*(row[name] for name in shown), "yes" if row["current"] else "no") for row in rows)
    answer(as_json, rows, [*shown, "current"], table)


@commands.command(epilog="Examples: `mmm4rec verify` · `mmm4rec verify Sample_Toys --all`")
def verify(
    domains: Annotated[list[str] | None, typer.Argument(help="The domains. Default: all artifacts.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include versions that are not current.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Hash every file again. Exit 1 if a file is damaged; `mmm4rec run` then rebuilds it."""
    data_folder = open_data_folder(data)
    from pipelines import lineage, progress

    with progress.bars(), progress.show("bytes") as done:
        found = signals.aside(lambda: lineage.verify(data_folder, domains or [], everything, done))
    damaged = {name: problems for name, problems in found.items() if problems}
    if as_json:
        print_json({"verified": len(found), "damaged": damaged})
    else:
        out.print(f"{len(found):,} versions hashed, {len(damaged):,} damaged")
    for name, problems in damaged.items():
        for problem in problems:
            print_error(problem, about=name)
    if damaged:
        err.print(f"next: [bold]{escaped(with_data('mmm4rec run', data))}[/bold]", highlight=False)
        raise typer.Exit(1)


@commands.command(epilog="Examples: `mmm4rec gc --dry-run` · `mmm4rec gc`")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remove versions that nothing current, pinned, open or running needs, and leftovers of ended processes."""
    data_folder = open_data_folder(data)
    from pipelines.garbage import collect

    found = collect(data_folder, dry_run)
    if as_json or found:
        value = [{"kind": leftover.kind, "name": leftover.name, "bytes": leftover.bytes} for leftover in found]
        rows = ((leftover.kind, f"{leftover.bytes:,}", leftover.name) for leftover in found)
        answer(as_json, value, ["", "bytes", "what"], rows)
    if not as_json:
        gone = [leftover for leftover in found if leftover.kind != "doomed"]
        what = "would be removed" if dry_run else "removed"
        out.print(f"{what}: {len(gone):,}, together {sum(leftover.bytes for leftover in gone):,} bytes")
        if doomed := len(found) - len(gone):
            out.print(f"doomed: {doomed:,}; a later `mmm4rec gc` removes them, unless they are used until then")


@commands.command(
    name="forget", epilog="Examples: `mmm4rec forget Sample_Toys` · `mmm4rec forget Sample_Toys --yes --json`"
)
def forget_domain(
    domain: Annotated[str, typer.Argument(help="The domain.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remove a domain from the catalogue, the report and Dagster. Raw files stay; `mmm4rec gc` removes the rest."""
    data_folder = open_data_folder(data)
    from pipelines import progress
    from pipelines.forget import check, forget, why_it_comes_back

    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter(f"there is no terminal to confirm that {domain} is to be forgotten: give --yes")
    with dagster_instance(data_folder) as instance:
        check(data_folder, domain, instance)
    again = why_it_comes_back(data_folder, domain)
    if again:
        print_warning(again)
    if not yes:
        typer.confirm(f"Forget {domain}?", abort=True, err=True)
    with dagster_instance(data_folder) as instance, progress.bars():
        found = forget(data_folder, domain, instance)
    failures = report_failures(found.outcomes)
    if as_json:
        value = {"domain": domain, "versions": found.versions, "pinned": found.pinned, "returns": again}
        print_json({**value, "failed": len(failures)})
    else:
        for version in found.pinned:
            out.print(f"pinned: {version} stays until `mmm4rec unpin {version}`", soft_wrap=True, highlight=False)
        out.print(
            f"forgot {domain}, {len(found.versions):,} artifacts; next: "
            f"[bold]{escaped(with_data('mmm4rec gc', data))}[/bold] frees their space",
            soft_wrap=True,
        )
    if failures:
        raise typer.Exit(1)


@commands.command(epilog="Examples: `mmm4rec pin models/finetuned@Sample_Toys` · `mmm4rec pin`")
def pin(
    artifact: Annotated[str | None, typer.Argument(help="As for `mmm4rec trace`. Default: list the pins.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Protect a version, and everything that it was made from, against `mmm4rec gc`."""
    _pin(open_data_folder(data), artifact, True, as_json)


@commands.command(epilog="Example: `mmm4rec unpin models/finetuned@Sample_Toys:3f2a91c0`")
def unpin(artifact: ArtifactName, data: Data = None, as_json: Json = False) -> None:
    """Remove a pin, so that `mmm4rec gc` can remove the version once nothing else needs it."""
    _pin(open_data_folder(data), artifact, False, as_json)


def _pin(data_folder: "DataFolder", name: str | None, on: bool, as_json: bool) -> None:
    """Pin or unpin a version, and list the pinned versions."""
    from warehouse.artifacts.lineage import Lineage, named

    if name is not None and not data_folder.store.mark(Lineage.of(data_folder.store).find(name), "pin", on):
        fail(f"`mmm4rec gc` has just removed {name}")
    pinned = [named(version) for version in data_folder.store.marked("pin")]
    answer(as_json, pinned, ["pinned"], ([version] for version in pinned))
