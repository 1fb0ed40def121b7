"""The web server of `mmm4rec ui`: Dagster's, protected against other pages in the operator's browser.

Dagster's server has no login, accepts any host name, and accepts mutations by GET. Even on 127.0.0.1, every page that
is open in a browser of this machine could start runs and delete data. The guard lets requests of the UI's own pages
and of programs pass. It refuses every request that another page can make a browser send. It is not a login.
"""

import argparse
import os
from collections.abc import Collection
from typing import Any, Final

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from pipelines.ui.servers import DATA_FOLDER

HEADERS: Final = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
POLICY: Final = "frame-ancestors 'none'; form-action 'self'; img-src 'self' data: blob:"
"""Added to Dagster's own policy. Pictures load only from this server, even if metadata name other addresses."""


class Webserver(DagsterWebserver[Any, Any]):
    """Dagster's web server, which also answers which data folder it is for."""

    def build_routes(self) -> list[BaseRoute]:
        """Dagster's routes, after our own: one of Dagster's answers all paths."""
        return [Route(DATA_FOLDER, _data_folder), *super().build_routes()]  # type: ignore[no-untyped-call]


async def _data_folder(_: Request) -> PlainTextResponse:
    return PlainTextResponse(os.environ["MMM4REC_DATA"])


class Guard:
    """ASGI middleware that refuses requests another page could have sent. `hosts`: accepted `Host` headers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add headers to the response; or refuse the request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.append("Content-Security-Policy", POLICY)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)
        else:
            status, reason = refusal
            await PlainTextResponse(f"refused: {reason}\n", status)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the reason if the request is refused; None if it may pass."""
        headers = HTTPConnection(scope).headers
        method = scope.get("method", "GET")
        (host, *more) = headers.getlist("host") or [""]
        if more or host.lower() not in self.hosts:
            return 403, f"{host!r} is not an allowed name of this server; `mmm4rec ui --allow-host NAME` allows it"
        own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
        if not {origin.lower() for origin in headers.getlist("origin")} <= own:
            return 403, "a page of another origin has sent this request"
        # A link on another page may lead here: following it shows a page of ours and changes nothing.
        is_followed_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        is_followed_link = is_followed_link and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_followed_link:
            return 403, "a page of another site has sent this request"
        if method == "POST":
            # Without asking this server first, browsers send forms and plain text across origins, but never JSON.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            return None if kind == "application/json" else (415, "the body of a POST must be application/json")
        if method not in ("GET", "HEAD"):
            return 405, f"the method is {method}, not GET, HEAD or POST"
        if scope["path"] == "/graphql" and scope["query_string"]:
            return 405, "send GraphQL queries with POST"
        return None


def loopback(port: int) -> list[str]:
    """The values of the `Host` header for a server at this port of this machine."""
    return [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]


def main() -> None:
    """Serve on 127.0.0.1 until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("workspace", help="a workspace.yaml")
    parser.add_argument("hosts", nargs="*", help="host names in addition to those of loopback")
    asked = parser.parse_args()
    with dg.DagsterInstance.get() as instance:
        # The values of Dagster's own command: milliseconds for the first, seconds for the second.
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        with WorkspaceProcessContext(instance, WorkspaceFileTarget([asked.workspace]), __version__) as context:
            app = Guard(
                Webserver(context, live_data_poll_rate=2000).create_asgi_app(),
                [*loopback(asked.port), *asked.hosts],
            )
            # Open web sockets of browser pages must not delay the end.
            uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
