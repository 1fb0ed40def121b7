"""What is imported is declared, and where others' private names are used is known."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.conftest import REPOSITORY

ROOMS = ("mmm4rec", "features", "warehouse", "pipelines")
FILES = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

PRIVATE = {
    "pipelines/running/automation.py": {"dagster._core.storage.dagster_run.FINISHED_STATUSES"},
    "pipelines/running/in_process.py": {
        "dagster._core.definitions.job_base.InMemoryJob",
        "dagster._core.definitions.reconstruct.ReconstructableJob",
        "dagster._core.execution.api.execute_run",
        "dagster._core.remote_origin.RegisteredCodeLocationOrigin",
        "dagster._core.remote_origin.RemoteJobOrigin",
        "dagster._core.remote_origin.RemoteRepositoryOrigin",
        "dagster._core.storage.tags.MAX_RETRIES_TAG",
    },
    "pipelines/running/occasions.py": {
        "dagster._core.storage.dagster_run.NOT_FINISHED_STATUSES",
        "dagster._core.storage.tags.PARTITION_NAME_TAG",
        "dagster._core.storage.tags.WILL_RETRY_TAG",
    },
    "pipelines/running/on_ray.py": {
        "dagster._core.code_pointer.ModuleCodePointer",
        "dagster._core.definitions.reconstruct.ReconstructableJob",
        "dagster._core.definitions.reconstruct.ReconstructableRepository",
        "dagster._core.origin.get_python_environment_entry_point",
    },
    "pipelines/running/launcher.py": {
        "dagster._core.errors.DagsterUserCodeUnreachableError",
        "dagster._core.launcher.DefaultRunLauncher",
        "dagster._core.launcher.base.CheckRunHealthResult",
        "dagster._core.launcher.base.WorkerStatus",
        "dagster._core.storage.tags.GRPC_INFO_TAG",
        "dagster._grpc.client.DagsterGrpcClient",
        "dagster._grpc.types.CanCancelExecutionRequest",
        "dagster._grpc.types.CanCancelExecutionResult",
        "dagster._serdes.deserialize_value",
    },
    "pipelines/running/storage.py": {
        "dagster._core.storage.event_log.sqlite.sqlite_event_log.INDEX_SHARD_NAME",
        "dagster._core.storage.event_log.sqlite.sqlite_event_log.SqliteEventLogStorage",
        "dagster._core.storage.sqlite.SQLITE_BUSY_TIMEOUT_SECONDS",
        "dagster._core.storage.sqlite_storage.DagsterSqliteStorage",
        "dagster._serdes.ConfigurableClassData",
    },
    "pipelines/ui/webserver.py": {
        "dagster._core.workspace.context.WorkspaceProcessContext",
        "dagster._core.workspace.load_target.WorkspaceFileTarget",
    },
}
"""To be looked at before Dagster's bounds in pyproject.toml are moved. dagster.yaml and pipelines/definitions.py name
modules of Dagster's as well, as text."""


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", one)[0].lower().replace("_", "-") for one in requirements}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    roots = {name.partition(".")[0] for path in FILES for name in imports(path)}
    roots -= {*sys.stdlib_module_names, *ROOMS}
    known = packages_distributions()
    # Extras that are not installed are imported only where they are: by the name of the package.
    imported = {name.lower().replace("_", "-") for root in roots for name in known.get(root, [root])}
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    declared = named(PROJECT["dependencies"])
    elsewhere = {"open-clip": "open-clip-torch", "yaml": "pyyaml", "openlineage": "openlineage-python"}
    assert {elsewhere.get(name, name) for name in imported} - declared - named(extras) == set()
    assert declared - imported == set()


def test_private_names_of_others_are_listed() -> None:
    found: dict[str, set[str]] = {}
    for path in FILES:
        for name in imports(path):
            root, *rest = name.split(".")
            if root not in ROOMS and any(part.startswith("_") and not part.startswith("__") for part in rest):
                found.setdefault(str(path.relative_to(REPOSITORY)), set()).add(name)
    assert found == PRIVATE
    bounds = {one.partition(">=")[0]: one for one in PROJECT["dependencies"]}
    assert "<" in bounds["dagster"]


def _resolves(name: str) -> bool:
    """Whether a dotted name of the project is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_names_of_the_project_in_docstrings_are_there() -> None:
    quoted = re.compile(rf"`~?((?:{'|'.join(ROOMS)})\.[A-Za-z_.]+)`")
    ours = {name: path for path in FILES for name in quoted.findall(path.read_text("utf-8"))}
    assert len(ours) > 15
    ours.pop("warehouse.duckdb")  # a file
    assert {name: path for name, path in ours.items() if not _resolves(name)} == {}


def test_a_rule_of_compat_names_where_it_is_applied() -> None:
    rules = re.findall(r"^    (\w+): bool  # (.+)$", (REPOSITORY / "mmm4rec/model/compat.py").read_text(), re.MULTILINE)
    assert len(rules) == 7
    assert [place for _, places in rules for place in places.split(", ") if not _resolves(f"mmm4rec.{place}")] == []
