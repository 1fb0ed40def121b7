"""Run launcher: Dagster's own, extended to check whether the process of a run is still alive.

With it, run monitoring finds runs that were killed together with their servers. A run of `mmm4rec run` has no server.
Instead, its process holds a lock on a file beside Dagster's databases, which the tag of the run names. The system
releases the lock when the process ends.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from warehouse.artifacts.locks import held, is_held

PROCESS_TAG = "mmm4rec/process"
"""The tag with the process id and a random part. It is short, because the UI shows it for every run."""
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class RunLauncher(DefaultRunLauncher):
    """The launcher that `dagster.yaml` names."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring may call `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run that has started is alive."""
        if is_alive(run, running_folder(self._instance)):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "the run's process is gone")


def running_folder(instance: dg.DagsterInstance) -> Path:
    """The folder of the lock files that processes of `mmm4rec run` hold."""
    return Path(instance.storage_directory()) / "running"


def is_alive(run: dg.DagsterRun, running: Path) -> bool:
    """Whether the process of a run that has not ended is alive; `running` is the `running_folder`."""
    if GRPC_INFO_TAG in run.tags:
        server = json.loads(run.tags[GRPC_INFO_TAG])
        client = DagsterGrpcClient(server.get("port"), server.get("socket"), server.get("host") or "localhost")
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=10)
        except DagsterUserCodeUnreachableError as error:
            # A slow server is not a dead one.
            return "timed out" in str(error)
        return deserialize_value(answer, CanCancelExecutionResult).can_cancel
    if PROCESS_TAG in run.tags:
        return is_held(running / run.tags[PROCESS_TAG])
    return True


@contextmanager
def process_tag(folder: Path) -> Iterator[dict[str, str]]:
    """The tag by which `is_alive` recognises this process, for runs that end before this context ends."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        with held(path):
            yield {PROCESS_TAG: path.name}
    finally:
        path.unlink(missing_ok=True)


def fail_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs whose process is dead as failed, and release the pool slots of ended runs.

    Dagster's daemon does the same after a while. Without a daemon, the next run would wait forever.
    """
    events = instance.event_log_storage
    holding = events.get_concurrency_run_ids()
    running = running_folder(instance)
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        # If a server's run holds no pool slot, it blocks nothing, and Dagster's daemon takes care of it.
        if (PROCESS_TAG in run.tags or run.run_id in holding) and not is_alive(run, running):
            instance.report_run_failed(run, "the run's process is gone")
    for run_id in holding:
        ended = instance.get_run_by_id(run_id)
        if ended is None or ended.is_finished:
            events.free_concurrency_slots_for_run(run_id)


def cancel(instance: dg.DagsterInstance, run_id: str, reason: str) -> None:
    """Mark a run of this process as cancelled and release its pool slots, if it has started and not ended."""
    run = instance.get_run_by_id(run_id)
    if run and not run.is_finished:
        instance.report_run_canceled(run, reason)
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
