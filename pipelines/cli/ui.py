"""The command `ui`, which opens Dagster's UI for the data folder."""

from typing import Annotated

import typer

from pipelines.cli.answers import print_warning
from pipelines.cli.options import Data, dagster_instance, open_data_folder

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Examples: `mmm4rec ui --port 3000` · `mmm4rec ui --allow-host recommendations.example.org`")
def ui(
    data: Data = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")] = 3000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name of a proxy in front, as browsers send it: NAME or NAME:PORT. Repeatable."),
    ] = None,
) -> None:
    """Start Dagster's UI and daemon on 127.0.0.1 for this data folder. Ctrl-C stops them and their runs."""
    from pipelines.ui.servers import check_port, replace_this_process

    check_port(port)
    data_folder = open_data_folder(data)
    from pipelines.errors import EXPECTED
    from pipelines.planner.asset import DOMAINS

    # This creates the databases before several processes use them, and makes every domain selectable.
    with dagster_instance(data_folder) as instance:
        try:
            instance.add_dynamic_partitions(str(DOMAINS.name), data_folder.present())
        except EXPECTED as error:  # the UI still starts, and its pages show the error until it is fixed
            print_warning(str(error))
    replace_this_process(port, allow_host or [])
