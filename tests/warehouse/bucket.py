"""A server of buckets on this machine: moto in a process of its own, behind a door that can be told to misbehave.

The door takes a request only when its body is complete, and lets one request in at a time: moto looks at a condition
and then writes, which S3 does in one. It is told what to do by requests to `/door`, and keeps the server's clock, which
no worker sees but through the objects' times.

``python -m tests.warehouse.bucket`` runs it and prints its port.
"""

import datetime
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlparse

Start = Any


@dataclass
class Door:
    """What the door is told: `ahead` moves the clock; of the next requests some fail."""

    ahead: float = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    """Each with `kind` (an HTTP status, "cut" or "slow"), `code` (of S3, if it is not the usual one), `every` so many
    requests, `match` on "METHOD path", `after`: whether the request has been carried out when its answer is lost, and
    `left`, how often still."""
    seen: list[str] = field(default_factory=list)
    count: int = 0


class Gate:
    """The WSGI application in front of moto's."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.door, self.lock = inner, Door(), threading.Lock()
        self.fill: Any = None

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        length = int(environ.get("CONTENT_LENGTH") or 0)
        chunked = environ.get("HTTP_TRANSFER_ENCODING") == "chunked"  # the length is not said before
        body = environ["wsgi.input"].read() if chunked else environ["wsgi.input"].read(length) if length else b""
        if len(body) < length:  # who sent it has died
            raise ConnectionAbortedError
        environ["wsgi.input"] = io.BytesIO(body)
        if environ["PATH_INFO"] == "/door":
            return self._told(json.loads(body or b"{}"), start)
        with self.lock:
            said = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            self.door.seen.append(f"{said}?{environ.get('QUERY_STRING', '')}")
            fault = self._fault(said)
            if fault is None or fault.get("after"):
                held: list[Any] = []
                answer = list(self.inner(environ, lambda *args, **_: held.append(args)))
        if fault is None:
            start(*held[0])
            return answer
        return _misbehave(
            fault,
            start,
            answer if fault.get("after") else [],
            held[0] if fault.get("after") else None,
            environ["werkzeug.socket"],
        )

    def _fault(self, said: str) -> dict[str, Any] | None:
        for fault in self.door.faults:
            if re.search(fault.get("match", ""), said) and fault["left"] > 0:
                fault["count"] = fault.get("count", 0) + 1
                if fault["count"] % fault.get("every", 1) == 0:
                    fault["left"] -= 1
                    return fault
        return None

    def _told(self, told: dict[str, Any], start: Start) -> Iterable[bytes]:
        with self.lock:
            if "ahead" in told:
                self.door.ahead = told["ahead"]
            if "faults" in told:
                self.door.faults = told["faults"]
            for bucket, prefix, count in told.get("fill", ()):
                self.fill(bucket, prefix, count)
            seen = self.door.seen
            if told.get("forget"):
                self.door.seen = []
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"seen": seen, "faults": self.door.faults}).encode()]


def _misbehave(fault: dict[str, Any], start: Start, answer: list[bytes], said: Any, socket: Any) -> Iterable[bytes]:
    kind = fault["kind"]
    if kind == "cut":  # the connection ends before the answer, or in the middle of it
        whole = b"".join(answer)
        if len(whole) > 1:
            start(*said)(whole[: len(whole) // 2])
        socket.shutdown(SHUT_RDWR)
        raise ConnectionAbortedError
    if kind == "slow":
        time.sleep(fault.get("seconds", 1))
        start(*said)
        return answer
    reason = fault.get("code") or {403: "AccessDenied", 429: "TooManyRequests", 503: "SlowDown"}[kind]
    text = f"<?xml version='1.0'?><Error><Code>{reason}</Code><Message>{reason}</Message></Error>".encode()
    start(f"{kind} {reason}", [("Content-Type", "application/xml"), ("Retry-After", "1")])
    return [text]


def serve() -> None:
    """Run until the process that started this one is gone."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3 import models
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    gate = Gate(DomainDispatcherApplication(create_backend_app))
    real = models.utcnow
    models.utcnow = lambda: real() + datetime.timedelta(seconds=gate.door.ahead)

    def fill(bucket: str, prefix: str, count: int) -> None:
        backend = s3_backends["123456789012"]["aws"]
        for number in range(count):
            backend.put_object(bucket, f"{prefix}{number:06}", b"")

    gate.fill = fill

    class Quiet(MotoRequestHandler):
        def log(self, *args: Any, **named: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=Quiet)
    print(server.port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


class Server:
    """The running server, as tests see it."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._ahead = 0.0

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead the standard clients here."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "never-to-be-printed",
            "AWS_REGION": "us-east-1",
        }

    def tell(self, **told: Any) -> dict[str, Any]:
        """Speak to the door; returns what it has seen."""
        request = urllib.request.Request(f"{self.address}/door", json.dumps(told).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            said: dict[str, Any] = json.loads(answer.read())
        return said

    def ahead(self, seconds: float) -> None:
        """Let the server's clock go on by so much."""
        self._ahead += seconds
        self.tell(ahead=self._ahead)

    def make(self, bucket: str) -> None:
        """Make a bucket, if there is none of that name."""
        self.client().create_bucket(Bucket=bucket)

    def client(self) -> Any:
        """Another client than ours, to look at the bucket and to damage it."""
        import boto3

        host = urlparse(self.address)
        given = self.environment
        return boto3.client(
            "s3",
            endpoint_url=f"http://{host.hostname}:{host.port}",
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            region_name=given["AWS_REGION"],
        )


@contextmanager
def running(**environment: str) -> Iterator[Server]:
    """A server in a process of its own, which ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warehouse.bucket"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout
    try:
        yield Server(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    serve()
