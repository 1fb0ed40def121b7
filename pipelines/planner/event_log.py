"""Whether Dagster's event log and the catalogue agree with the store. The store is authoritative."""

from pathlib import Path

import dagster as dg

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.step import Ref, all_steps
from warehouse.artifacts.lineage import named
from warehouse.artifacts.store import ALL
from warehouse.catalogue.query import query

__all__ = ["disagreements", "unrecorded"]

_SQL = Path(__file__).parent / "sql"
DATA_VERSION = "dagster/data_version"


def unrecorded(data_folder: DataFolder, instance: dg.DagsterInstance) -> list[Ref]:
    """The (key, domain) of versions in the store whose last version in Dagster's event log is another one or missing.

    This happens if a process was killed between publishing and recording, or if the store was copied from elsewhere.
    Materialising them builds nothing and records them.
    """
    behind = []
    current = data_folder.store.pointed()
    for key, step in all_steps().items():
        logged = _logged(instance, key, step.per_domain)
        for domain in step.domains(data_folder, sorted(data_folder.settings.domains)):
            version = current.get((key, domain))
            if version and version[2] != logged.get(domain):
                behind.append((key, domain))
    return behind


def _logged(instance: dg.DagsterInstance, key: str, per_domain: bool) -> dict[str, str]:
    """The data version of the last materialisation, by domain."""
    asset = dg.AssetKey(key.split("/"))
    if per_domain:
        # One query per asset, however many domains there are; the public calls load one event per domain.
        tags = instance.event_log_storage.get_latest_tags_by_partition(
            asset, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
        )
        return {domain: found[DATA_VERSION] for domain, found in tags.items()}
    event = instance.get_latest_materialization_event(asset)
    made = event.asset_materialization if event else None
    return {ALL: (made.tags or {}).get(DATA_VERSION, "")} if made else {}


def disagreements(data_folder: DataFolder, instance: dg.DagsterInstance) -> list[str]:
    """One message for each difference of the catalogue or the event log from the store."""
    found = [
        f"Dagster's event log does not have the current {key} of {domain}; `mmm4rec run` records it"
        for key, domain in unrecorded(data_folder, instance)
    ]
    if not data_folder.catalogue.is_file():
        return [*found, f"there is no catalogue at {data_folder.catalogue}"]
    rows = query(data_folder.catalogue, (_SQL / "shown_versions.sql").read_text()).to_pylist()
    shown = {(row["key"], row["domain"], row["version"]) for row in rows}
    stored = {version for version in data_folder.store.pointed().values() if not version[0].startswith("warehouse/")}
    return [
        *found,
        *(f"the catalogue does not show the current {named(version)}" for version in sorted(stored - shown)),
        *(f"the catalogue shows {named(version)}, which is not current" for version in sorted(shown - stored)),
    ]
