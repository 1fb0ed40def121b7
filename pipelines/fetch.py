"""The raw files of categories and their locations, for the command line."""

from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import quote

from pipelines import progress
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from warehouse.artifacts.progress import Progress
from warehouse.errors import DataError
from warehouse.raw.fetch import Fetched, MissingFileError, fetch_file
from warehouse.raw.formats import formats


def fetch_categories(
    data_folder: DataFolder,
    names: Sequence[str],
    origin: str | None = None,
    *,
    chosen: Collection[str] = (),
    force: bool = False,
    retries: int = 5,
) -> tuple[list[Fetched], dict[str, str]]:
    """Fetch a file of each kind for each category or known domain: from `origin`, otherwise from the location in the
    settings. `chosen`: the names of formats to fetch instead of the first one of their kind. Return the files, and the
    failures by file or by name. A failure does not stop the rest.

    Raises:
        SettingsError: a chosen format does not exist, or its files are not published.
    """
    published = _published(chosen)
    place = (
        _base_address(origin, Path.cwd()) if origin else _base_address(data_folder.settings.location, data_folder.path)
    )
    found: list[Fetched] = []
    failures: dict[str, str] = {}
    wanted: dict[str, None] = {}
    for name in names:
        try:
            category = data_folder.category(name)
        except SettingsError as error:
            failures[name] = str(error)
            continue
        wanted |= dict.fromkeys(place_of.format(category) for place_of in published)
    for file in wanted:
        target = data_folder.raw_folder / Path(file).name
        try:
            with progress.show(f"fetching {target.name}") as report:
                found.append(_fetch_one(place, file, target, force, retries, report))
        except DataError as error:
            failures[target.name] = str(error)
    return found, failures


def _published(chosen: Collection[str]) -> list[str]:
    """The paths of the files to fetch below the location, with {} for the category: of the chosen formats, and of the
    first published format of each other kind."""
    published = {each.name: (each.kind, each.origin) for each in formats() if each.origin}
    if unknown := sorted({*chosen} - published.keys()):
        raise SettingsError(f"no files of the format {unknown[0]!r} are published; formats: {', '.join(published)}")
    named = [published[name] for name in dict.fromkeys(chosen)]
    kinds = {kind for kind, _ in named}
    first: dict[str, str] = {}
    for kind, path in published.values():
        first.setdefault(kind, path)
    return [path for _, path in named] + [path for kind, path in first.items() if kind not in kinds]


def _fetch_one(place: str, file: str, target: Path, force: bool, retries: int, report: Progress) -> Fetched:
    """Fetch from the published folders, otherwise from the top of `place`."""
    try:
        return fetch_file(_address(place, file), target, force=force, retries=retries, progress=report)
    except MissingFileError:
        try:
            return fetch_file(_address(place, target.name), target, force=force, retries=retries, progress=report)
        except MissingFileError:
            pass
        raise


def _address(place: str, file: str) -> str:
    """A file below a place. On a web server, ? and % of a category are part of the file's name."""
    return place + (quote(file) if place.startswith(("http://", "https://")) else file)


def _base_address(location: str, base: Path) -> str:
    """A location as an address that ends in a slash."""
    if "://" not in location:
        location = f"file://{(base / Path(location).expanduser()).resolve()}"
    return location if location.endswith("/") else f"{location}/"
