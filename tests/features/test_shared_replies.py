"""Answers of picture addresses that machines share through a bucket: nobody asks for what another has been given."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.pictures.download import Downloads
from features.pictures.fingerprint import image_fingerprint
from features.pictures.item_images import collect_images, forget
from features.pictures.replies import Reply, described, key_of, recall
from features.pictures.sharing import Replies
from tests.features.pictures_host import PictureHost, contents, picture, say
from tests.features.test_download import QUICK, RED
from tests.warehouse.stores import Place, bucket, server
from tests.warehouse.test_bucket_faults import dying
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.objects.client import Client

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]


@pytest.fixture
def machine(bucket: Place) -> Callable[[int], Kept]:
    """The cache of a machine of this number."""

    def opened(number: int) -> Kept:
        return Kept(bucket.folder / f"cache{number}", bucket.open(number).shared.below("pictures"))

    return opened


@pytest.fixture
def host() -> Iterator[PictureHost]:
    with PictureHost({f"/{number}": picture(number) for number in range(4)} | {"/gone": say(404)}) as host:
        yield host


@pytest.fixture
def paths(catalogue: Any, host: PictureHost) -> tuple[Path, Path]:
    rows = [{"item_id": path[1:], "image_urls": [host.url(path)]} for path in sorted(host.pages)]
    return catalogue(rows)  # type: ignore[no-any-return]


def asked(host: PictureHost) -> int:
    """How many requests the host got since the last call."""
    count = host.asked.total()
    host.asked.clear()
    return count


def run(paths: tuple[Path, Path], kept: Kept, out: Path) -> dict[str, bytes]:
    out.mkdir()
    collect_images(*paths, None, out, cache=kept, fetching=QUICK)
    return contents(out)


def test_the_second_machine_asks_for_nothing(
    machine: Callable[[int], Kept], host: PictureHost, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    first = run(paths, machine(1), tmp_path / "1")
    assert asked(host) == 5
    assert run(paths, machine(2), tmp_path / "2") == first
    assert asked(host) == 0
    for path in machine(1).folder.glob("??/*"):
        assert (machine(2).folder / path.relative_to(machine(1).folder)).read_bytes() == path.read_bytes()
    assert recall(machine(2).folder, host.url("/gone")) == Reply("not_found", "the server answered 404")


def test_each_takes_what_it_wants_and_no_more(machine: Callable[[int], Kept], host: PictureHost) -> None:
    with Downloads(machine(1), QUICK) as downloads:
        downloads.ask([host.url("/0"), host.url("/1")])
    progress: list[tuple[int, int]] = []
    with Downloads(machine(2), QUICK) as downloads:
        downloads.ask([host.url("/1"), host.url("/2")], progress=lambda *done: progress.append(done))
    assert host.asked == {"/0": 1, "/1": 1, "/2": 1}
    assert progress == [(2, 2)]
    assert len(list(machine(2).folder.glob("??/*"))) == 2


def hostile(url: str) -> dict[str, bytes]:
    ok = Reply("ok", body=RED)
    whole = b"".join(described(url, ok))
    return {
        "nothing": b"",
        "cut": whole[:-1],
        "another body": whole.replace(b"JFIF", b"JFIX"),
        "another address": b"".join(described(url + "x", ok)),
        "an unknown status": b"".join(described(url, Reply("<b>", "x"))),
        "no JSON": b"[" * 100_000 + b"\n",
        "a list": b"[1]\nx",
    }


@pytest.mark.parametrize("kind", [*hostile("")])
def test_a_damaged_reply_is_asked_again_and_replaced(
    machine: Callable[[int], Kept], host: PictureHost, bucket: Place, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = host.url("/0")
    key = key_of(url)
    client = Client(bucket.address)
    client.write(f"cache/pictures/{key[:2]}/{key}", hostile(url)[kind])
    with caplog.at_level(logging.WARNING), Downloads(machine(1), QUICK) as downloads:
        downloads.ask([url])
    assert "is damaged and not used" in caplog.text
    assert asked(host) == 1
    with Downloads(machine(2), QUICK) as downloads:
        downloads.ask([url])
    assert asked(host) == 0
    assert recall(machine(2).folder, url) == Reply("ok", body=picture(0))


def test_what_one_forgets_all_ask_again(
    machine: Callable[[int], Kept], host: PictureHost, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    for number in (1, 2):
        run(paths, machine(number), tmp_path / f"first {number}")
    asked(host)

    def marks() -> list[str]:
        return [image_fingerprint(*paths, None, machine(number), QUICK) for number in (1, 2, 3)]

    (before,) = {*marks()}
    host.pages["/gone"] = RED
    assert forget(machine(1), ["not_found"]) == 1
    (after,) = {*marks()}
    assert after != before
    second = run(paths, machine(2), tmp_path / "second 2")
    assert host.asked == {"/gone": 1}
    asked(host)
    for number in (1, 3):
        assert run(paths, machine(number), tmp_path / f"second {number}") == second
    assert asked(host) == 0
    assert {*marks()} == {after}
    assert forget(machine(1), ["not_found"]) == 0


def test_counts_of_two_machines_become_the_larger_ones(
    machine: Callable[[int], Kept], host: PictureHost, paths: tuple[Path, Path], tmp_path: Path, bucket: Place
) -> None:
    """One has forgotten addresses before it shared anything."""
    host.pages["/1"] = say(404)
    alone = Kept(machine(1).folder)
    run(paths, alone, tmp_path / "alone")
    assert forget(alone, ["not_found"]) == 2
    run(paths, machine(2), tmp_path / "2")
    run(paths, machine(1), tmp_path / "1")
    asked(host)
    host.pages["/1"] = RED
    client = Client(bucket.address)
    assert forget(machine(1), ["not_found"]) == 2
    found = client.read("cache/pictures/forgotten.json")
    assert found
    assert found[0].count(b": 2") == 2
    client.write("cache/pictures/forgotten.json", b"[]")  # damaged: who knows the counts tells them again
    run(paths, machine(1), tmp_path / "again")
    found = client.read("cache/pictures/forgotten.json")
    assert found
    assert found[0].count(b": 2") == 2


def test_a_refusal_of_private_addresses_is_no_answer_where_they_are_allowed(
    machine: Callable[[int], Kept], host: PictureHost
) -> None:
    url = host.url("/0")
    with Downloads(machine(1), replace(QUICK, private_addresses=False)) as downloads:
        downloads.ask([url])
    assert asked(host) == 0
    with Downloads(machine(2), QUICK) as downloads:
        downloads.ask([url])
    assert asked(host) == 1
    assert recall(machine(2).folder, url, private=True) == Reply("ok", body=picture(0))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_request(machine: Callable[[int], Kept], after: bool) -> None:
    """Of a reply there is all or nothing, on both machines."""
    for number in range(1, 30):
        url, reply = f"http://host/{number}", Reply("ok", body=picture(number))
        with dying(number, after) as died:
            Replies(machine(number), True).add(url, reply)
        left = Replies(machine(100 + number), True).take([url])
        assert recall(machine(100 + number).folder, url) == (None if left else reply)
        if recall(machine(number).folder, url):
            assert left == [], "it is shared before it is here"
        Replies(machine(number), True).add(url, reply)
        assert Replies(machine(200 + number), True).take([url, url + "x"]) == [url + "x"]
        assert recall(machine(200 + number).folder, url) == reply
        if not died():
            break
    assert number > 1
