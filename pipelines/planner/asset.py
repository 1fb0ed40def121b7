"""Steps as Dagster assets: an asset builds its step, checks it and shows it in the UI."""

import socket
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.blocking import CheckError
from pipelines.planner.columns import columns
from pipelines.planner.openlineage import run_events
from pipelines.planner.step import Made, Step
from warehouse.artifacts.store import ALL, Artifact, mend

# Dagster calls checks by partition a preview. They work, and every command would print the warning.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

DOMAINS = dg.DynamicPartitionsDefinition(name="domain")

NOT_SHOWN = "not_shown"
"""Name of the metadata that lists the missing exhibits with the reasons."""
NOT_MADE = "not-made"
"""Data version in Dagster's event log for a step that does not apply to a domain, so that it is not shown missing."""
RETRIES = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)
"""For errors that may not occur again: a network failure, or a killed worker."""

_FILES = "files_match_manifest"


def asset_key(key: str) -> dg.AssetKey:
    """The Dagster form of a key such as core/items."""
    return dg.AssetKey(key.split("/"))


def asset_of(step: Step, tags: Mapping[str, str] | None = None) -> dg.AssetsDefinition:
    """The Dagster asset of a step; its executor gets the `tags`."""
    layer, noun = step.key.split("/")
    partitions = DOMAINS if step.per_domain else None

    @dg.asset(
        key=[layer, noun],
        group_name=layer,
        deps=[asset_key(other) for other in step.upstream],
        partitions_def=partitions,
        code_version=step.code_version,
        kinds=set(step.kinds),
        description=(step.build.__doc__ or "").strip(),
        owners=[f"team:{step.room}"],
        op_tags={"layer": layer, **(tags or {})},
        pool=step.pool,
        retry_policy=RETRIES,
        check_specs=[
            dg.AssetCheckSpec(
                name, asset=[layer, noun], description=description, blocking=True, partitions_def=partitions
            )
            for name, description in _blocking(step).items()
        ],
    )
    def asset(
        context: dg.AssetExecutionContext, data_folder: dg.ResourceParam[DataFolder]
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
        domain = context.partition_key if step.per_domain else ALL
        try:
            data_folder.settings  # noqa: B018 - also a step without settings fails: what to build is unknown
            if not step.applies(data_folder, domain):
                yield _not_made(step, domain, context.log)
                return
            with run_events(data_folder, step.key, context.job_name, context.run_id) as completed:
                made = step.make(data_folder, domain)
                completed(made.artifact)
        except Exception as error:
            if isinstance(error, CheckError):
                yield _check_structure(step, error.counts, str(error))
            if may_pass(error):
                raise
            raise dg.Failure(str(error), allow_retries=False) from error
        yield _result(step, data_folder, made, context.log)

    return asset


def _result(step: Step, data_folder: DataFolder, made: Made, log: dg.DagsterLogManager) -> dg.MaterializeResult[Any]:
    """The result of a step for Dagster. Exhibits that cannot be shown are reported in the log."""
    # Imports the drawing code only here, because finding out that nothing is stale does not need it.
    from pipelines.reports.exhibits import exhibits

    artifact, built = made.artifact, made.built
    version = dg.DataVersion(artifact.version)
    log.info("%s %s of %s", "built" if built else "found", artifact.version, artifact.ref)
    for damage in data_folder.damaged() if step.collects else ():
        log.warning("%s", damage)
    if made.problems:
        return dg.MaterializeResult(data_version=version, check_results=_check(step, made))
    shown, failed = exhibits(data_folder, artifact)
    for name, reason in failed.items():
        log.warning("%s of %s cannot be shown: %s", name, artifact.ref, reason)
    missing = {NOT_SHOWN: dg.MetadataValue.json(failed)} if failed else {}
    return dg.MaterializeResult(
        data_version=version,
        metadata=shown | missing | metadata(artifact, built) | _column_lineage(artifact),
        check_results=_check(step, made),
    )


def _not_made(step: Step, domain: str, log: dg.DagsterLogManager) -> dg.MaterializeResult[Any]:
    """The result for Dagster if a step does not apply to a domain, so that the steps downstream can continue.

    Dagster knows only made and missing, and shows this as made. Metadata, checks and log say that it was not made.
    """
    reason = (
        f"{step.key} is not built for {domain}: models from scratch, fine-tuned models and baselines are for target "
        "domains, baselines only if the settings request them, and pre-training needs a source domain with raw files; "
        "domains.yaml sets the roles"
    )
    log.info("%s", reason)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(NOT_MADE),
        metadata={"built": False, "reason": reason},
        check_results=[
            dg.AssetCheckResult(passed=True, check_name=name, description=f"nothing to check: {reason}")
            for name in _blocking(step)
        ],
    )


def _blocking(step: Step) -> dict[str, str]:
    """The description of each blocking check, by name."""
    files = {_FILES: "Every file of the manifest is there with its size and sha256, and there are no other files."}
    if step.check is None:
        return files
    return files | {step.check.name: f"{step.check.description} The counts are numbers of violations."}


def _check(step: Step, made: Made) -> list[dg.AssetCheckResult]:
    """The results of the step's blocking checks."""
    files = _check_files(made)
    if step.check is None:
        return [files]
    return [files, _check_structure(step, made.counts, "its files are damaged" if made.problems else None)]


def _check_structure(step: Step, counts: Mapping[str, int], wrong: str | None = None) -> dg.AssetCheckResult:
    """The counts of a step's check, and a message if something is wrong."""
    name = step.check.name if step.check else None
    return dg.AssetCheckResult(passed=wrong is None, check_name=name, description=wrong, metadata=dict(counts))


def _check_files(made: Made) -> dg.AssetCheckResult:
    """The result of reading every byte again. As a Dagster step of its own, it would only cost a process."""
    artifact, problems = made.artifact, made.problems
    said = f"{artifact.place} is damaged: {problems[0]}; {mend(artifact.domain)}" if problems else None
    return dg.AssetCheckResult(
        passed=not problems,
        check_name=_FILES,
        description=said,
        metadata={"files": len(artifact.manifest.files), "problems": problems},
    )


def may_pass(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a network error, so that a retry may succeed."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
            return True
        error = error.__cause__ or error.__context__
    return False


def metadata(artifact: Artifact, built: bool) -> dict[str, Any]:
    """The metadata of an artifact in Dagster's UI: counts, schema, path, and what it was made from."""
    shown: dict[str, Any] = {
        "built": built,
        "path": dg.MetadataValue.path(artifact.place),
        "dagster/uri": artifact.place.absolute().as_uri(),
        "recipe": artifact.manifest.recipe,
        "inputs": dg.MetadataValue.json(artifact.manifest.inputs),
        "sources": dg.MetadataValue.json(artifact.manifest.sources),
        "parameters": dg.MetadataValue.json(artifact.manifest.parameters),
    }
    main = artifact.manifest.files.get(artifact.main_name)
    if main:
        shown["dagster/row_count"] = main.rows
        shown["dagster/column_schema"] = dg.TableSchema([_column(field) for field in pq.read_schema(artifact.main)])
    for name, value in artifact.manifest.summary.items():
        if isinstance(value, dict) and all(isinstance(part, int | float) for part in value.values()):
            # One entry per number, because Dagster plots numbers over time.
            shown |= {f"{name}/{part}": number for part, number in value.items()}
        else:
            shown[name] = dg.MetadataValue.json(value) if isinstance(value, dict | list) else value
    return shown


def _column(field: pa.Field) -> dg.TableColumn:
    comment = (field.metadata or {}).get(b"comment", b"").decode()
    return dg.TableColumn(field.name, str(field.type), description=comment or None)


def _column_lineage(artifact: Artifact) -> dict[str, dg.TableColumnLineage]:
    """The columns from which each column was made; empty if that cannot be determined."""
    made = {
        column: [dg.TableColumnDep(asset_key(key), name) for key, name in deps]
        for column, deps in columns(artifact).items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(made)} if made else {}
