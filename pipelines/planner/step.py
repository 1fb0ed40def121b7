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
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.store import ALL, Artifact, Recipe, mend, recipe
from warehouse.tables import TABLES as CORE_TABLES

TRAINING = "training"
"""Folder of the cache for unfinished trainings, and for what several of a step are kept by."""

Ref = tuple[str, str]
"""(key, domain) of an input."""


T = TypeVar("T")
Apart = Annotated[T, "no part of the recipe"]
"""A field of parameters that a recipe leaves out: where something lies, or what the sources tell by its content."""


@dataclass(frozen=True)
class Nothing:
    """The parameters of a step that has none."""


P = TypeVar("P")

Pool = Literal["gpu", "downloads", "catalogue"]
"""What only so many steps of all runs may use at a time; dagster.yaml says how many."""


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
        return artifact.file(f"{stem}.parquet") if stem else artifact.main


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
    kinds: tuple[str, ...]
    """What Dagster's UI shows as the tools of the asset."""
    pool: Pool | None

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
        if problems := data_folder.store.inspect(artifact):
            data_folder.store.mark(artifact.named, "damaged")  # so that it counts as absent until it is built again
        elif not built:
            # Checked when it was built, but perhaps by another statement than today's.
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
        """What the check counts in the folder of a build, or in a version: zeros."""
        if self.check is None:
            return {}
        counts = self.check.count(self.key, made, inputs, summary, parameters)
        if broken := ", ".join(f"{name} {count:,}" for name, count in counts.items() if count):
            raise CheckError(
                f"{self.key} of {domain} is not published, because the check {self.check.name} failed: {broken}; mend "
                f"what it is made from or its settings, then {mend(domain)}",
                counts,
            )
        return counts


_LAYERS = ("raw", "core", "features", "models", "reports", "warehouse")

DECLARED: dict[str, Step] = {}
"""The steps that the modules imported so far have declared, by key."""


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
    """Every step, each after all it reads."""
    steps = all_steps()
    order = TopologicalSorter({key: steps[key].upstream for key in sorted(steps)})
    return [steps[key] for key in order.static_order()]


def recorded(parameters: Any) -> dict[str, Any]:
    """Parameters as a recipe has them: by name, as plain JSON values, without what is set apart."""
    hints = get_type_hints(type(parameters), include_extras=True)
    values = dataclasses.asdict(parameters)
    return {name: value for name, value in values.items() if get_origin(hints[name]) is not Annotated}
