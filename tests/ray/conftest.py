"""What the tests of steps on Ray build, and what is made of it without Ray."""

from pathlib import Path

import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan
from tests.pipelines.small import write_shop

COMMAND = ("run", "--only", "core/sequences")
"""Five steps."""


def versions(data: Path) -> dict[str, str]:
    """The current versions, but for those that name the files of one machine."""
    store = DataFolder(data).store
    return {found.ref: found.version for found in store.all_current() if not found.key.startswith("warehouse/")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The versions of a shop, built in this process, in a folder."""
    data = tmp_path_factory.mktemp("expected")
    write_shop(data, "Toys")
    for stage in plan(DataFolder(data), ["Toys"], ["core/sequences"]):
        for step in stage.steps:
            step.publish(DataFolder(data), stage.domain)
    return versions(data)
