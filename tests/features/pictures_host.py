"""A real web server for pictures, well-behaved or not, that counts what it is asked; and what tests do with it."""

import io
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
from PIL import Image

from features.pictures.item_images import collect_images
from features.settings import Fetching
from tests.web import Serving

Page = Callable[["Handler"], None]


class PictureHost(Serving):
    """Pages by path, on every address of loopback. `asked`: requests by path; `most`: at once, by Host header."""

    def __init__(self, pages: dict[str, Page | bytes], tls: Path | None = None, pause: float = 0) -> None:
        self.pages = pages
        self.pause = pause
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.names: list[str | None] = []
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.busiest = 0
        self.release = threading.Event()
        self.lock = threading.Lock()
        host = self

        class Served(Handler):
            site = host

        self._listening = _Server(("0.0.0.0", 0), Served)
        self.port = self._listening.server_port
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            context.sni_callback = lambda _socket, name, _context: self.names.append(name)
            self._listening.socket = context.wrap_socket(
                self._listening.socket, server_side=True, do_handshake_on_connect=False
            )

    def __enter__(self) -> Self:
        self.serve(self._listening)
        return self

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    site: PictureHost

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        site, host = self.site, self.headers["Host"]
        with site.lock:
            site.asked[self.path] += 1
            self.count = site.asked[self.path]
            site.headers.append(dict(self.headers))
            site.now[host] += 1
            site.most[host] = max(site.most[host], site.now[host])
            site.busiest = max(site.busiest, site.now.total())
        try:
            time.sleep(site.pause)
            page = site.pages.get(self.path)
            if page is None:
                self.answer(404, b"<html>not found</html>")
            elif isinstance(page, bytes):
                self.answer(200, page)
            else:
                page(self)
        finally:
            with site.lock:
                site.now[host] -= 1

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()


def hang(handler: Handler) -> None:
    handler.close_connection = True
    handler.site.release.wait(60)


def drip(head: bytes, seconds: float) -> Page:
    """Send the head, then a byte now and then."""

    def page(handler: Handler) -> None:
        handler.close_connection = True
        handler.send(head)
        while not handler.site.release.wait(seconds):
            handler.send(b"x")

    return page


def say(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Page:
    return lambda handler: handler.answer(status, body, length, **headers)


def close_after(body: bytes, length: int) -> Page:
    """Promise so many bytes, send those, close."""

    def page(handler: Handler) -> None:
        handler.close_connection = True
        handler.answer(200, body, length, Content_Type="image/jpeg")

    return page


def reset(handler: Handler) -> None:
    """Say nothing and slam the door."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def chunked(body: bytes, ends: bool = True) -> Page:
    def page(handler: Handler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.send(b"%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if ends else b""))

    return page


def endless(handler: Handler) -> None:
    handler.close_connection = True
    handler.send_response(200)
    handler.end_headers()
    while not handler.site.release.is_set():
        handler.send(b"\0" * 2**20)


def raw(data: bytes) -> Page:
    """No HTTP at all."""

    def page(handler: Handler) -> None:
        handler.close_connection = True
        handler.send(data)

    return page


def first(page: Page, times: int, then: Page | bytes) -> Page:
    """A page for the first requests, and another one afterwards."""

    def chosen(handler: Handler) -> None:
        if handler.count <= times:
            page(handler)
        elif isinstance(then, bytes):
            handler.answer(200, then)
        else:
            then(handler)

    return chosen


def picture(colour: int, size: tuple[int, int] = (40, 60)) -> bytes:
    """A JPEG of its own for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour % 256, colour // 256 % 256, 77)).save(buffer, "JPEG")
    return buffer.getvalue()


def collect(paths: tuple[Path, Path], out: Path, cache: Path, fetching: Fetching) -> None:
    """Collect into a new folder; picklable, for processes that are killed."""
    out.mkdir()
    collect_images(*paths, None, out, cache=cache, fetching=fetching)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in pq.read_table(folder / "item_images.parquet").to_pylist()}
