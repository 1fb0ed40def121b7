"""Steps: the inputs of an artifact, declared before it is built, and its build. Nothing here depends on Dagster.

A step names its inputs, sources, parameters and the one function that builds it. From that follow its recipe (so
that `mmm4rec run` can tell what is stale without running anything), its code version, its data version and its
lineage. The modules of `pipelines.assets` declare steps with `@step`; `pipelines.planner.asset` makes assets of
them.

The parameters are one frozen dataclass, which is computed once, hashed and passed to the build. The build has no access
to the settings, so nothing that it reads can be missing from its recipe.
"""

import dataclasses
import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_origin, get_type_hints

from features.tables import TABLES as FEATURE_TABLES
from mmm4rec.tables import TABLES as MODEL_TABLES
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.blocking import CHECKS, Check, CheckError
from pipelines.planner.code_version import code_version
from pipelines.progress import show
from warehouse.artifacts.artifact import digest_of
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.kept import Kept, Shared
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.store import ALL, Artifact, Recipe, mend, recipe
from warehouse.tables import TABLES as CORE_TABLES

TRAINING = "training"
"""Cache folder for unfinished trainings, and for the finished ones of a step that trains several models."""

Ref = tuple[str, str]
"""(key, domain) of an input."""


T = TypeVar("T")
Apart = Annotated[T, "no part of the recipe"]
"""A field of the parameters that is not part of the recipe: a location, or content that the sources identify."""


@dataclass(frozen=True)
class Nothing:
    """The parameters of a step without parameters."""


P = TypeVar("P")

Pool = Literal["gpu", "downloads", "catalogue"]
"""Resources that a limited number of steps may use at the same time, over all runs. dagster.yaml sets the limits."""


@dataclass(frozen=True)
class Job(Generic[P]):
    """What a build receives: its inputs, its parameters, and the empty folder `out` for its files.

    `sources` are the sources of the recipe. `cache` is the cache folder, and `shared` what machines share of it, or
    None. `state` is a folder for this recipe only, from which a killed build continues. `logs` is the folder for its
    logs.
    """

    domain: str
    inputs: Sequence[Artifact]
    sources: Mapping[str, str]
    parameters: P
    out: Path
    cache: Path
    shared: Shared | None
    state: Path
    logs: Path
    progress: Progress

    def input(self, key: str) -> Artifact:
        """The input with this key (of this domain or of all)."""
        return next(artifact for artifact in self.inputs if artifact.key == key)

    def kept(self, name: str) -> Kept:
        """A folder of the cache, and what machines share of it."""
        return Kept(self.cache, self.shared).below(name)

    def table(self, key: str, stem: str | None = None) -> Path:
        """The path of a table of an input: the main table, or the one with this stem."""
        artifact = self.input(key)
        return artifact.file(f"{stem}.parquet") if stem else artifact.main


@dataclass(frozen=True)
class Made:
    """The result of a step: whether it was built now, the counts of its check, and the problems with its files."""

    artifact: Artifact
    built: bool
    counts: Mapping[str, int]
    problems: list[str]


@dataclass(frozen=True)
class Step:
    """The declaration of one asset."""

    key: str
    room: str
    code: str
    """The build function, as `module:function`."""
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
    kinds: tuple[str, ...]
    """The kinds of the asset that Dagster's UI shows."""
    pool: Pool | None

    @property
    def check(self) -> Check | None:
        """The check that its tables must pass before they are published."""
        return CHECKS.get(self.key)

    @cached_property
    def code_version(self) -> str:
        """Hash of the code that its build always runs, whatever the settings are, and of the schemas of its tables."""
        return self._code_version([])

    def domains(self, data_folder: DataFolder, asked: Sequence[str]) -> list[str]:
        """Of the `asked` domains, those for which this step is made. A step that is made once for all has only ALL."""
        names = asked if self.per_domain else [ALL]
        return [domain for domain in names if self.applies(data_folder, domain)]

    def recipe(self, data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> Recipe:
        """The recipe with these inputs."""
        return self._recipe(data_folder, domain, inputs, self.parameters(data_folder, domain))

    def inputs(self, data_folder: DataFolder, domain: str) -> list[Artifact]:
        """The current artifacts that this step reads. A missing one is an error."""
        return [data_folder.store.require(key, of) for key, of in self.refs(data_folder, domain)]

    def publish(self, data_folder: DataFolder, domain: str) -> tuple[Artifact, bool]:
        """Build and publish, unless a version with the same recipe exists. Return it, and whether it was built."""
        made = self.make(data_folder, domain)
        return made.artifact, made.built

    def make(self, data_folder: DataFolder, domain: str) -> Made:
        """Like `publish`, with the results of the checks. A version with damaged files is marked as damaged.

        Raises:
            CheckError: the check failed; the current version stays current.
        """
        # Inputs are resolved once, so that the build and the recipe use the same versions even if others get published.
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
                cache, shared = data_folder.cache, data_folder.store.shared
                job = Job(domain, inputs, wanted.sources, parameters, out, cache, shared, state, logs, progress)
                summary = dataclasses.asdict(self.build(job))
            # If somebody writes to a source during the build, its hash fits neither the old nor the new content.
            if (now := self.sources(data_folder, domain, inputs)) != wanted.sources:
                moved = ", ".join(sorted(name for name, _ in {*now.items()} ^ {*wanted.sources.items()}))
                raise StoreError(f"{moved} of {domain} changed while {self.key} read it: run it again")
            counts.update(self._count(domain, out, inputs, summary, wanted.parameters))
            return summary

        artifact, built = data_folder.store.publish(wanted, build, self.identity)
        # Only after publishing: a training that is killed before that continues from this state.
        shutil.rmtree(data_folder.cache / TRAINING / wanted.digest, ignore_errors=True)
        if problems := data_folder.store.inspect(artifact):
            data_folder.store.mark(artifact.named, "damaged")  # it counts as missing until it is rebuilt
        elif not built:
            # It was checked when it was built, but the check may have changed since then.
            try:
                found = artifact.manifest
                counts.update(self._count(domain, artifact, inputs, found.summary, found.parameters))
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
        return digest_of([code, layout])

    def _count(
        self,
        domain: str,
        made: Path | Artifact,
        inputs: Sequence[Artifact],
        summary: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> dict[str, int]:
        """The counts of the check, which are all zero (otherwise an error is raised).

        `made` is a version, or the folder of a build.
        """
        if self.check is None:
            return {}
        counts = self.check.count(self.key, made, inputs, summary, parameters)
        if broken := ", ".join(f"{name} {count:,}" for name, count in counts.items() if count):
            raise CheckError(
                f"{self.key} of {domain} is not published, because the check {self.check.name} failed: {broken}; fix "
                f"its inputs or its settings, then {mend(domain)}",
                counts,
            )
        return counts


_LAYERS = ("raw", "core", "features", "models", "reports", "warehouse")

DECLARED: dict[str, Step] = {}
"""The steps declared by the modules that are imported so far, by key."""


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
) -> Callable[[Callable[[Job[P]], Any]], Step]:
    """Declare a step. The decorated function builds it and returns its summary.

    `room` is the package that does the work. `upstream` lists the keys that it reads; `refs` gives their domains if
    these are not the same domain. `implementations` lists, as `module:name`, the registry entries that the settings
    choose. `applies` decides for which domains the step is made. A step that `collects` reads all current inputs, so a
    failed domain does not block it. People open the file in `exposed`, which is also shown at the top of the data
    folder. Steps of one `pool` wait for each other, also across runs.
    """

    def declare(build: Callable[[Job[P]], Any]) -> Step:
        code = f"{build.__module__}:{build.__name__}"
        DECLARED[key] = Step(
            key, room, code, build, refs or same_domain(*upstream), sources, parameters, implementations, applies,
            tuple(upstream), per_domain, collects, exposed, identity, tuple(kinds), pool,
        )  # fmt: skip
        return DECLARED[key]

    return declare


def all_steps() -> Mapping[str, Step]:
    """Every step by its key."""
    for layer in _LAYERS:
        importlib.import_module(f"pipelines.assets.{layer}")
    return DECLARED


def upstream_first() -> list[Step]:
    """Every step, each after the steps that it reads."""
    steps = all_steps()
    order = TopologicalSorter({key: steps[key].upstream for key in sorted(steps)})
    return [steps[key] for key in order.static_order()]


def recorded(parameters: Any) -> dict[str, Any]:
    """The parameters in the form of a recipe: plain JSON values by name, without the fields of type `Apart`."""
    hints = get_type_hints(type(parameters), include_extras=True)
    values = dataclasses.asdict(parameters)
    return {name: value for name, value in values.items() if get_origin(hints[name]) is not Annotated}
