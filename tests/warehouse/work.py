"""Work to be disturbed: domains whose raw files change, from raw to sequences, and the catalogue over them.

Processes run it, so it is a module of its own and no fixture.
"""

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.manifest import FORMAT, Environment, Manifest, parse
from warehouse.artifacts.store import ALL, Artifact, Recipe, Store, recipe
from warehouse.catalogue.build import build_catalogue
from warehouse.catalogue.query import query
from warehouse.core.interactions import build_interactions
from warehouse.core.items import build_items
from warehouse.core.sequences import build_sequences
from warehouse.duck import Engine
from warehouse.raw.metadata import ingest_metadata
from warehouse.raw.ratings import ingest_ratings

CATALOGUE = "warehouse.duckdb"
ENGINE = Engine(threads=1, memory="256MB")
STAGES = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences")

AGREEMENT = """
WITH sequences AS (
    SELECT domain, v, count(*) AS users, sum(len(items))::BIGINT AS interactions FROM core.sequences GROUP BY ALL
),
interactions AS (
    SELECT domain, v, count(*) AS interactions, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items
    FROM core.sequences_interactions GROUP BY ALL
),
items AS (
    SELECT domain, v, count(*) AS items, sum(interactions)::BIGINT AS interactions FROM core.sequences_items
    GROUP BY ALL
),
summaries AS (
    SELECT
        domain,
        version AS v,
        max(rows) FILTER (name = 'sequences.parquet') AS users,
        max(rows) FILTER (name = 'items.parquet') AS items,
        max(rows) FILTER (name = 'interactions.parquet') AS interactions
    FROM lineage.files WHERE key = 'core/sequences' GROUP BY ALL
),
ratings AS (SELECT domain, v, count(*) AS rows FROM raw.ratings GROUP BY ALL),
ratings_stated AS (SELECT domain, rows FROM lineage.files WHERE key = 'raw/ratings' AND name = 'ratings.parquet')
SELECT
    summaries.domain,
    summaries.v,
    [summaries.users, sequences.users, interactions.users] AS users,
    [summaries.items, items.items, interactions.items] AS items,
    [summaries.interactions, sequences.interactions, interactions.interactions, items.interactions] AS interactions,
    [ratings_stated.rows, ratings.rows] AS ratings
FROM summaries
LEFT JOIN sequences USING (domain, v)
LEFT JOIN interactions USING (domain, v)
LEFT JOIN items USING (domain, v)
LEFT JOIN ratings_stated USING (domain)
LEFT JOIN ratings USING (domain)
ORDER BY summaries.domain
"""
"""Each domain's version, and counts that must be equal: as the manifests state them, then as the tables have them."""


def write_raw(folder: Path, domain: str, generation: int, users: int = 12, items: int = 9) -> None:
    """The raw files of a small category; another generation is another history of the same shop."""
    chance = random.Random(f"{domain} {generation}")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{domain}{item},U{user},{chance.randint(1, 5)}.0,{1000 * generation + chance.randint(1, 999)}"
        for user in range(users)
        for item in chance.sample(range(items), 6)
    ]
    (folder / f"{domain}.csv").write_text("\n".join([*lines, "broken"]))
    products = [{"asin": f"{domain}{item}", "title": f"{item} of {generation}"} for item in range(items)]
    (folder / f"meta_{domain}.json").write_text("\n".join(map(json.dumps, products)))


def stages(store: Store, raw: Path, domain: str, engine: Engine = ENGINE) -> dict[str, Callable[[], Artifact]]:
    """The steps of a domain from raw to sequences, to be called in this order."""
    ratings, metadata = raw / f"{domain}.csv", raw / f"meta_{domain}.json"

    def stage(
        key: str, build: Callable[..., Any], *upstream: str, source: Path | None = None
    ) -> Callable[[], Artifact]:
        def publish() -> Artifact:
            inputs = [store.require(other, domain) for other in upstream]
            sources = {source.name: sha256_file(source)} if source else {}
            made = recipe(key, domain, "code", inputs, sources, {})
            return store.publish(made, lambda out: asdict(build(*(a.main for a in inputs), out)))[0]

        return publish

    steps = (
        stage("raw/ratings", lambda out: ingest_ratings(ratings, out), source=ratings),
        stage("raw/metadata", lambda out: ingest_metadata(metadata, out), source=metadata),
        stage("core/items", lambda products, out: build_items(products, out, engine=engine), "raw/metadata"),
        stage(
            "core/interactions",
            lambda lines, items, out: build_interactions(lines, items, out, engine=engine),
            "raw/ratings",
            "core/items",
        ),
        stage("core/sequences", lambda rows, out: build_sequences(rows, out, 3, engine=engine), "core/interactions"),
    )
    return dict(zip(STAGES, steps, strict=True))


def publish_domain(root: Path, raw: Path, domain: str) -> None:
    """A domain from its raw files to sequences."""
    for publish in stages(Store(root), raw, domain).values():
        publish()


def publish_catalogue(root: Path) -> None:
    """The catalogue over all that is current, shown at the top of the store."""
    store = Store(root)
    inputs = [artifact for artifact in store.all_current() if artifact.domain != ALL]
    made = recipe("warehouse/catalogue", ALL, "code", inputs, {}, {})
    artifact, _ = store.publish(made, lambda out: asdict(build_catalogue(inputs, out / CATALOGUE)), "recipe")
    store.expose(artifact, CATALOGUE)


def publish_all(root: Path, raw: Path, domains: list[str]) -> None:
    """A whole run."""
    for domain in domains:
        publish_domain(root, raw, domain)
    publish_catalogue(root)


def publish_text(root: Path, text: str, code: str = "code", identity: Any = "content") -> Artifact:
    """The smallest artifact there is, shown at the top of the store."""
    store = Store(root)

    def build(out: Path) -> dict[str, Any]:
        (out / "note.txt").write_text(text)
        return {"characters": len(text)}

    artifact, _ = store.publish(Recipe("core/notes", "Toys", code, {}, {}, {"text": text}), build, identity)
    store.expose(artifact, "note.txt")
    return artifact


def disagreements(answer: pa.Table) -> list[dict[str, Any]]:
    """The rows of the answer to `AGREEMENT` whose counts are not all there and equal."""
    counts = ("users", "items", "interactions", "ratings")
    return [row for row in answer.to_pylist() if any(None in row[c] or len(set(row[c])) != 1 for c in counts)]


def ask(catalogue: Path) -> pa.Table:
    """`AGREEMENT` through the project's own query."""
    return query(catalogue, AGREEMENT, engine=ENGINE)


def ask_plainly(catalogue: Path) -> pa.Table:
    """`AGREEMENT` as an analyst's notebook asks it."""
    with duckdb.connect(catalogue, read_only=True, config={"threads": 1}) as reader:
        return reader.sql(AGREEMENT).to_arrow_table()


def versions(store: Store) -> dict[str, str]:
    """What is current, by `layer/noun@domain`."""
    return {artifact.ref: artifact.version for artifact in store.all_current()}


def damage(store: Store) -> dict[str, list[str]]:
    """What is wrong with each current version, by `layer/noun@domain`; also that a CURRENT leads nowhere."""
    found = {}
    for pointer in sorted(store.root.glob("[!.]*/*/domain=*/CURRENT")):
        layer, noun, name, _ = pointer.relative_to(store.root).parts
        key, domain = f"{layer}/{noun}", name.removeprefix("domain=")
        try:
            artifact = store.current(key, domain)
        except StoreError as error:
            found[f"{key}@{domain}"] = [str(error)]
        else:
            found[f"{key}@{domain}"] = store.verify(artifact) if artifact else []
    return found


def overwrite(path: Path, data: bytes | str) -> None:
    """Write to a published file, as only who means to can."""
    path.chmod(0o644)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


ENVIRONMENT = Environment(
    python="3.11.2",
    packages={"duckdb": "2.0.0", "torch": "2.13.0+cpu"},
    git_commit="c0ffee" * 6 + "c0ff",
    git_clean=True,
    device="cpu",
    processor="abacus",
)


def manifest(key: str, domain: str, version: str, **changes: Any) -> Manifest:
    """The manifest of an artifact without files."""
    fields: dict[str, Any] = dict.fromkeys(("recipe", "code_version", "created"), "")
    fields |= {name: {} for name in ("inputs", "sources", "parameters", "files", "summary")}
    fields |= {"format": FORMAT, "environment": ENVIRONMENT, "key": key, "domain": domain, "version": version}
    return Manifest(**fields | changes)


def make_old(artifact: Artifact) -> None:
    """Let its manifest be as those were that were written before they had a format and an environment."""
    path = artifact.path / "manifest.json"
    new = json.loads(path.read_text())
    overwrite(path, json.dumps({name: new[name] for name in new if name not in ("format", "environment")}))


def leave(root: Path) -> Path:
    """What a process leaves in the staging area that is killed at work."""
    folder = root / ".staging" / uuid.uuid4().hex
    (folder / "files").mkdir(parents=True)
    (folder / "lock").touch()
    return folder


def leftovers(store: Store, *shown: str) -> list[str]:
    """What is wrong below the root: damaged versions, current or not, and whatever has no business there.

    The staging area is left to `staged`.
    """
    wrong = [problem for problems in damage(store).values() for problem in problems]
    for path in sorted(store.root.rglob("*")):
        parts = path.relative_to(store.root).parts
        if parts[0] in {".staging", ".lock", *shown} or (len(parts) < 4 and path.is_dir()):
            continue
        if len(parts) == 4 and parts[3].startswith("v=") and path.is_dir():
            key, domain = "/".join(parts[:2]), parts[2].removeprefix("domain=")
            version = parts[3].removeprefix("v=")
            manifest = parse((path / "manifest.json").read_text(), key, domain, version)
            wrong += store.verify(Artifact(key, domain, version, path, manifest))
        elif not (len(parts) == 4 and parts[3] in ("CURRENT", "HISTORY")) and len(parts) != 5:
            wrong.append(f"{path} has no business there")
    return wrong


def staged(store: Store) -> list[str]:
    """Folders in the staging area."""
    area = store.root / ".staging"
    return sorted(path.name for path in area.iterdir()) if area.is_dir() else []
