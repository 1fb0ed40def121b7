"""The sample's run in one process, and as steps on Ray clusters of one and of two nodes, in one run on one machine.

``python -m benchmarks.scaling [--quick] [--json]``, with the environment of `make ray`. A node has one core, and so has
the run in one process. The nodes are on this machine, so the figures tell what the steps gain by running side by side
and what a step costs more on Ray, and nothing of a network. All three must make the same versions. --quick builds one
domain of the tiny sample down to its sequences.

- seconds_in_one_process, seconds_on_one_node, seconds_on_two_nodes: wall time of ``mmm4rec run``.
- two_nodes_against_one: the time on two nodes divided by that on one.
- extra_seconds_per_step: what a step takes longer on one node than in one process, on average.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from benchmarks.measure import arguments, show
from pipelines.data_folder.folder import DataFolder

if TYPE_CHECKING:
    from tests.ray.cluster import Cluster

_OWN = ("warehouse/", "reports/comparison")
"""Artifacts that name the files of their data folder, so they differ between folders."""


def main() -> None:
    """Measure the three, print."""
    given = arguments(__doc__ or "", size="tiny")
    from tests.ray.cluster import Cluster  # the one that the tests use

    with tempfile.TemporaryDirectory() as name:
        seconds, versions = {}, {}
        for place, nodes in (("in_one_process", 0), ("on_one_node", 1), ("on_two_nodes", 2)):
            data = Path(name) / place
            cluster = Cluster({})
            try:
                if nodes == 2:
                    cluster.start()
                elif nodes:
                    cluster.start_head()
                seconds[place] = _run(data, given.size, given.quick, cluster if nodes else None)
            finally:
                cluster.end()
            current = DataFolder(data).store.all_current()
            versions[place] = {one.ref: one.version for one in current if not one.key.startswith(_OWN)}
    assert versions["in_one_process"] == versions["on_one_node"] == versions["on_two_nodes"]
    steps = len(current)
    show(
        f"the {given.size} sample, {steps} artifacts",
        {
            "artifacts": steps,
            **{f"seconds_{place}": spent for place, spent in seconds.items()},
            "two_nodes_against_one": seconds["on_two_nodes"] / seconds["on_one_node"],
            "extra_seconds_per_step": (seconds["on_one_node"] - seconds["in_one_process"]) / steps,
        },
        given.json,
    )


def _run(data: Path, size: str, quick: bool, cluster: "Cluster | None") -> float:
    """The seconds of a run over new data, with its steps on the cluster, if there is one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(cluster.client if cluster else {})}
    command = [sys.executable, "-m", "pipelines"]
    subprocess.run([*command, "sample", "--size", size, "--data", str(data)], check=True, stdout=subprocess.DEVNULL)
    if cluster:
        file = data / "domains.yaml"
        settings = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump(settings | {"ray": {"address": cluster.address}}))
    asked = ["--only", "core/sequences", "Sample_Toys"] if quick else []
    began = time.perf_counter()
    subprocess.run(
        [*command, "run", *asked, "--data", str(data)], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
