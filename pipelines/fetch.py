"""The raw files of categories and their locations, for the command line."""

from collections.abc import Sequence
from pathlib import Path

from pipelines import progress
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from warehouse.artifacts.progress import Progress
from warehouse.errors import DataError
from warehouse.raw.fetch import Fetched, MissingFileError, fetch_file
from warehouse.raw.formats import format_named


def fetch_categories(
    data_folder: DataFolder,
    names: Sequence[str],
    origin: str | None = None,
    *,
    reviews: bool = False,
    force: bool = False,
    retries: int = 5,
) -> tuple[list[Fetched], dict[str, str]]:
    """Fetch the interactions and the metadata of each category or known domain from `origin`, otherwise from the
    location in the settings. Return the files, and the failures by file or by name. A failure does not stop the
    rest."""
    place = (
        _base_address(origin, Path.cwd()) if origin else _base_address(data_folder.settings.location, data_folder.path)
    )
    found: list[Fetched] = []
    failures: dict[str, str] = {}
    origins = [_origin("reviews" if reviews else "ratings"), _origin("metadata")]
    wanted: dict[str, None] = {}
    for name in names:
        try:
            category = data_folder.category(name)
        except SettingsError as error:
            failures[name] = str(error)
            continue
        wanted |= dict.fromkeys(place_of.format(category) for place_of in origins)
    for file in wanted:
        target = data_folder.raw_folder / Path(file).name
        try:
            with progress.show(f"fetching {target.name}") as report:
                found.append(_fetch_one(place, file, target, force, retries, report))
        except DataError as error:
            failures[target.name] = str(error)
    return found, failures


def _origin(format_name: str) -> str:
    """The path of the files of a format below the location, with {} for the category."""
    found = format_named(format_name).origin
    if found is None:
        raise SettingsError(
            f"files of the format {format_name} are not published anywhere: put your own into the raw folder"
        )
    return found


def _fetch_one(place: str, file: str, target: Path, force: bool, retries: int, report: Progress) -> Fetched:
    """Fetch from the published folders, otherwise from the top of `place`."""
    try:
        return fetch_file(place + file, target, force=force, retries=retries, progress=report)
    except MissingFileError:
        try:
            return fetch_file(place + target.name, target, force=force, retries=retries, progress=report)
        except MissingFileError:
            pass
        raise


def _base_address(location: str, base: Path) -> str:
    """A location as an address that ends in a slash."""
    if "://" not in location:
        location = f"file://{(base / Path(location).expanduser()).resolve()}"
    return location if location.endswith("/") else f"{location}/"
