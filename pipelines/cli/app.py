"""The command line: all commands, in the order in which `mmm4rec --help` lists them, and the exit codes.

Each command module contains the commands of one subject. Every command accepts `--data`. It prints text for people, or
JSON for programs with `--json`. Exit codes: 0 success, 1 an error or a failed check (the message is on stderr), 2 wrong
usage, 128 + n stopped by signal n. Slow imports (Dagster, torch, matplotlib) happen inside the commands that need them.
"""

import sys
from typing import Annotated

import typer

from pipelines import signals
from pipelines.cli import ask, bucket, build, models, ui, versions
from pipelines.cli.answers import print_error, print_text

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="MMM4Rec: from raw purchase data to recommendations, with lineage for every artifact.",
    epilog="Exit codes: 0 success, 1 an error or a failed check, 2 wrong usage, 128 + n stopped by signal n. The data "
    "folder is --data, otherwise MMM4REC_DATA, otherwise ./data.",
)
for module in (build, ask, versions, bucket, models, ui):
    app.add_typer(module.commands)


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    from warehouse.artifacts.environment import watch

    try:
        said = f"mmm4rec {version('mmm4rec')}"
    except PackageNotFoundError:  # a checkout that is not installed
        said = "mmm4rec"
    code = watch()()
    if code.git_commit:
        said += f", commit {code.git_commit[:12]}{'' if code.git_clean else ' with changes'}"
    print_text(said)
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and the commit."),
    ] = False,
) -> None:
    """The options that come before a command."""


def main() -> None:
    """Run the command line. An expected error becomes one message and exit code 1."""
    signals.end_commands()
    from pipelines.errors import EXPECTED
    from warehouse.artifacts.errors import READ_ONLY

    try:
        app(prog_name="mmm4rec")
    except EXPECTED as error:
        print_error(str(error))
        sys.exit(1)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        print_error(
            f"{error.filename}: {error.strerror}; allow writing to it, or use a data folder that you may write to"
        )
        sys.exit(1)
    except signals.Interrupted as error:
        signals.leave(error.number)
