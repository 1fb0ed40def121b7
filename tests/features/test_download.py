import io
import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from features.errors import FeatureError
from features.pictures import connections
from features.pictures.decode import MAX_BYTES, THREADS, PictureError
from features.pictures.download import Downloads
from features.pictures.fingerprint import image_fingerprint
from features.pictures.item_images import STATUSES, collect_images, forget
from features.pictures.replies import key_of, recall
from features.pictures.shards import read_shards
from features.pictures.sources import read_source
from features.settings import Fetching
from tests.features.conftest import png
from tests.features.pictures_host import (
    PictureHost,
    chunked,
    close_after,
    collect,
    contents,
    drip,
    endless,
    first,
    hang,
    picture,
    raw,
    reset,
    rows,
    say,
)
from tests.features.test_item_images import BAD, GOOD
from tests.warehouse.disturb import duration, killed_after, killed_at, moments

# Limits that no busy machine reaches; and short ones, which silence and drips must reach before anything else ends.
QUICK = Fetching(
    per_host=16, timeout=60, total_timeout=300, attempts=2, wait=0.01, give_up_after=1000, private_addresses=True
)
IMPATIENT = replace(QUICK, timeout=5, total_timeout=5)
RED = png("red", (200, 200), format="JPEG")

PAGES = {
    **{f"/good/{name}": (data, "ok") for name, (data, _) in GOOD.items()},
    **{f"/bad/{name.replace(' ', '-')}": (data, status) for name, (data, status) in BAD.items()},
    "/html.jpg": (say(200, b"<html>Please log in</html>", Content_Type="image/jpeg"), "not_an_image"),
    "/any-type.txt": (say(200, RED, Content_Type="text/html"), "ok"),
    "/packed.jpg": (say(200, RED, Content_Encoding="gzip"), "ok"),
    "/empty": (say(204), "not_an_image"),
    "/continue": (raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 50), "unreachable"),
    "/early": (close_after(RED[:300], len(RED)), "unreachable"),
    "/early-once": (first(close_after(RED[:300], len(RED)), 1, RED), "ok"),
    "/promises-more": (close_after(RED, len(RED) + 1000), "ok"),
    "/promises-all": (close_after(RED, 10**15), "ok"),
    "/promises-less": (close_after(RED, len(RED) - 100), "broken"),
    "/reset": (reset, "unreachable"),
    "/reset-once": (first(reset, 1, RED), "ok"),
    "/chunked": (chunked(RED), "ok"),
    "/chunked-open": (chunked(RED, ends=False), "ok"),
    "/chunked-cut": (chunked(RED[:300], ends=False), "unreachable"),
    "/endless": (endless, "too_large"),
    "/no-http": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "unreachable"),
    "/many-headers": (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n"), "unreachable"),
    "/long-header": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10**6 + b"\r\n\r\n"), "unreachable"),
    "/bad-chunk": (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "unreachable"),
    "/bad-length": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + RED), "ok"),
    "/two-lengths": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n" + RED), "unreachable"),
    "/bad-status": (raw(b"HTTP/1.1 999999 X\r\n\r\n"), "unreachable"),
    "/moved-port": (say(302, Location="http://127.0.0.1:abc/"), "unreachable"),
    "/404": (say(404, b"<html></html>"), "not_found"),
    "/410": (say(410), "not_found"),
    "/403": (say(403, b"x" * 10**6), "not_found"),
    "/304": (say(304), "not_found"),
    "/503": (say(503), "unreachable"),
    "/503-once": (first(say(503), 1, RED), "ok"),
    "/429-once": (first(say(429, Retry_After="1"), 1, RED), "ok"),
    "/odd-date": (first(say(503, Retry_After="soon"), 1, RED), "ok"),
    "/moved": (say(301, Location="/any-type.txt"), "ok"),
    "/moved-far": (say(302, Location="/moved"), "ok"),
    "/moved-nowhere": (say(302), "not_found"),
    "/moved-on": (say(308, Location="//[:/"), "unreachable"),
    "/loop": (say(302, Location="/loop"), "unreachable"),
    "/to-ftp": (say(302, Location="ftp://127.0.0.1/x.jpg"), "refused"),
    "/to-file": (say(302, Location="file:///etc/passwd"), "refused"),
    "/to-umlaut": (say(302, Location="/\u00c3\u00bc.jpg"), "ok"),  # the bytes of ü as http.server sends them
    "/%C3%BC.jpg": (RED, "ok"),
}  # fmt: skip
NEVER_ENDING = {
    "/hang": (hang, "timeout"),
    "/drip-body": (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 0.2), "timeout"),
    "/drip-head": (drip(b"HTTP/1.1 200 OK\r\nX: ", 0.2), "timeout"),
    "/drip-status": (drip(b"HTTP", 0.2), "timeout"),
    "/drip-chunks": (drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n1000\r\n", 0.2), "timeout"),
    "/404-drip": (drip(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5000\r\n\r\n", 0.2), "not_found"),
}  # fmt: skip


@pytest.fixture
def items(catalogue: Any) -> Callable[[dict[str, list[str]]], tuple[Path, Path]]:
    """Writes a catalogue of addresses by item."""
    return lambda urls: catalogue([{"item_id": item, "image_urls": found} for item, found in urls.items()])


def pages(wanted: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    return {path: page for path, (page, _) in wanted.items()}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_fault_ends_in_its_status_and_nothing_is_asked_twice(items, folder) -> None:
    with PictureHost(pages(PAGES)) as host, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        urls = {path: [host.url(path)] for path in PAGES}
        wanted = {path: status for path, (_, status) in PAGES.items()}
        for url, status in {
            f"http://127.0.0.1:{closed.getsockname()[1]}/x.jpg": "unreachable",
            "http://nowhere.invalid/x.jpg": "unreachable",
            f"HTTP://user:secret@127.0.0.1:{host.port}/any-type.txt?size=1#part": "not_found",
            "http://": "unreachable",
            "http:///x.jpg": "unreachable",
            "http://[::1": "unreachable",
            "http://127.0.0.1:99999/x.jpg": "unreachable",
            f"http://{'x' * 300}.com/": "unreachable",
            "https://" + "x" * 100_000: "unreachable",
        }.items():
            urls[url], wanted[url] = [url], status
        urls |= {
            "fallback": [host.url("/404"), host.url("/html.jpg"), host.url("/fallback"), host.url("/never")],
            "local first": ["missing.jpg", host.url("/behind-a-file")],
            "hopeless": [host.url("/503"), host.url("/404")],
        }
        wanted |= {"fallback": "ok", "local first": "ok", "hopeless": "unreachable"}
        host.pages |= {"/fallback": RED, "/never": RED, "/behind-a-file": RED}
        paths, cache, out, again = items(urls), folder("cache"), folder("out"), folder("again")
        seen: list[tuple[int, int]] = []
        summary = collect_images(
            *paths, folder("root"), out, cache=cache, fetching=QUICK, progress=lambda *figures: seen.append(figures)
        )
        found = rows(out)
        assert {item: row["status"] for item, row in found.items()} == wanted
        assert set(wanted.values()) <= STATUSES.keys()
        assert summary.fallbacks == 2
        assert found["fallback"]["url"] == host.url("/fallback")
        assert host.asked["/never"] == 0
        assert host.asked["/404"] == host.asked["/promises-more"] == 1
        # An attempt over a connection that the host has just closed fails before the host can count it.
        assert {host.asked["/503"], host.asked["/early"]} <= {QUICK.attempts - 1, QUICK.attempts}
        assert host.asked["/loop"] == 1 + QUICK.max_redirects
        assert {sample.item_id for sample in read_shards(out)} == {i for i, s in wanted.items() if s == "ok"}
        assert all(done <= total for done, total in seen)
        assert seen[-1][0] == seen[-1][1] > len(wanted)

        before = host.asked.copy()
        collect_images(*paths, folder("root2"), again, cache=cache, fetching=QUICK)
        assert host.asked == before
        assert contents(again) == contents(out)
    assert not any({"Authorization", "Cookie"} & headers.keys() for headers in host.headers)
    assert {headers["User-Agent"] for headers in host.headers} == {QUICK.user_agent}
    assert b"secret" not in b"".join(path.read_bytes() for path in cache.glob("*/*"))


def test_what_never_ends_is_given_up_and_not_asked_twice(items, folder) -> None:
    with PictureHost(pages(NEVER_ENDING)) as host:
        paths, cache, out = items({path: [host.url(path)] for path in NEVER_ENDING}), folder("cache"), folder("out")
        collect_images(*paths, None, out, cache=cache, fetching=IMPATIENT)
        found = rows(out)
        assert {path: row["status"] for path, row in found.items()} == {p: s for p, (_, s) in NEVER_ENDING.items()}
        assert found["/drip-body"]["detail"].endswith("timeout: not complete after 5 s")
        assert host.asked == dict.fromkeys(NEVER_ENDING, 1)
        collect_images(*paths, None, folder("again"), cache=cache, fetching=IMPATIENT)
        assert host.asked == dict.fromkeys(NEVER_ENDING, 1)


def test_a_silent_host_is_asked_again(items, folder) -> None:
    with PictureHost({"/hang-once": first(hang, 1, RED)}) as host:
        fetching = replace(QUICK, timeout=1, attempts=100)
        summary = collect_images(*items({"a": [host.url("/hang-once")]}), None, folder("out"), fetching=fetching)
        assert summary.statuses == {"ok": 1}
        assert host.asked["/hang-once"] > 1


def test_the_bytes_do_not_depend_on_how_many_are_fetched_at_once(items, folder) -> None:
    many = {f"/{n}.jpg": picture(n) for n in range(60)}
    odd = {"/404": say(404), "/503-once": first(say(503), 1, RED), "/html": b"<html>"}
    outs = []
    connect = connections._connect
    for number, (concurrency, per_host) in enumerate([(1, 1), (32, 16)]):
        with PictureHost(many | odd) as host:
            urls = {path: [host.url(path), host.url("/0.jpg")] for path in [*many, *odd]}
            outs.append(folder(f"out{number}"))
            fetching = Fetching(concurrency=concurrency, per_host=per_host, wait=0.01, private_addresses=True)
            # Ports differ from server to server, so addresses of the same length stand in one catalogue.
            paths = items({item: [url.replace(str(host.port), "80") for url in found] for item, found in urls.items()})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connections, "_connect", lambda name, _, *more, to=host.port: connect(name, to, *more))
                collect_images(*paths, None, outs[-1], fetching=fetching, shard_bytes=20_000)
    assert contents(outs[0]) == contents(outs[1])
    assert len(contents(outs[0])) > 5
    assert all(row["status"] == "ok" for row in rows(outs[0]).values())


def test_the_limits_hold_and_hosts_do_not_wait_for_each_other(items, folder) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]
    with PictureHost({f"/{n}.jpg": picture(n) for n in range(160)}, pause=0.02) as host:
        urls = {f"{n:03}": [host.url(f"/{n}.jpg", hosts[n // 40])] for n in range(160)}
        fetching = Fetching(per_host=3, concurrency=8, private_addresses=True)
        summary = collect_images(*items(urls), None, folder("out"), fetching=fetching)
    assert summary.statuses == {"ok": 160}
    assert len(host.most) == 4
    assert max(host.most.values()) == 3
    assert 3 < host.busiest <= 8


def test_a_host_that_asks_for_it_is_left_alone(items, folder) -> None:
    asked: list[float] = []

    def busy(handler) -> None:
        asked.append(time.monotonic())
        later = datetime.now(UTC) + timedelta(seconds=1.99)  # an HTTP date has whole seconds
        handler.answer(429, Retry_After="1" if len(asked) == 1 else format_datetime(later, usegmt=True))

    def other(handler) -> None:
        asked.append(time.monotonic())
        handler.answer(200, RED)

    with PictureHost({"/a": first(busy, 1, other), "/b": other}) as host:
        fetching = Fetching(per_host=1, wait=0, private_addresses=True)
        summary = collect_images(*items({p: [host.url(p)] for p in ("/a", "/b")}), None, folder("o"), fetching=fetching)
    assert summary.statuses == {"ok": 2}
    assert asked[1] - asked[0] >= 1  # whichever came next
    with PictureHost({"/c": say(503, Retry_After="9" * 50), "/d": say(503, Retry_After="-5")}) as host:
        bounded = Fetching(longest_wait=0.05, wait=0.01, private_addresses=True)
        began = time.monotonic()
        paths = items({path: [host.url(path)] for path in ("/c", "/d")})
        assert collect_images(*paths, None, folder("p"), fetching=bounded).statuses == {"unreachable": 2}
        assert time.monotonic() - began < 60
        assert host.asked == {"/c": 3, "/d": 3}


def test_a_dead_host_is_given_up(items, folder, tmp_path: Path) -> None:
    with PictureHost({"/good": RED}) as host, socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # nobody listens
        urls = {f"{n:03}": [f"http://127.0.0.1:{dead.getsockname()[1]}/{n}.jpg"] for n in range(200)}
        urls["good"] = [host.url("/good", "127.0.0.2")]
        fetching = Fetching(wait=0, give_up_after=5, private_addresses=True)
        summary = collect_images(*items(urls), None, folder("out"), fetching=fetching)
    assert summary.statuses == {"ok": 1, "unreachable": 200}
    details = [str(row["detail"]) for row in rows(tmp_path / "out").values()]
    assert sum("unreachable: its host failed 5 times in a row" in detail for detail in details) > 150
    assert all(detail.endswith("no answer: Connection refused") for detail in details if detail != "None")


def test_failures_are_asked_again_only_when_forgotten(items, folder) -> None:
    with PictureHost({"/a": say(503), "/b": b"<html>", "/c": RED}) as host:
        paths = items({path: [host.url(path)] for path in ("/a", "/b", "/c", "/d")})
        cache = folder("cache")

        def run(name: str) -> dict[str, int]:
            before = host.asked.copy()
            collect_images(*paths, None, folder(name), cache=cache, fetching=QUICK)
            return dict(host.asked - before)

        def mark() -> str:
            return image_fingerprint(*paths, None, cache, QUICK)

        first_mark = mark()
        assert run("1") == {"/a": 2, "/b": 1, "/c": 1, "/d": 1}
        assert mark() == first_mark
        assert forget(cache, ["timeout"]) == 0
        assert mark() == first_mark
        host.pages |= {"/a": RED, "/b": RED, "/d": RED}
        assert run("2") == {}
        assert forget(cache, ["unreachable"]) == 1
        second_mark = mark()
        assert run("3") == {"/a": 1}
        assert mark() == second_mark != first_mark
        assert forget(cache, ["not_an_image", "not_found"]) == 2
        assert run("4") == {"/b": 1, "/d": 1}
        assert forget(cache, set(STATUSES) - {"ok", "no_url"}) == 0
        assert len({first_mark, second_mark, mark()}) == 3
        with pytest.raises(FeatureError, match=r"there is no download status gone, ok; known: broken, not_an_image"):
            forget(cache, ["ok", "gone"])
        assert image_fingerprint(*paths, None, cache, Fetching(http=False)) != mark()


def test_a_damaged_answer_is_asked_again(items, folder, tmp_path: Path) -> None:
    with PictureHost({f"/{n}": picture(n) for n in range(6)}) as host:
        paths, cache = items({str(n): [host.url(f"/{n}")] for n in range(6)}), folder("cache")
        collect(paths, (tmp_path / "a"), cache, QUICK)
        files = [cache / (key := key_of(host.url(f"/{n}")))[:2] / key for n in range(6)]
        files[0].write_bytes(b"")
        files[1].write_bytes(files[1].read_bytes()[:-1])
        files[2].write_bytes(files[2].read_bytes().replace(b"JFIF", b"JFIX"))
        files[3].write_bytes(b"[1]\nx")
        files[4].write_bytes(b"\xff\xfe{}")
        (cache / "forgotten.json").write_text("[]")
        assert forget(cache, ["broken"]) == 1  # the body is judged, and files that are none are passed over
        collect(paths, (tmp_path / "b"), cache, QUICK)
        assert host.asked == {**{f"/{n}": 2 for n in range(5)}, "/5": 1}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_cache_that_cannot_be_written_is_an_error(items, folder, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with (
        PictureHost({"/a": RED}) as host,
        pytest.raises(FeatureError, match=r"cannot be written .*same command continues"),
    ):
        collect(items({"a": [host.url("/a")]}), tmp_path / "out", tmp_path / "cache", QUICK)


def test_http_can_be_switched_off(items, folder) -> None:
    with PictureHost({"/a": RED}) as host:
        paths, cache = items({"a": [host.url("/a")]}), folder("cache")
        assert collect_images(*paths, None, folder("a"), cache=cache, fetching=QUICK).statuses == {"ok": 1}
        off = collect_images(*paths, None, folder("b"), cache=cache, fetching=Fetching(http=False))
        assert off.statuses == {"unreachable": 1}
    with pytest.raises(PictureError, match="http fetching is off"):
        read_source("http://x/y", None, cache, Fetching(http=False))
    with pytest.raises(LookupError):
        read_source("http://x/y", None, cache)


@pytest.mark.parametrize(
    ("name", "value"),
    [("per_host", 0), ("concurrency", 5000), ("attempts", 0), ("give_up_after", 0), ("max_redirects", -1),
     ("timeout", 0.0), ("total_timeout", float("nan")), ("wait", -1.0), ("user_agent", "a\r\nHost: b"),
     ("user_agent", " ")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(FeatureError, match=rf"pictures: {name} is .*give "):
        Fetching(**{name: value})


# Private addresses


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("64:ff9b::8.8.8.8", True),
     ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("0.0.0.0", False),
     ("100.64.0.1", False), ("169.254.169.254", False), ("224.0.0.1", False), ("240.0.0.1", False),
     ("255.255.255.255", False), ("198.18.0.1", False), ("::1", False), ("::", False), ("fe80::1%eth0", False),
     ("fc00::1", False), ("fec0::1", False), ("ff02::1", False), ("::ffff:127.0.0.1", False), ("::127.0.0.1", False),
     ("64:ff9b::10.0.0.1", False), ("2002:7f00:1::", False), ("2001:db8::1", False), ("2001:0:1::1", False)],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert connections.is_public(address) is public


def test_private_hosts_are_refused_and_hear_nothing(items, folder, tmp_path: Path) -> None:
    with PictureHost({"/a": RED}) as host:
        names = ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]", "0"]
        urls = {name: [host.url("/a", name)] for name in names}
        cache = folder("cache")
        summary = collect_images(*items(urls), None, folder("out"), cache=cache)
        assert summary.statuses == {"refused": len(names)}
        assert not host.asked
        assert "private_addresses" in rows(tmp_path / "out")["localhost"]["detail"]
        # Once they are allowed they are asked: the refusal was ours.
        allowed = collect_images(*items({"a": urls["localhost"]}), None, folder("b"), cache=cache, fetching=QUICK)
        assert allowed.statuses == {"ok": 1}


def test_names_are_looked_up_once_and_connected_to_as_checked(items, folder, monkeypatch, tmp_path: Path) -> None:
    """127.0.0.1 plays the public internet, 127.0.0.2 the intranet."""
    monkeypatch.setattr(connections, "is_public", lambda address: address == "127.0.0.1")
    real, looked_up = socket.getaddrinfo, []
    answers = {
        "rebinding.test": itertools.chain([["127.0.0.1"]], itertools.repeat(["127.0.0.2"])),
        "both.test": itertools.repeat(["127.0.0.1", "127.0.0.2"]),
        "intranet.test": itertools.repeat(["127.0.0.2"]),
    }

    def getaddrinfo(host, port, *args, **named):
        looked_up.append(host)
        found = next(answers[host]) if host in answers else [host]
        return [result for address in found for result in real(address, port, *args, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reached = []

    def page(handler) -> None:
        reached.append((handler.connection.getsockname()[0], handler.headers["Host"]))
        handler.answer(200, RED)

    with PictureHost({"/a": page}) as host:
        for name in ("127.0.0.2", "intranet.test", "both.test"):
            host.pages[f"/to-{name}"] = say(302, Location=host.url("/a", name))
        urls = {
            "rebinding": [host.url("/a", "rebinding.test")],
            "direct": [host.url("/a", "intranet.test")],
            **{f"to {name}": [host.url(f"/to-{name}")] for name in ("127.0.0.2", "intranet.test", "both.test")},
        }
        collect_images(*items(urls), None, folder("out"))
    found = {item: row["status"] for item, row in rows(tmp_path / "out").items()}
    assert found == {**dict.fromkeys(urls, "refused"), "rebinding": "ok"}
    assert reached == [("127.0.0.1", f"rebinding.test:{host.port}")]
    assert looked_up.count("rebinding.test") == 1


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate of this test, is not installed")
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.mark.long
def test_tls(items, folder, certificate: Path, monkeypatch, tmp_path: Path) -> None:
    slow = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 0.2)
    with PictureHost({"/a": RED, "/b": RED, "/slow": slow}, tls=certificate) as host:

        def run(name: str, server: str) -> dict[str, str]:
            urls = {path: [host.url(path, server, "https")] for path in host.pages}
            collect_images(*items(urls), None, folder(name), fetching=IMPATIENT)
            return {item: row["status"] for item, row in rows(tmp_path / name).items()}

        assert set(run("unknown", "localhost").values()) == {"unreachable"}
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert run("known", "localhost") == {"/a": "ok", "/b": "ok", "/slow": "timeout"}
        assert set(host.names) == {"localhost"}
        assert set(run("another name", "127.0.0.1").values()) == {"unreachable"}


# Kill -9


def _kill_and_go_on(items, folder, tmp_path: Path, kills: int, at_calls: bool) -> None:
    """Kill it, again and again, then let it finish: the same bytes, and nothing that was had is asked again."""
    count, concurrency = 60, 4
    with PictureHost({f"/{n}": picture(n) for n in range(count)} | {"/html": b"<html>"}, pause=0.02) as host:
        urls = {f"{n:03}": [host.url("/html"), host.url("/404"), host.url(f"/{n}")][n % 3 :] for n in range(count)}
        paths, report = items(urls), tmp_path / "report"
        fetching = Fetching(per_host=concurrency, concurrency=concurrency, wait=0.01, private_addresses=True)
        took = duration(collect, paths, tmp_path / "calm", folder("calm-cache"), fetching, report=report)
        calm, needed = contents(tmp_path / "calm"), host.asked.total()
        assert needed == len(host.asked) == count + 2

        host.asked.clear()
        cache, killed = tmp_path / "cache", 0
        for number, moment in enumerate(moments(kills, took)):
            had = [url for url in {url for found in urls.values() for url in found} if recall(cache, url)]
            before, out = host.asked.copy(), tmp_path / f"out{number}"
            if at_calls:
                alive = killed_at(5 + 11 * number, collect, paths, out, cache, fetching, report=report)
            else:
                alive = killed_after(moment, collect, paths, out, cache, fetching, report=report)
            again = host.asked - before
            assert not [url for url in had if again[url.removeprefix(host.url(""))]]
            if alive:
                killed += 1
            else:  # it came to its end: begin anew
                assert contents(out) == calm
                host.asked.clear()
                shutil.rmtree(cache)
                killed = 0
        collect(paths, tmp_path / "end", cache, fetching)
        assert contents(tmp_path / "end") == calm
        assert needed <= host.asked.total() <= needed + killed * concurrency
        collect(paths, tmp_path / "once more", cache, fetching)
        assert host.asked.total() <= needed + killed * concurrency
    assert not report.exists()


@pytest.mark.long
@pytest.mark.parametrize("at_calls", [False, True])
def test_kill_9(items, folder, tmp_path: Path, at_calls: bool) -> None:
    _kill_and_go_on(items, folder, tmp_path, 3, at_calls)


@pytest.mark.soak
@pytest.mark.parametrize("at_calls", [False, True])
def test_kill_9_at_thirty_points(items, folder, tmp_path: Path, at_calls: bool) -> None:
    _kill_and_go_on(items, folder, tmp_path, 30, at_calls)


# Real pictures, and memory


@pytest.mark.long
def test_posters_come_over_http_as_from_the_folder(shared: Path, catalogue, folder, tmp_path: Path) -> None:
    movies = shared / "data" / "movies"
    names = [f"images/Movies_Source/{path.name}" for path in (movies / "images/Movies_Source").iterdir()]
    with PictureHost({f"/{name}": (movies / name).read_bytes() for name in names}) as host:

        def run(out: Path, base: str) -> dict[str, dict[str, Any]]:
            paths = catalogue([{"item_id": Path(name).stem, "image_urls": [base + name]} for name in names])
            collect_images(*paths, movies, out, fetching=Fetching(per_host=8, private_addresses=True))
            return rows(out)

        local, web = run(folder("local"), ""), run(folder("web"), host.url("/"))
    assert {row["status"] for row in web.values()} == {"ok"}
    assert len(web) == 834
    for item, row in local.items():
        assert web[item] == {**row, "url": host.url(f"/{row['url']}")}
    pairs = zip(read_shards(tmp_path / "local"), read_shards(tmp_path / "web"), strict=True)
    assert all((a.item_id, a.data) == (b.item_id, b.data) for a, b in pairs)


_MEASURED = """
import resource, sys
from pathlib import Path
from features.settings import Fetching
from features.pictures.item_images import collect_images
items, sequence_items, out, cache = map(Path, sys.argv[1:])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fetching = Fetching(concurrency=8, per_host=8, attempts=1, total_timeout=30, private_addresses=True)
summary = collect_images(items, sequence_items, None, out, cache=cache, fetching=fetching)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024, summary.statuses, sep=";")
"""


@pytest.mark.soak
def test_memory_stays_bounded(items, folder) -> None:
    """Bombs, bodies up to the limit and the largest pictures allowed, many more than fit into the bound at once."""

    def encoded(mode: str, size: tuple[int, int], kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, kind, **options)
        return buffer.getvalue()

    made = {
        "bomb": encoded("RGB", (10_000, 10_000), "PNG"),
        "large": encoded("RGBA", (7000, 7000), "PNG", compress_level=1),
        "jpeg": encoded("RGB", (7000, 7000), "JPEG", progressive=True),
        "webp": encoded("RGB", (7000, 7000), "WEBP"),
        "padded": RED + bytes(MAX_BYTES - len(RED)),
        "one more": RED + bytes(MAX_BYTES - len(RED) + 1),
    }
    # Contents that differ, so that each is judged.
    different = {
        f"/{name}/{n}": (data[:-4] if len(data) >= MAX_BYTES else data) + n.to_bytes(4)
        for name, data in made.items()
        for n in range(20)
    }
    with PictureHost({**different, "/endless": endless}) as host:
        paths = items({path: [host.url(path.replace(" ", "%20"))] for path in host.pages})
        host.pages |= {path.replace(" ", "%20"): page for path, page in different.items()}
        command = [sys.executable, "-c", _MEASURED, *map(str, paths), str(folder("out")), str(folder("cache"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    mebibytes, statuses = done.stdout.split(";")
    # Bodies, each perhaps twice while it is handed over, and pictures being decoded.
    assert int(mebibytes) < 8 * 2 * 32 + THREADS * 500, done.stdout
    assert json.loads(statuses.replace("'", '"')).get("too_large") == 41


def test_threads_end_with_the_downloads(tmp_path: Path) -> None:
    before = threading.active_count()
    with PictureHost({"/a": RED}) as host, Downloads(tmp_path, QUICK) as downloads:
        seen: list[bytes] = []
        downloads.ask([host.url("/a"), host.url("/a")], seen.append)
        assert seen == [RED]
        with pytest.raises(ZeroDivisionError):
            downloads.ask([host.url("/b"), host.url("/a?")], progress=lambda *_: 1 / 0)
    assert not [t for t in threading.enumerate() if t.name.startswith("pictures")]
    assert threading.active_count() <= before + 1
