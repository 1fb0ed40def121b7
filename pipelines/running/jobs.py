"""The jobs that the UI lists: one domain, the assets that span all domains, everything stale, and housekeeping.

`mmm4rec run` runs its stages as the first two jobs. Automatic runs are in `automation`.
"""

from typing import Any

import dagster as dg

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import EXPECTED
from pipelines.garbage import collect
from pipelines.lineage import verify
from pipelines.planner.asset import DOMAINS, asset_key
from pipelines.planner.plan import Stage, plan
from pipelines.planner.step import all_steps
from pipelines.running.occasions import Occasion
from warehouse.artifacts.store import ALL

ONE_DOMAIN = "one_domain"
ALL_DOMAINS = "all_domains"


def job_of(stage: Stage) -> str:
    """The name of the job that runs a stage of a plan."""
    return ONE_DOMAIN if stage.partition else ALL_DOMAINS


def asset_jobs() -> list[Any]:
    """The job for the assets of one domain, and the job for the assets that span all domains."""
    keys: dict[bool, list[dg.AssetKey]] = {True: [], False: []}
    for key, step in all_steps().items():
        keys[step.per_domain].append(asset_key(key))
    return [
        dg.define_asset_job(
            ONE_DOMAIN,
            dg.AssetSelection.assets(*keys[True]),
            partitions_def=DOMAINS,
            description="Builds everything for one domain, from raw files to recommendations. On a target domain, the "
            "current pre-trained model is fine-tuned.",
        ),
        dg.define_asset_job(
            ALL_DOMAINS,
            dg.AssetSelection.assets(*keys[False]),
            description="Builds what spans all domains: the pre-trained model, the catalogue and the report.",
        ),
    ]


@dg.op
def open_occasion(context: dg.OpExecutionContext, data_folder: dg.ResourceParam[DataFolder]) -> None:
    """Reports what is stale, and tags its run so that the sensor `next_stages` requests all necessary runs."""
    try:
        stages = plan(data_folder, data_folder.present())
    except EXPECTED as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    for stage in stages:
        context.log.info("stale of %s: %s", stage.name, ", ".join(step.key for step in stage.steps))
    if stages:
        context.instance.add_run_tags(context.run_id, Occasion(f"everything {context.run_id[:8]}", (ALL,)).tags)
        context.log.info("the sensor next_stages requests these runs, one after the other")
    else:
        context.log.info("everything is up to date")


@dg.job(
    description="Builds everything that is stale, in all domains: it lists this, and the sensor next_stages requests "
    "the runs.",
    executor_def=dg.in_process_executor,
)
def everything() -> None:
    """Builds everything that is stale, through one run of `open_occasion`."""
    open_occasion()


@dg.op
def clear_and_verify(context: dg.OpExecutionContext, data_folder: dg.ResourceParam[DataFolder]) -> None:
    """Removes unneeded data, and hashes every file of every current version. Damaged versions become stale."""
    try:
        data_folder.settings  # noqa: B018 - with invalid settings, it is unknown which data are needed
        gone = collect(data_folder)
        problems = [problem for found in verify(data_folder).values() for problem in found]
    except EXPECTED as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    doomed = sum(leftover.kind == "doomed" for leftover in gone)
    size = sum(leftover.bytes for leftover in gone if leftover.kind != "doomed")
    context.log.info("removed %s leftovers of %s bytes; doomed %s versions", len(gone) - doomed, size, doomed)
    if problems:
        raise dg.Failure("\n".join(problems), metadata={"problems": len(problems)}, allow_retries=False)


@dg.job(description="Collects garbage and verifies hashes.", executor_def=dg.in_process_executor)
def housekeeping() -> None:
    """Removes unneeded data and verifies all current versions, through one run of `clear_and_verify`."""
    clear_and_verify()
