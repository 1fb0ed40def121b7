"""A real web server on loopback that misbehaves as it is told to, one fault a request."""

import hashlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Fault(NamedTuple):
    """What goes wrong with one request; `at`: a byte, a count or a number of seconds."""

    kind: str
    at: int = 0


class Asked(NamedTuple):
    """One request as it came."""

    path: str
    range: str | None
    if_range: str | None
    agent: str | None


class Serving:
    """A server in a thread of its own; `release` lets those go that were told to hang."""

    release: threading.Event

    def serve(self, server: ThreadingHTTPServer) -> None:
        """Serve until the end of the context."""
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class Site(Serving):
    """Files by path, the faults of the next requests, and what was asked. Without faults it does all as it should."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    etag: bool = True
    release: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        site = self

        class Handler(_Handler):
            served = site

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.serve(server)
        return self

    @property
    def ranges(self) -> list[str | None]:
        """The Range of each request."""
        return [asked.range for asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Site

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        site, headers = self.served, self.headers
        self.close_connection = True
        site.asked.append(Asked(self.path, headers["Range"], headers["If-Range"], headers["User-Agent"]))
        fault = site.faults.pop(0) if site.faults else Fault("none")
        if fault.kind == "change":  # the file is another one from now on
            site.files[self.path] = site.files["/changed"]
        if fault.kind == "status":
            self._answer(fault.at, b"sorry")
        elif fault.kind in ("busy", "busy until"):
            after = str(fault.at) if fault.kind == "busy" else "Wed, 21 Oct 2015 07:28:00 GMT"
            self._answer(503, b"", **{"Retry-After": after})
        elif fault.kind == "moved":
            self._answer(302, b"", Location=site.files["/moved-to"].decode())
        elif self.path not in site.files:
            self._answer(404, b"<html>not found</html>")
        elif fault.kind == "page":  # a login page, declared as one or not
            kind = "text/html; charset=utf-8" if fault.at else "application/octet-stream"
            self._answer(200, b"<!DOCTYPE html><html><body>Please log in</body></html>", **{"Content-Type": kind})
        else:
            self._file(site.files[self.path], fault)

    def _file(self, body: bytes, fault: Fault) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        more = {"ETag": etag} if self.served.etag else {}
        status, start = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = self.headers["If-Range"] in (etag, None) or fault.kind == "blind"  # blind: to If-Range
        if wanted and same and fault.kind != "no ranges":
            status, start = 206, int(wanted[1])
            if start >= len(body):
                self._answer(416, b"", **{"Content-Range": f"bytes */{len(body)}", **more})
                return
            end = len(body)
            if fault.kind == "wrong range":  # as many bytes as asked for, but earlier ones
                start, end = max(start - 7, 0), end - 7
            elif fault.kind == "piece":
                end = min(start + fault.at, end)
            total = len(body) + 5 if fault.kind == "wrong total" else len(body)
            more["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
            body = body[:end]
        rest = body[start:]
        length = len(rest)
        if fault.kind == "damage":
            rest = bytes(byte ^ 0x5A for byte in rest)
            if start == 0:  # what it is can still be seen
                rest = body[:10] + rest[10:]
        elif fault.kind == "promise more":
            length += fault.at
        elif fault.kind == "promise less":
            length = max(length - fault.at, 0)
        if fault.kind == "compressed":
            more["Content-Encoding"] = "x-gzip"
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        if fault.kind == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(rest), rest))
            if not fault.at:
                self.wfile.write(b"0\r\n\r\n")
            return
        if fault.kind != "no length":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault.kind in ("short", "reset", "stall"):
            rest = rest[: fault.at]
        self.wfile.write(rest)
        if fault.kind == "stall":
            self.wfile.flush()
            self.served.release.wait(30)
        elif fault.kind == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
