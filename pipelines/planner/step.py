"""Steps: what an asset is made of, stated before it runs, and its form as a Dagster asset.

A step names its inputs, sources, parameters and the one function that builds it. From that follow its recipe (so
that `mmm4rec run` can tell what is stale without running anything), its code version, its data version and its
lineage. `@step` turns such a statement into a Dagster asset and keeps it in `STEPS`.

The parameters are one frozen dataclass, which is computed once, hashed, and handed to the build. The build gets no way
to the settings, so nothing that it reads can be missing from its recipe.
"""

import dataclasses
import hashlib
import json
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_origin, get_type_hints

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from features.tables import TABLES as FEATURE_TABLES
from mmm4rec.tables import TABLES as MODEL_TABLES
from pipelines.cli.progress import Progress, show
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.blocking import CHECKS, Check, CheckError
from pipelines.planner.code_version import code_version
from pipelines.planner.columns import column_lineage
from pipelines.planner.openlineage import told
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.store import ALL, Artifact, Recipe, mend, recipe
from warehouse.tables import TABLES as CORE_TABLES

# Checks by partition are a preview in Dagster; they work, and the warning would greet every command.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

DOMAINS = dg.DynamicPartitionsDefinition(name="domain")

NOT_SHOWN = "not_shown"
"""Name of the metadata that says which exhibits are missing, and why."""
NOT_MADE = "not-made"
"""Data version that stands in Dagster's event log where a step is not for a domain: there is nothing to be missing."""
RETRIES = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)
"""For what may pass: a network that failed, and a worker that was killed."""

Pool = Literal["gpu", "downloads", "catalogue"]
"""What only so many steps of all runs may use at a time; dagster.yaml says how many."""

TRAINING = "training"
"""Folder of the cache for unfinished trainings, and for what several of a step are kept by."""
_FILES = "files_match_manifest"

Ref = tuple[str, str]
"""(key, domain) of an input."""


T = TypeVar("T")
Apart = Annotated[T, "no part of the recipe"]
"""A field of parameters that a recipe leaves out: where something lies, or what the sources tell by its content."""


@dataclass(frozen=True)
class Nothing:
    """The parameters of a step that has none."""


P = TypeVar("P")


@dataclass(frozen=True)
class Job(Generic[P]):
    """What a build gets: what it reads, by which parameters, and the empty folder `out` it writes to.

    `cache` is the folder of the cache, `state` one of this recipe alone for what lets a build that was killed go on,
    `logs` one for its logs.
    """

    domain: str
    inputs: Sequence[Artifact]
    parameters: P
    out: Path
    cache: Path
    state: Path
    logs: Path
    progress: Progress

    def input(self, key: str) -> Artifact:
        """The input of that key (of this domain or of all)."""
        return next(artifact for artifact in self.inputs if artifact.key == key)

    def table(self, key: str, stem: str | None = None) -> Path:
        """The path of an input's table: the main one, or another by its stem."""
        artifact = self.input(key)
        return artifact.path / f"{stem}.parquet" if stem else artifact.main


@dataclass(frozen=True)
class Made:
    """What a step has made: whether it was built now, what its check counted, and what is wrong with its files."""

    artifact: Artifact
    built: bool
    counts: Mapping[str, int]
    problems: list[str]


@dataclass(frozen=True)
class Step:
    """The statement of one asset."""

    key: str
    room: str
    code: str
    """Where its build is, as `module:function`."""
    build: Callable[[Job[Any]], Any]
    refs: Callable[[DataFolder, str], Sequence[Ref]]
    sources: Callable[[DataFolder, str, Sequence[Artifact]], Mapping[str, str]]
    parameters: Callable[[DataFolder, str], Any]
    implementations: Callable[[DataFolder, str], Sequence[str]]
    applies: Callable[[DataFolder, str], bool]
    upstream: tuple[str, ...]
    per_domain: bool
    collects: bool
    exposed: str | None
    identity: Literal["content", "recipe"]

    @property
    def check(self) -> Check | None:
        """What must hold of its tables before they are published."""
        return CHECKS.get(self.key)

    @cached_property
    def code_version(self) -> str:
        """Hash of the code that its build runs, whatever the settings choose, and of the layout of its tables."""
        return self._code_version([])

    def domains(self, data_folder: DataFolder, asked: Sequence[str]) -> list[str]:
        """Those of the `asked` domains that this step is for; the one name ALL if it spans them."""
        names = asked if self.per_domain else [ALL]
        return [domain for domain in names if self.applies(data_folder, domain)]

    def recipe(self, data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> Recipe:
        """The recipe over these inputs."""
        return self._recipe(data_folder, domain, inputs, self.parameters(data_folder, domain))

    def inputs(self, data_folder: DataFolder, domain: str) -> list[Artifact]:
        """The current artifacts this step reads; a missing one is an error."""
        return [data_folder.store.require(key, of) for key, of in self.refs(data_folder, domain)]

    def publish(self, data_folder: DataFolder, domain: str) -> tuple[Artifact, bool]:
        """Build and publish, unless a version of the same recipe is there already; and whether it was built."""
        made = self.make(data_folder, domain)
        return made.artifact, made.built

    def make(self, data_folder: DataFolder, domain: str) -> Made:
        """`publish`, with what its checks found. A version whose files are damaged is marked so.

        Raises:
            CheckError: the check failed; what was current stays current.
        """
        # Read once: what is built from and what the recipe names are the same versions, whatever moves meanwhile.
        with data_folder.store.holding(self.refs(data_folder, domain)) as inputs:
            for artifact in inputs:
                if not self.collects and data_folder.store.whole(artifact.key, artifact.domain) is None:
                    raise StoreError(
                        f"{artifact.ref}, which {self.key} reads, is damaged or has failed its check; "
                        f"{mend(artifact.domain)}"
                    )
            return self._make(data_folder, domain, inputs)

    def _make(self, data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> Made:
        parameters = self.parameters(data_folder, domain)
        wanted = self._recipe(data_folder, domain, inputs, parameters)
        counts: dict[str, int] = {}

        def build(out: Path) -> Mapping[str, Any]:
            with show(f"{domain} {self.key}" if domain != ALL else self.key) as progress:
                state, logs = (data_folder.cache / what / wanted.digest for what in (TRAINING, "logs"))
                job = Job(domain, inputs, parameters, out, data_folder.cache, state, logs, progress)
                summary = dataclasses.asdict(self.build(job))
            # A file that somebody writes to meanwhile is neither what it was nor what it will be.
            if (now := self.sources(data_folder, domain, inputs)) != wanted.sources:
                moved = ", ".join(sorted(name for name, _ in {*now.items()} ^ {*wanted.sources.items()}))
                raise StoreError(f"{moved} of {domain} changed while {self.key} read it: run it again")
            counts.update(self._count(domain, out, inputs, summary, wanted.parameters))
            return summary

        artifact, built = data_folder.store.publish(wanted, build, self.identity)
        # Not before: killed in between, a training goes on from there.
        shutil.rmtree(data_folder.cache / TRAINING / wanted.digest, ignore_errors=True)
        if problems := data_folder.store.verify(artifact):
            data_folder.store.mark(artifact.named, "damaged")  # so that it counts as absent until it is built again
        elif not built:
            # Checked when it was built, but perhaps by another statement than today's.
            try:
                found = artifact.manifest
                counts.update(self._count(domain, artifact.path, inputs, found.summary, found.parameters))
            except CheckError:
                data_folder.store.mark(artifact.named, "refused")
                raise
        if self.exposed:
            data_folder.store.expose(artifact, self.exposed)
        return Made(artifact, built, counts, problems)

    def _recipe(self, data_folder: DataFolder, domain: str, inputs: Sequence[Artifact], parameters: Any) -> Recipe:
        code = self._code_version(self.implementations(data_folder, domain))
        sources = self.sources(data_folder, domain, inputs)
        return recipe(self.key, domain, code, inputs, sources, recorded(parameters))

    def _code_version(self, implementations: Sequence[str]) -> str:
        layout = [
            (key, [(field.name, str(field.type), field.nullable) for field in schema])
            for tables in (CORE_TABLES, FEATURE_TABLES, MODEL_TABLES)
            for key, schema in tables.items()
            if key.startswith(f"{self.key}/")
        ]
        code = code_version(self.code, *implementations)
        return hashlib.sha256(json.dumps([code, layout]).encode()).hexdigest()[:16]

    def _count(
        self,
        domain: str,
        folder: Path,
        inputs: Sequence[Artifact],
        summary: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> dict[str, int]:
        """What the check counts in `folder`: zeros."""
        if self.check is None:
            return {}
        counts = self.check.count(self.key, folder, inputs, summary, parameters)
        if broken := ", ".join(f"{name} {count:,}" for name, count in counts.items() if count):
            raise CheckError(
                f"{self.key} of {domain} is not published, because the check {self.check.name} failed: {broken}; mend "
                f"what it is made from or its settings, then {mend(domain)}",
                counts,
            )
        return counts


STEPS: dict[str, Step] = {}
"""Every step by its key."""


def upstream_first() -> list[Step]:
    """Every step, each after all it reads."""
    order = TopologicalSorter({key: STEPS[key].upstream for key in sorted(STEPS)})
    return [STEPS[key] for key in order.static_order()]


def recorded(parameters: Any) -> dict[str, Any]:
    """Parameters as a recipe has them: by name, as plain JSON values, without what is set apart."""
    hints = get_type_hints(type(parameters), include_extras=True)
    values = dataclasses.asdict(parameters)
    return {name: value for name, value in values.items() if get_origin(hints[name]) is not Annotated}


def same_domain(*keys: str) -> Callable[[DataFolder, str], Sequence[Ref]]:
    """Inputs of the same domain."""
    return lambda data_folder, domain: [(key, domain) for key in keys]


def step(
    key: str,
    room: str,
    *,
    upstream: Sequence[str] = (),
    refs: Callable[[DataFolder, str], Sequence[Ref]] | None = None,
    sources: Callable[[DataFolder, str, Sequence[Artifact]], Mapping[str, str]] = lambda *_: {},
    parameters: Callable[[DataFolder, str], P] = lambda *_: Nothing(),  # type: ignore[assignment]
    implementations: Callable[[DataFolder, str], Sequence[str]] = lambda *_: (),
    applies: Callable[[DataFolder, str], bool] = lambda data_folder, domain: True,
    per_domain: bool = True,
    collects: bool = False,
    exposed: str | None = None,
    identity: Literal["content", "recipe"] = "content",
    kinds: Sequence[str] = (),
    pool: Pool | None = None,
) -> Callable[[Callable[[Job[P]], Any]], dg.AssetsDefinition]:
    """Declare a step and its Dagster asset; the decorated function builds it and returns its summary.

    `room` is the package whose work it is, `upstream` are the keys it reads; `refs` says of which domains, where that
    is not simply the same one; `implementations` names, as `module:name`, what the settings choose from registries;
    `applies` says for which domains the step is made at all. A step that `collects` reads whatever is current of its
    inputs, so a domain that failed does not hold it up. The file named by `exposed` is what people open: it also stands
    at the top of the data folder. Steps of one `pool` wait for each other, in whatever runs they are.
    """

    def declare(build: Callable[[Job[P]], Any]) -> dg.AssetsDefinition:
        layer, noun = key.split("/")
        code = f"{build.__module__}:{build.__name__}"
        stated = Step(
            key, room, code, build, refs or same_domain(*upstream), sources, parameters, implementations, applies,
            tuple(upstream), per_domain, collects, exposed, identity,
        )  # fmt: skip
        STEPS[key] = stated

        @dg.asset(
            key=[layer, noun],
            group_name=layer,
            deps=[dg.AssetKey(other.split("/")) for other in upstream],
            partitions_def=DOMAINS if per_domain else None,
            code_version=stated.code_version,
            kinds=set(kinds),
            description=(build.__doc__ or "").strip(),
            owners=[f"team:{room}"],
            op_tags={"layer": layer},
            pool=pool,
            retry_policy=RETRIES,
            check_specs=[
                dg.AssetCheckSpec(
                    name,
                    asset=[layer, noun],
                    description=description,
                    blocking=True,
                    partitions_def=DOMAINS if per_domain else None,
                )
                for name, description in _blocking(stated).items()
            ],
        )
        def asset(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
            # Loads what draws, which finding that nothing is stale does not need.
            from pipelines.reports.exhibits import exhibits

            domain = context.partition_key if per_domain else ALL
            data_folder = DataFolder.find()
            try:
                if not stated.applies(data_folder, domain):
                    yield _not_made(stated, domain)
                    return
                with told(data_folder, key, context.job_name, context.run_id) as tell:
                    made = stated.make(data_folder, domain)
                    tell(made.artifact)
            except Exception as error:
                if isinstance(error, CheckError):
                    yield _check_structure(stated, error.counts, str(error))
                if may_pass(error):
                    raise
                raise dg.Failure(str(error), allow_retries=False) from error
            artifact, built = made.artifact, made.built
            context.log.info("%s %s of %s", "built" if built else "found", artifact.version, artifact.ref)
            for said in data_folder.damaged() if stated.collects else ():
                context.log.warning("%s", said)
            if made.problems:
                version = dg.DataVersion(artifact.version)
                yield dg.MaterializeResult(data_version=version, check_results=_check(stated, made))
                return
            shown, failed = exhibits(data_folder, artifact)
            for name, reason in failed.items():
                context.log.warning("%s of %s cannot be shown: %s", name, artifact.ref, reason)
            yield dg.MaterializeResult(
                data_version=dg.DataVersion(artifact.version),
                metadata=shown | metadata(artifact, built) | column_lineage(artifact),
                check_results=_check(stated, made),
            )

        return asset

    return declare


def _not_made(step: Step, domain: str) -> dg.MaterializeResult[Any]:
    """What Dagster is told where a step is not for a domain, so that what is downstream can go on."""
    reason = (
        f"{step.key} is not made for {domain}: models from scratch and fine-tuned ones are for target domains, "
        "baselines for those that ask for them, the pre-trained one needs a source domain with raw files; domains.yaml "
        "gives the roles"
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(NOT_MADE),
        metadata={"built": False, "reason": reason},
        check_results=[
            dg.AssetCheckResult(passed=True, check_name=name, description="there are none") for name in _blocking(step)
        ],
    )


def _blocking(step: Step) -> dict[str, str]:
    """What each check is for that blocks what is downstream, by name."""
    files = {_FILES: "Every file is there, nothing else is, and each has the manifest's size and sha256."}
    if step.check is None:
        return files
    return files | {step.check.name: f"{step.check.description} Each count is of what breaks this."}


def _check(step: Step, made: Made) -> list[dg.AssetCheckResult]:
    """The results of its blocking checks."""
    files = _check_files(made)
    if step.check is None:
        return [files]
    return [files, _check_structure(step, made.counts, "its files are damaged" if made.problems else None)]


def _check_structure(step: Step, counts: Mapping[str, int], wrong: str | None = None) -> dg.AssetCheckResult:
    """What the check of a step has counted, and in words what is wrong."""
    name = step.check.name if step.check else None
    return dg.AssetCheckResult(passed=wrong is None, check_name=name, description=wrong, metadata=dict(counts))


def _check_files(made: Made) -> dg.AssetCheckResult:
    """What reading every byte again has found. A step of its own would cost a process and gain nothing."""
    artifact, problems = made.artifact, made.problems
    said = f"{artifact.path} is damaged: {problems[0]}; {mend(artifact.domain)}" if problems else None
    return dg.AssetCheckResult(
        passed=not problems,
        check_name=_FILES,
        description=said,
        metadata={"files": len(artifact.manifest.files), "problems": problems},
    )


def may_pass(error: BaseException | None) -> bool:
    """Whether an error, or one it comes from, is of a network, so that the same again may end otherwise."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
            return True
        error = error.__cause__ or error.__context__
    return False


def metadata(artifact: Artifact, built: bool) -> dict[str, Any]:
    """What Dagster's UI shows of an artifact: counts, schema, where it lies, what it was made from."""
    shown: dict[str, Any] = {
        "built": built,
        "path": dg.MetadataValue.path(artifact.path),
        "dagster/uri": artifact.path.absolute().as_uri(),
        "recipe": artifact.manifest.recipe,
        "inputs": dg.MetadataValue.json(artifact.manifest.inputs),
        "sources": dg.MetadataValue.json(artifact.manifest.sources),
        "parameters": dg.MetadataValue.json(artifact.manifest.parameters),
    }
    main = artifact.manifest.files.get(artifact.main.name)
    if main:
        shown["dagster/row_count"] = main.rows
        shown["dagster/column_schema"] = dg.TableSchema([_column(field) for field in pq.read_schema(artifact.main)])
    for name, value in artifact.manifest.summary.items():
        if isinstance(value, dict) and all(isinstance(part, int | float) for part in value.values()):
            # One by one, as Dagster plots numbers over time.
            shown |= {f"{name}/{part}": number for part, number in value.items()}
        else:
            shown[name] = dg.MetadataValue.json(value) if isinstance(value, dict | list) else value
    return shown


def _column(field: pa.Field) -> dg.TableColumn:
    comment = (field.metadata or {}).get(b"comment", b"").decode()
    return dg.TableColumn(field.name, str(field.type), description=comment or None)
