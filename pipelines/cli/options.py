"""The options that several commands share, and the data folder that `--data` names.

Opening the data folder also sets the environment variables that tell Dagster where it is.
"""

import os
import shlex
from contextlib import AbstractContextManager
from gc import set_threshold
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.answers import fail, print_warning

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from pipelines.data_folder.folder import DataFolder

__all__ = [
    "HOME_VARIABLE",
    "ArtifactName",
    "Data",
    "Json",
    "catalogue_file",
    "dagster_instance",
    "open_data_folder",
    "with_data",
]

HOME_VARIABLE = "MMM4REC_DAGSTER_HOME"
"""The environment variable that names a folder with the user's own dagster.yaml."""

Data = Annotated[
    Path | None, typer.Option("--data", help="Data folder. Default: MMM4REC_DATA or ./data.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ArtifactName = Annotated[
    str,
    typer.Argument(
        help="layer/noun@domain (the current version), layer/noun (an artifact of all domains), "
        "layer/noun@domain:version, or a version. The first digits of a version are enough."
    ),
]


def open_data_folder(data: Path | None) -> "DataFolder":
    """The data folder, made known to Dagster through its environment variables."""
    # Loading Dagster creates half a million objects that stay in memory. A garbage collection after every 700 of them
    # takes a fifth of the time of a command that has nothing to do.
    set_threshold(100_000)
    from pipelines.data_folder.folder import DATA_VARIABLE, DataFolder

    found = DataFolder.find(data)
    os.environ[DATA_VARIABLE] = str(found.path)
    os.environ["MMM4REC_DAGSTER"] = str(found.path / ".dagster")
    home, exported = _dagster_home(), os.environ.get("DAGSTER_HOME")
    if exported and Path(exported).resolve() != home.resolve():
        print_warning(
            f"DAGSTER_HOME={exported} belongs to another Dagster and is not used; to use a folder of your own, set "
            f"{HOME_VARIABLE}"
        )
    os.environ["DAGSTER_HOME"] = str(home)
    return found


def with_data(command: str, data: Path | None) -> str:
    """A command to call next, for the data folder of this call: with its --data if that was given."""
    return command if data is None else f"{command} --data {shlex.quote(str(data))}"


def _dagster_home() -> Path:
    """The folder of the dagster.yaml to use: the one requested, else the one in the checkout or its copy in a wheel."""
    if asked := os.environ.get(HOME_VARIABLE):
        folder = Path(asked).expanduser().absolute()
        if not (folder / "dagster.yaml").is_file():
            fail(
                f"{HOME_VARIABLE}={asked}: there is no dagster.yaml; copy the project's dagster.yaml there, and change "
                "the copy"
            )
        return folder
    package = Path(__file__).parents[1]
    return package.parent if (package.parent / "dagster.yaml").is_file() else package / "dagster_home"


def dagster_instance(data_folder: "DataFolder") -> "AbstractContextManager[DagsterInstance]":
    """The Dagster instance of a data folder that `open_data_folder` returned. The caller closes it after use."""
    from pipelines.running.runs import open_instance

    return open_instance(data_folder.path / ".dagster")


def catalogue_file(data_folder: "DataFolder") -> Path:
    """The catalogue file of the data folder.

    Raises:
        CommandError: there is no catalogue.
        DataError: the catalogue shows the files of another folder.
    """
    from pipelines.data_folder.folder import STORE_CACHE
    from warehouse.catalogue.query import check_place

    path = data_folder.catalogue
    if not path.is_file():
        fail(f"there is no catalogue at {path}; `mmm4rec run` builds it")
    check_place(path, data_folder.path, data_folder.cache / STORE_CACHE)
    return path
