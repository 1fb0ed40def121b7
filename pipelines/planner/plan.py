"""The plan: the stale steps in stages, one Dagster run per stage. It compares recipes and runs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmm4rec.config import nearest
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import EXPECTED, CommandError
from pipelines.planner.step import Ref, Step, all_steps, upstream_first
from warehouse.artifacts.store import ALL


@dataclass(frozen=True)
class Stage:
    """The steps of one domain (or of ALL) that one Dagster run builds."""

    domain: str
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The domain as people see it."""
        return "all domains" if self.domain == ALL else self.domain

    @property
    def refs(self) -> set[Ref]:
        """The (key, domain) of everything that this stage makes."""
        return {(step.key, self.domain) for step in self.steps}

    @property
    def partition(self) -> str | None:
        """Dagster's partition, or None for ALL."""
        return None if self.domain == ALL else self.domain

    def asset_keys(self, data_folder: DataFolder) -> list[str]:
        """The keys of the steps, and of downstream steps that do not apply to this domain (Dagster records that)."""
        built = {step.key for step in self.steps}
        following = (step for step in all_steps().values() if step.per_domain and built & set(step.upstream))
        left_out = [step for step in following if self.partition and not step.applies(data_folder, self.partition)]
        return [step.key for step in (*self.steps, *left_out)]


def plan(data_folder: DataFolder, domains: Sequence[str], only: Sequence[str] = ()) -> list[Stage]:
    """The stages that bring up to date `domains`, what they need, and what spans all domains; upstream first.

    `only` restricts the plan to these asset keys and their missing inputs; existing inputs are used as they are. A step
    is stale if an input is stale, if its recipe differs from the recipe of its current version, or if that version is
    damaged or is not the one shown at the top of the data folder. If nothing is stale, the list is empty. A domain
    without raw files is an error.
    """
    unknown = sorted(set(only) - set(all_steps()))
    if unknown:
        several = "; for several assets, repeat --only for each" if "," in unknown[0] else ""
        meant = "" if several else nearest(unknown[0], [*all_steps()])
        raise CommandError(f"there is no asset {unknown[0]!r}{meant}{several}; known: {', '.join(all_steps())}")
    for domain in domains:
        data_folder.raw_file(domain, "ratings")
        data_folder.raw_file(domain, "metadata")
    stale: dict[Ref, Step] = {}
    level: dict[Ref, int] = {}
    for (key, domain), step in _wanted(data_folder, domains, only).items():
        if _is_stale(data_folder, step, domain, stale):
            before = stale if step.collects else stale.keys() & set(step.refs(data_folder, domain))
            # One run builds one domain: inputs from another domain are built in an earlier run.
            level[key, domain] = max((level[ref] + (ref[1] != domain) for ref in before), default=0)
            stale[key, domain] = step
    stages: dict[tuple[int, str], list[Step]] = {}
    for ref, step in stale.items():
        stages.setdefault((level[ref], ref[1]), []).append(step)
    return [Stage(domain, tuple(steps)) for (_, domain), steps in sorted(stages.items(), key=lambda s: s[0])]


def _wanted(data_folder: DataFolder, domains: Sequence[str], only: Sequence[str]) -> dict[Ref, Step]:
    """Every step of the domains and of ALL, with the steps that they read; upstream first."""
    steps = {step.key: step for step in upstream_first()}
    chosen = [step for step in steps.values() if not only or step.key in only]
    wanted = {(step.key, domain) for step in chosen for domain in step.domains(data_folder, domains)}
    pending = list(wanted)
    while pending:
        key, domain = pending.pop()
        if not steps[key].collects:
            new = set(steps[key].refs(data_folder, domain)) - wanted
            if only:
                new = {ref for ref in new if data_folder.store.whole(*ref) is None}
            wanted |= new
            pending.extend(new)
    order = {key: position for position, key in enumerate(steps)}
    return {ref: steps[ref[0]] for ref in sorted(wanted, key=lambda ref: (order[ref[0]], ref[1]))}


def _is_stale(data_folder: DataFolder, step: Step, domain: str, stale: dict[Ref, Step]) -> bool:
    if (step.collects and stale) or any(ref in stale for ref in step.refs(data_folder, domain)):
        return True
    current = data_folder.store.whole(step.key, domain)
    if current is None or (step.exposed and not data_folder.store.exposes(current, step.exposed)):
        return True
    try:
        recipe = step.recipe(data_folder, domain, step.inputs(data_folder, domain))
        return current.manifest.recipe != recipe.digest
    except EXPECTED:
        # An input has disappeared. The run of this domain will report it, and the other domains continue.
        return True
