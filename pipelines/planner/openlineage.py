"""Events for OpenLineage (openlineage.io): each build is a run of a job, with the data sets that it read and wrote.

Off by default. The standard client is configured by its own environment variables, such as
``OPENLINEAGE__TRANSPORT__TYPE=file`` with ``OPENLINEAGE__TRANSPORT__LOG_FILE_PATH``, ``OPENLINEAGE_URL``, or
``OPENLINEAGE_CONFIG`` with the path of a YAML file. If any of them is set, events are sent. A receiver never blocks a
build: if an event cannot be sent, a warning is logged.

A job is an asset. A data set is an artifact of one domain (its folder, without the version) or a raw file. Versions are
facets. All values come from the manifest.
"""

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.planner.columns import columns
from warehouse.artifacts.artifact import Artifact
from warehouse.artifacts.contract import ArtifactStore

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient

__all__ = ["NAMESPACE", "run_events", "switched_on"]

NAMESPACE: Final = "mmm4rec"
"""The namespace of the jobs; OPENLINEAGE_NAMESPACE sets another one."""
_SWITCHES: Final = ("OPENLINEAGE_CONFIG", "OPENLINEAGE_URL", "OPENLINEAGE__TRANSPORT")
_log = logging.getLogger("mmm4rec")


def switched_on() -> bool:
    """Whether the environment configures where to send events."""
    return any(name.startswith(_SWITCHES) for name in os.environ)


@contextmanager
def run_events(data_folder: DataFolder, key: str, job: str, run_id: str) -> Iterator[Callable[[Artifact], None]]:
    """Send the events of one build: its start and its end. Call the yielded function with the artifact.

    Args:
        data_folder: the data folder.
        key: the asset.
        job: Dagster's job.
        run_id: Dagster's run, the parent of this OpenLineage run.

    Raises:
        SettingsError: events are switched on, but the client is not installed or refuses its configuration.
    """
    if not switched_on():
        yield lambda artifact: None
        return
    run = _Run(data_folder, key, job, run_id)
    run.emit("START")
    made: list[Artifact] = []
    try:
        yield made.append
    except BaseException as error:
        run.emit("FAIL", error=error)
        raise
    run.emit("COMPLETE", made[0])


class _Run:
    """The events of one run of a job."""

    def __init__(self, data_folder: DataFolder, key: str, job: str, run_id: str) -> None:
        self._data_folder, self._key = data_folder, key
        self._parent = job, run_id
        self._namespace = os.environ.get("OPENLINEAGE_NAMESPACE", NAMESPACE)
        self._client = _client()
        from openlineage.client.uuid import generate_new_uuid

        self._id = str(generate_new_uuid())

    def emit(self, kind: str, artifact: Artifact | None = None, error: BaseException | None = None) -> None:
        """Send one event. If that fails, log a warning."""
        from openlineage.client import event_v2 as events

        try:
            event = events.RunEvent(
                eventType=events.RunState[kind],
                eventTime=datetime.now(UTC).isoformat(),
                run=events.Run(self._id, self._facets(error)),
                job=events.Job(self._namespace, self._key),
                inputs=_inputs(self._data_folder, artifact) if artifact else [],
                outputs=[_output(self._data_folder.store, artifact)] if artifact else [],
                producer=NAMESPACE,
            )
            self._client.emit(event)
        except Exception as failure:  # a transport may raise anything
            _log.warning("%s: the OpenLineage event %s was not sent: %s", self._key, kind, failure)

    def _facets(self, error: BaseException | None) -> dict[str, Any]:
        from openlineage.client.facet_v2 import error_message_run, parent_run

        job, run_id = self._parent
        facets: dict[str, Any] = {
            "parent": parent_run.ParentRunFacet(parent_run.Run(run_id), parent_run.Job(self._namespace, job))
        }
        if error:
            trace = "".join(traceback.format_exception(error))
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(str(error), "python", trace)
        return facets


def _client() -> "OpenLineageClient":
    try:
        from openlineage.client import OpenLineageClient
    except ImportError as error:
        raise SettingsError(
            "the environment switches OpenLineage events on, but their client is not installed: "
            "`pip install mmm4rec[openlineage]`, or unset OPENLINEAGE_*"
        ) from error
    try:
        return OpenLineageClient()
    except (RuntimeError, ValueError, ImportError) as error:
        raise SettingsError(f"the OpenLineage client refuses its settings: {error}; correct OPENLINEAGE_*") from error


def _name(store: ArtifactStore, key: str, domain: str) -> tuple[str, str]:
    """The namespace and name of an artifact as a data set, without its version."""
    return _in_namespace(store.where(key, domain))


def _in_namespace(where: str) -> tuple[str, str]:
    """The namespace and name of a data set at a place: a local path, or part of a bucket."""
    if "://" not in where:
        return "file", where
    scheme, _, path = where.partition("://")
    bucket, _, name = path.partition("/")
    return f"{scheme}://{bucket}", name


def _inputs(data_folder: DataFolder, artifact: Artifact) -> list[Any]:
    """The inputs of an artifact: artifacts, and the raw files that are still at their places."""
    found = []
    for read in artifact.manifest.made_from:
        found.append(_input(*_name(data_folder.store, read.key, read.domain), read.version))
    for source, sha256 in artifact.manifest.sources.items():
        if data_folder.raw.has(source):
            found.append(_input(*_in_namespace(data_folder.raw.where(source)), sha256))
    return found


def _input(namespace: str, name: str, version: str) -> Any:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset as versions

    return InputDataset(namespace, name, facets={"version": versions.DatasetVersionDatasetFacet(version)})


def _output(store: ArtifactStore, artifact: Artifact) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage
    from openlineage.client.facet_v2 import dataset_version_dataset as versions
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics
    from openlineage.client.facet_v2 import schema_dataset as schemas

    files = artifact.manifest.files
    main = files.get(artifact.main_name)
    facets: dict[str, Any] = {"version": versions.DatasetVersionDatasetFacet(artifact.version)}
    if main and main.columns:
        facets["schema"] = schemas.SchemaDatasetFacet(
            [schemas.SchemaDatasetFacetFields(name, kind) for name, kind in main.columns.items()]
        )
    if made := columns(artifact):
        facets["columnLineage"] = lineage.ColumnLineageDatasetFacet(
            {
                column: lineage.Fields(
                    [lineage.InputField(*_name(store, key, artifact.domain), field) for key, field in fields]
                )
                for column, fields in made.items()
            }
        )
    counts = statistics.OutputStatisticsOutputDatasetFacet(
        rowCount=main.rows if main else None, size=sum(entry.bytes for entry in files.values()), fileCount=len(files)
    )
    return OutputDataset(
        *_name(store, artifact.key, artifact.domain), facets=facets, outputFacets={"outputStatistics": counts}
    )
