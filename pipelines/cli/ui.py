"""The command `ui`, which opens Dagster's UI over the data folder."""

from typing import Annotated

import typer

from pipelines.cli.answers import print_warning
from pipelines.cli.options import Data, dagster_instance, open_data_folder

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(epilog="Examples: `mmm4rec ui --port 3000` · `mmm4rec ui --allow-host recommendations.example.org`")
def ui(
    data: Data = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 3000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name of a proxy before it, as browsers write it: NAME or NAME:PORT; repeatable."),
    ] = None,
) -> None:
    """Open Dagster's UI and its daemon on 127.0.0.1 over this data folder; ends with Ctrl-C, and its runs with it."""
    from pipelines.ui.servers import check_port, replace_this_process

    check_port(port)
    data_folder = open_data_folder(data)
    from pipelines.errors import EXPECTED
    from pipelines.planner.asset import DOMAINS

    # Its databases are made before others can meet there, and every domain is there to be chosen.
    with dagster_instance(data_folder) as instance:
        try:
            instance.add_dynamic_partitions(str(DOMAINS.name), data_folder.present())
        except EXPECTED as error:  # no reason to show nothing: its pages say the same until it is mended
            print_warning(str(error))
    replace_this_process(port, allow_host or [])
