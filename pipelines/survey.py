"""The survey that `mmm4rec domains` shows: the state of each domain. It does not need Dagster."""

from collections import Counter
from typing import Any

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan


def survey(data_folder: DataFolder) -> list[dict[str, Any]]:
    """One row per domain: role, raw files present or not, counts, published counts, and number of stale assets."""
    rows = []
    present = data_folder.present()
    stale = Counter(dict.fromkeys(present, 0))
    for stage in plan(data_folder, present):
        stale[stage.domain] += len(stage.steps)
    for name, domain in sorted(data_folder.settings.domains.items()):
        built = data_folder.store.whole("core/sequences", name)
        counts = built.manifest.summary if built else {}
        known = domain.published
        rows.append(
            {
                "domain": name,
                "role": domain.role,
                "raw files": "yes" if name in present else "missing",
                **{count: counts.get(count) for count in ("users", "items", "interactions")},
                "published": f"{known.users} / {known.items} / {known.interactions}" if known else None,
                "stale assets": stale.get(name),
            }
        )
    return rows
