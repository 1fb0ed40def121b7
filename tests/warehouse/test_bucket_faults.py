"""A bucket whose server fails, processes that die between requests, credentials and disks that do not suffice."""

import gc
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest

from tests.warehouse.bucket import running
from tests.warehouse.disturb import small_disk
from tests.warehouse.stores import Place, bucket_place, make, of, writes
from warehouse.artifacts import history
from warehouse.artifacts.errors import ReadOnlyError, StoreError
from warehouse.artifacts.lineage import Lineage
from warehouse.artifacts.objects import layout, terms
from warehouse.artifacts.objects.client import UnreachableError
from warehouse.artifacts.objects.push import Pushed, push
from warehouse.artifacts.opened import open_store
from warehouse.artifacts.store import Store

pytestmark = pytest.mark.long

CALLS = ("put", "get", "head", "list", "delete", "list_with_delimiter")


class DeadError(BaseException):
    """A process that is no more: it sends no request, and catches nothing."""


@contextmanager
def dying(number: int, after: bool) -> Iterator[Callable[[], bool]]:
    """The process dies right before or after its n-th request, and sends no more; the result says whether it did."""
    count = itertools.count(1)
    dead = [False]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if dead[0]:
                raise DeadError
            last = next(count) == number
            if last and not after:
                dead[0] = True
                raise DeadError
            try:
                return real(*args, **named)
            finally:
                if last:
                    dead[0] = True
                    raise DeadError  # whatever the answer was

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(obstore, name, deadly(getattr(obstore, name)))
        try:
            yield lambda: dead[0]
        except DeadError:
            assert dead[0]


def wrong(store: Any) -> list[str]:
    """What is wrong with any version, and what lost its inputs."""
    lineage = Lineage.of(store)
    found = [problem for artifact in lineage.versions.values() if artifact for problem in store.verify(artifact)]
    found += [f"{version} has no manifest" for version, artifact in lineage.versions.items() if artifact is None]
    for version in lineage.versions:
        found += [f"{version} lacks {read}" for read in lineage.inputs(version) if read not in lineage.versions]
    found += [f"{version} is current and gone" for version in lineage.current - lineage.versions.keys()]
    return found


def contents(store: Any) -> set[str]:
    """The objects that hold files."""
    return {found.key for found in store.client.listed(layout.FILES)}


def named_contents(store: Any) -> set[str]:
    """The objects that manifests name."""
    store.versions()
    return {key for version in store.versions() for key in store._known[version].objects.values()}


# Processes that die


def _again(store: Any) -> None:
    make(store, "core/items", "1")
    make(store, "core/items", "2")


def _damaged(store: Any) -> None:
    store.mark(make(store, "core/items", "1").named, "damaged")


def _doomed(store: Any) -> None:
    _again(store)
    store.collect()


PREPARED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the first version": (lambda store: None, "1"),
    "another version": (lambda store: make(store, "core/items", "1"), "2"),
    "a version that was there before": (_again, "1"),
    "a version that was there before and is doomed": (_doomed, "1"),
    "the repair of a damaged version": (_damaged, "1"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("what", "step"), [("another version", 13), *(pytest.param(what, 1, marks=pytest.mark.soak) for what in PREPARED)]
)
def test_killed_at_every_request_of_a_publication(bucket: Place, what: str, after: bool, step: int) -> None:
    prepare, text = PREPARED[what]
    for number in itertools.count(step // 2 + 1, step):
        place = bucket_place(bucket.server, bucket.folder / str(number))  # type: ignore[arg-type]
        prepare(place.open())
        before = place.open().current("core/items", "Toys")
        with dying(number, after) as died:
            make(place.open(1), "core/items", text)
        store = place.open(2)
        now = before
        if "damaged" not in what:  # that one may be gone for a moment
            assert wrong(store) == []
            now = store.current("core/items", "Toys")
        made = make(store, "core/items", text)
        assert (now and now.version) in (before and before.version, made.version)
        assert store.require("core/items", "Toys").named == made.named
        assert store.publish(of(code_version="code", parameters={"text": text}), writes("never written"))[1] is False
        assert wrong(store) == []
        for _ in range(3):
            place.collect(store)
        assert set(store.versions()) == {made.named}
        assert contents(store) == named_contents(store)
        assert [found.key for found in store.client.listed(layout.LEASES)] == []
        if not died():
            break
    assert number > 10, "the requests were not counted"


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_request_of_a_collection(bucket: Place, after: bool, step: int) -> None:
    for number in itertools.count(step // 2 + 1, step):
        place = bucket_place(bucket.server, bucket.folder / str(number))  # type: ignore[arg-type]
        store = place.open()
        for text in "12":
            make(store, "core/items", text, make(store, "raw/metadata", text))
        current = set(store.pointed().values())
        store.collect()
        place.later()
        with dying(number, after) as died:
            place.open(1).collect()
        assert wrong(place.open(2)) == []
        assert set(place.open(2).pointed().values()) == current
        for text in "12":  # what is half removed is made again
            make(store, "core/items", text, make(store, "raw/metadata", text))
        assert wrong(place.open(2)) == []
        for _ in range(3):
            place.collect(store)
        assert set(store.versions()) == current
        assert contents(store) == named_contents(store)
        if not died():
            break
    assert number > 20, "the requests were not counted"


def test_half_an_upload_is_invisible_and_collected_later(bucket: Place) -> None:
    store = bucket.open()
    kept = make(store, "core/items", "1")
    store.client.write(layout.new_file("0" * 64), b"half")
    assert list(store.versions()) == [kept.named]
    assert store.collect() == []  # it may belong to a publication that is on its way
    bucket.later()
    (leftover,) = store.collect()
    assert (leftover.kind, leftover.bytes) == ("files", 4)
    assert contents(store) == named_contents(store)


def test_an_upload_is_used_again_while_it_is_young(bucket: Place) -> None:
    real = obstore.put

    def put(store: Any, key: str, *args: Any, **named: Any) -> Any:
        if "manifest.json" in key:
            raise DeadError
        return real(store, key, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put", put)
        with pytest.raises(DeadError):
            bucket.open().publish(of(), writes("a", b="b", c="c"))
    left = contents(bucket.open())
    assert len(left) == 3
    made, built = bucket.open().publish(of(), writes("a", b="b", c="c"))
    assert built
    assert contents(bucket.open()) == left
    bucket.later()
    bucket.open(1).publish(of(code_version="c2"), writes("a", b="b", c="more"))
    assert len(contents(bucket.open())) == 6  # old ones are left alone, as a collection might be at them
    assert bucket.open(1).verify(made) == []


# A server that fails


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": 503, "every": 3},
        {"kind": 429, "every": 3},
        {"kind": "cut", "every": 4},
        {"kind": "slow", "every": 5, "after": True, "seconds": 0.2},
        {"kind": 503, "every": 2, "after": True, "match": "^PUT"},
        {"kind": "cut", "every": 2, "after": True, "match": "^(PUT|GET)"},
    ],
    ids=lambda fault: f"{fault['kind']}{' after' if fault.get('after') else ''}",
)
def test_a_server_that_fails_now_and_then_is_asked_again(bucket: Place, fault: dict[str, Any]) -> None:
    assert bucket.server
    bucket.server.tell(faults=[{**fault, "left": 25}])
    store = bucket.open()
    raw = make(store, "raw/metadata", "1")
    with bucket.open(1).holding([("raw/metadata", "Toys")]) as (held,):
        made = make(bucket.open(1), "core/items", "1", held)
        assert made.file("items.txt").read_text() == "core/items Toys 1"
    assert bucket.open(2).require("core/items", "Toys").file("items.txt").read_text() == "core/items Toys 1"
    told = bucket.server.tell(faults=[])
    assert told["faults"] == []
    assert wrong(store) == []
    assert set(store.versions()) == {raw.named, made.named}
    assert len(store.periods()) == 2
    assert contents(store) == named_contents(store)


def test_a_server_that_does_not_answer_is_an_error_that_may_pass(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.artifacts.objects.client.RETRIES", 1)
    assert bucket.server
    make(bucket.open(), "core/items", "1")
    bucket.server.tell(faults=[{"kind": 503, "left": 1000}])
    with pytest.raises(UnreachableError, match=r"503 .*SlowDown") as said:
        bucket.open().require("core/items", "Toys")
    assert isinstance(said.value, ConnectionError | StoreError)
    bucket.server.tell(faults=[])
    assert bucket.open().require("core/items", "Toys")


def test_a_lost_answer_of_a_conditional_write_counts_once(bucket: Place) -> None:
    store = bucket.open()
    tag = store.client.create("x", b"1")
    assert bucket.server
    for kind in (503, "cut"):
        bucket.server.tell(faults=[{"kind": kind, "left": 1, "after": True, "match": "^PUT"}])
        data = f"{kind}".encode()
        tag = store.client.replace("x", data, tag)
        assert tag
        assert store.client.read("x") == (data, tag)
    assert store.client.replace("x", b"2", {"e_tag": '"00"'}) is None
    assert store.client.create("x", b"2") is None
    assert store.client.replace("absent", b"2", tag) is None


# Who may do what


@pytest.fixture(scope="module")
def keys() -> Iterator[dict[str, tuple[str, str, str]]]:
    """A server that checks who asks: one who may do all, and one who may read."""
    with running(INITIAL_NO_AUTH_ACTION_COUNT="7") as server:
        server.make("guarded")
        iam = boto3.client(
            "iam",
            endpoint_url=server.address,
            aws_access_key_id="x",
            aws_secret_access_key="y",
            region_name="us-east-1",
        )
        found = {"nobody": ("AKIANOBODYNOBODYNOBO", "never-to-be-printed")}
        for name, actions in (("all", ["s3:*"]), ("reader", ["s3:Get*", "s3:List*"])):
            iam.create_user(UserName=name)
            allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
            made = iam.create_access_key(UserName=name)["AccessKey"]
            found[name] = (made["AccessKeyId"], made["SecretAccessKey"])
        found["liar"] = (found["all"][0], "never-to-be-printed")
        yield {name: (*pair, server.address) for name, pair in found.items()}


def _as(who: tuple[str, str, str], folder: Path, patch: pytest.MonkeyPatch) -> Any:
    patch.setenv("AWS_ACCESS_KEY_ID", who[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", who[1])
    patch.setenv("AWS_ENDPOINT_URL", who[2])
    return open_store("s3://guarded/x", folder, folder / "cache")


def test_who_may_only_read_reads(
    keys: dict[str, tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(_as(keys["all"], tmp_path / "all", monkeypatch), "core/items", "1")
    store = _as(keys["reader"], tmp_path / "reader", monkeypatch)
    assert store.require("core/items", "Toys").file("items.txt").read_text() == "core/items Toys 1"
    assert store.verify(made) == []
    assert store.whole("core/items", "Toys")
    for change in (lambda: make(store, "core/items", "2"), lambda: store.mark(made.named, "pin"), store.collect):
        with pytest.raises(ReadOnlyError, match="AccessDenied"):
            change()
    assert list(store.versions()) == [made.named]


@pytest.mark.parametrize("who", ["nobody", "liar"])
def test_wrong_credentials_are_one_error_that_tells_no_secret(
    keys: dict[str, tuple[str, str, str]], who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _as(keys[who], tmp_path, monkeypatch)
    for act in (store.all_current, lambda: store.current("core/items", "Toys"), lambda: make(store, "core/items", "1")):
        with pytest.raises(
            StoreError, match=r"refuses .*(InvalidAccessKeyId|SignatureDoesNotMatch).*credentials"
        ) as said:
            act()
        assert "never-to-be-printed" not in f"{said.value!r} {said.value.__cause__!r}"
        assert said.value.__suppress_context__


def test_a_bucket_that_does_not_exist_is_one_error(bucket: Place, tmp_path: Path) -> None:
    store: Any = open_store("s3://no-such-bucket/x", tmp_path, tmp_path / "cache")
    for act in (
        store.all_current,
        store.versions,
        store.collect,
        lambda: store.current("core/items", "Toys"),
        lambda: make(store, "core/items", "1"),
    ):
        with pytest.raises(StoreError, match="there is no bucket no-such-bucket: create it"):
            act()


@pytest.mark.parametrize("place", ["s3://bucket", "s3://bucket/a/b/", "gs://bucket/a", "az://bucket/a"])
def test_addresses_of_several_services_are_known(tmp_path: Path, place: str) -> None:
    store: Any = open_store(place, tmp_path, tmp_path / "cache")
    assert store.client.bucket == "bucket"
    assert store.where("core/items", "Toys") == f"{place.rstrip('/')}/core/items/domain=Toys"


@pytest.mark.parametrize(
    "place", ["file:///x", "s3://", "s3://u:secret@bucket/x", "http://host/x", "s3://b/x?secret=1"]
)
def test_other_addresses_are_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(StoreError, match="is no place for a store: write s3://bucket/prefix") as said:
        open_store(place, tmp_path, tmp_path / "cache")
    assert "secret" not in str(said.value)


def test_without_obstore_a_bucket_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warehouse.artifacts.objects.client.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"needs obstore: pip install 'mmm4rec\[store\]'"):
        open_store("s3://bucket/x", tmp_path, tmp_path / "cache")
    assert open_store(tmp_path, tmp_path, tmp_path / "cache").all_current() == []


def test_a_bucket_that_keeps_versions_of_objects_works(bucket: Place) -> None:
    assert bucket.server
    client = bucket.server.client()
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    place = Place("bucket", bucket.folder, "s3://versioned/x", bucket.server)
    store = place.open()
    for text in "121":
        made = make(store, "core/items", text)
    assert wrong(store) == []
    place.collect(store)
    assert list(store.versions()) == [made.named]
    assert make(store, "core/items", "2").file("items.txt").read_text() == "core/items Toys 2"
    assert wrong(store) == []


# STORE


def test_a_newer_format_and_another_store_are_refused(bucket: Place) -> None:
    store = bucket.open()
    make(store, "core/items", "1")
    plain = json.loads(store.client.read(layout.STORE)[0])
    store.client.write(layout.STORE, json.dumps(plain | {"id": "another"}).encode())
    with pytest.raises(StoreError, match="holds files of another store"):
        make(bucket.open(), "core/items", "2")
    for change, said in (({"format": 2}, "a newer one has made it"), ({"grace": 1}, "shorter than a lease")):
        store.client.write(layout.STORE, json.dumps(plain | change).encode())
        with pytest.raises(StoreError, match=said):
            make(bucket.open(), "core/items", "2")
    store.client.write(layout.STORE, b"{")
    with pytest.raises(StoreError, match="describes no store"):
        make(bucket.open(), "core/items", "2")


def test_periods_that_are_too_short_make_no_store(bucket: Place) -> None:
    client = bucket.open().client
    for grace, lease in ((30, 30), (60, 120)):
        with pytest.raises(StoreError, match=r"too short|shorter than a lease"):
            terms.establish(client, grace, lease)
    assert terms.read(client) is None


# Clocks


def test_no_clock_of_a_worker_is_asked(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one whose clock is wrong harms nobody."""

    def no_clock() -> Any:
        raise AssertionError("a clock of this machine was asked")

    monkeypatch.setattr(history, "now", no_clock)
    monkeypatch.setattr(time, "time", no_clock)
    store = bucket.open()
    old = make(store, "core/items", "1")
    with bucket.open(1).holding([("core/items", "Toys")]):
        make(store, "core/items", "2")
        store.collect()
        bucket.later(300)
        store.collect()
    bucket.later()
    store.collect()
    bucket.later()
    store.collect()
    assert old.named not in store.versions()
    told = [period.since for period in store.periods()]
    assert told == sorted(told)


def test_a_lease_of_a_dead_process_ends(bucket: Place) -> None:
    store = bucket.open()
    old = make(store, "core/items", "1")
    with dying(12, after=True) as died, bucket.open(1).holding([("core/items", "Toys")]):
        for _ in range(12):
            bucket.open(1).current("core/items", "Toys")
    assert died()
    make(store, "core/items", "2")
    assert store.collect() == []
    assert store.leases.living().versions == {old.named}
    bucket.later(1000)
    assert store.leases.living().versions == set()
    assert [leftover.kind for leftover in store.collect()] == ["doomed"]
    bucket.later()
    assert [leftover.kind for leftover in store.collect()] == ["version", "files"]
    assert [found.key for found in store.client.listed(layout.LEASES)] == []


# The cache


def test_a_full_disk_is_one_error_and_leaves_nothing_half_there(bucket: Place, tmp_path: Path) -> None:
    made, _ = bucket.open().publish(of(), writes("x" * 200_000))
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store: Any = open_store(bucket.address, disk.folder / "data", disk.folder / "data" / "cache")
        small = make(store, "core/items", "1", domain="Mugs")
        artifact = store.versions()[made.named]
        assert store.verify(artifact) == []
        disk.leave(100_000)
        with pytest.raises(StoreError, match=r"no space left in .*cache while fetching files of core/items@Toys"):
            artifact.file("items.txt")
        with pytest.raises(StoreError, match=r"no space left in .*cache while building"):
            store.publish(of(domain="Pots"), writes("y" * 200_000))
        assert not list((disk.folder / "data" / "cache").rglob(f"v={made.version}/items.txt"))
        assert store.current("core/items", "Pots") is None
        assert small.file("items.txt").read_text() == "core/items Mugs 1"
        disk.free()
        assert artifact.file("items.txt").read_text() == "x" * 200_000
        assert len(list((disk.folder / "data" / "cache" / ".staging").iterdir())) == 1  # what this process holds


def test_the_cache_is_bounded_and_keeps_what_is_in_use(bucket: Place) -> None:
    store = bucket.open()
    made = [store.publish(of(domain=f"D{n}"), writes("x" * 1000 + str(n)))[0] for n in range(4)]
    first = bucket.open(1, limit=2500)
    for artifact in made:
        assert first.versions()[artifact.named].file("items.txt").stat().st_size == 1001
    cached = bucket.shown(1) / "cache" / "store"
    assert len(list(cached.glob("core/items/*/v=*/items.txt"))) == 4  # this process has been given all of them
    del first, artifact
    gc.collect()
    second = bucket.open(1, limit=2500)
    second.versions()[made[0].named].file("items.txt")
    os.utime(cached / "core/items/domain=D3" / f"v={made[3].version}" / "manifest.json", (0, 0))
    second.publish(of(domain="D9"), writes("y" * 1000))
    left = {path.parts[-3] for path in cached.glob("core/items/*/v=*/items.txt")}
    assert left >= {"domain=D0", "domain=D9"}
    assert "domain=D3" not in left
    assert len(left) == 2


def test_a_copy_in_the_cache_that_is_damaged_is_fetched_again(bucket: Place) -> None:
    store = bucket.open()
    made = make(store, "core/items", "1")
    path = made.file("items.txt")
    path.chmod(0o644)
    path.write_text("core/items Toys 2")
    assert store.verify(made) == []
    assert made.file("items.txt").read_text() == "core/items Toys 1"
    path.unlink()
    assert made.file("items.txt").read_text() == "core/items Toys 1"


def test_an_object_with_other_bytes_is_never_handed_out(bucket: Place) -> None:
    made = make(bucket.open(), "core/items", "1")
    bucket.put(made, "items.txt", b"core/items Toys 2")
    artifact = bucket.open(1).require("core/items", "Toys")
    with pytest.raises(StoreError, match=r"items.txt is missing or damaged: `mmm4rec verify`"):
        artifact.file("items.txt")
    assert not list((bucket.shown(1) / "cache").rglob("items.txt"))


# Many objects


@pytest.mark.parametrize("count", [1100, pytest.param(100_000, marks=pytest.mark.soak)])
def test_a_listing_of_many_objects(bucket: Place, count: int) -> None:
    assert bucket.server
    bucket.server.make("many")
    bucket.address = f"s3://many/{count}"
    store = bucket.open()
    made = make(store, "core/items", "1")
    prefix = str(count)
    bucket.server.tell(
        fill=[
            ["many", f"{prefix}/files/00/{'0' * 64}/", count],
            ["many", f"{prefix}/core/items/domain=Toys/recipe=0000000000", count],
        ]
    )
    assert list(store.versions()) == [made.named]
    assert store.collect() == []
    bucket.later()
    (leftover,) = store.collect()
    assert leftover.name == f"{count:,} contents"
    assert contents(store) == named_contents(store)
    folder = Store(bucket.folder / "folder")
    make(folder, "core/items", "1")
    assert push(folder, bucket.open(1)) == Pushed(versions=0, files=0, bytes=0, there=1, pins=0, current=0)
