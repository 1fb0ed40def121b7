"""What the UI's web server lets in: its own pages and programs, and nothing that another page makes a browser send."""

import socket
import threading
from collections.abc import Iterator

import dagster as dg
import pytest
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from pipelines.errors import CommandError
from pipelines.ui.servers import check_port
from pipelines.ui.webserver import Guard, Webserver, loopback

OWN = "127.0.0.1:3000"
JSON = {"content-type": "application/json"}
QUERY = '{"query": "{ __typename }"}'
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
SUBSCRIPTION = {"sec-websocket-protocol": "graphql-ws"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """Dagster's server over nothing, behind the guard."""
    with (
        dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context,
    ):
        yield Guard(Webserver(context).create_asgi_app(), [*loopback(3000), "Shop.example:8443"])


@pytest.fixture(scope="module")
def client(app: Guard) -> TestClient:
    return TestClient(app, base_url=f"http://{OWN}")


def test_who_finds_the_port_taken_is_told_by_which_data_folder(app: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMM4REC_DATA", "/shops/to\x1bys")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        monkeypatch.setattr(app, "hosts", {*app.hosts, *loopback(port)})
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            with pytest.raises(CommandError, match=rf"port {port} .* by `mmm4rec ui` over /shops/to\\x1bys; choose"):
                check_port(port)
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("GET", "/", {"host": "localhost:3000"}),
        ("GET", "/", {"host": "[::1]:3000"}),
        ("GET", "/", {"host": "shop.example:8443"}),
        ("GET", "/runs?q=status%3AFAILURE", {"sec-fetch-site": "none"}),
        ("GET", "/assets/core/items?view=lineage", {"sec-fetch-site": "same-origin"}),
        ("GET", "/assets/core/items", LINK),
        ("HEAD", "/server_info", {}),
        ("POST", "/graphql", JSON),
        ("POST", "/graphql", {"content-type": "application/json; charset=utf-8"}),
        ("POST", "/graphql", JSON | {"origin": f"http://{OWN}", "sec-fetch-site": "same-origin"}),
        ("POST", "/graphql", JSON | {"host": "shop.example:8443", "origin": "https://shop.example:8443"}),
    ],
)
def test_let_in(client: TestClient, method: str, path: str, headers: dict[str, str]) -> None:
    answer = client.request(method, path, headers=headers, content=QUERY if method == "POST" else None)
    assert answer.status_code == 200, answer.text
    if method == "POST":
        assert answer.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        # Another name leads here (DNS rebinding), or none.
        ("GET", "/", {"host": "evil.example"}, 403),
        ("GET", "/", {"host": "evil.example:3000"}, 403),
        ("GET", "/", {"host": "127.0.0.1:3000.evil.example"}, 403),
        ("GET", "/", {"host": "127.0.0.1"}, 403),
        ("GET", "/", {"host": "127.0.0.1:3001"}, 403),
        ("GET", "/", {"host": "shop.example"}, 403),
        ("GET", "/", {"host": ""}, 403),
        ("POST", "/graphql", JSON | {"host": "evil.example", "origin": "http://evil.example"}, 403),
        ("GET", "/", {"host": "evil.example", "x-forwarded-host": OWN}, 403),
        # Pages of others, those of another port of this machine too.
        ("POST", "/graphql", JSON | {"origin": "http://evil.example"}, 403),
        ("POST", "/graphql", JSON | {"origin": "null"}, 403),
        ("POST", "/graphql", JSON | {"origin": "http://127.0.0.1:8888"}, 403),
        ("POST", "/graphql", JSON | {"origin": "http://localhost:3000"}, 403),
        ("POST", "/graphql", JSON | {"origin": f"http://{OWN}.evil.example"}, 403),
        ("POST", "/graphql", JSON | {"origin": f"file://{OWN}"}, 403),
        ("POST", "/graphql", JSON | {"sec-fetch-site": "cross-site"}, 403),
        ("POST", "/graphql", JSON | {"sec-fetch-site": "same-site"}, 403),
        ("POST", "/graphql", JSON | LINK, 403),
        ("GET", "/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ("GET", "/", LINK | {"sec-fetch-dest": "iframe"}, 403),
        # Nothing is asked by GET.
        ("GET", "/graphql?query={version}", {}, 405),
        ("GET", "/graphql?query=mutation{x}", LINK, 405),
        ("GET", "/%67raphql?query={version}", {}, 405),
        ("GET", "/graphql?%71uery={version}", {"accept": "text/html"}, 405),
        ("HEAD", "/graphql?query={version}", {}, 405),
        # What a form can send, or a page without being asked whether it may.
        ("POST", "/graphql", {"content-type": "text/plain"}, 415),
        ("POST", "/graphql", {"content-type": "text/plain; application/json"}, 415),
        ("POST", "/graphql", {"content-type": "application/jsonp"}, 415),
        ("POST", "/graphql", {"content-type": "application/graphql"}, 415),
        ("POST", "/graphql?query={version}", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/graphql?query={version}", {"content-type": "multipart/form-data; boundary=x"}, 415),
        ("POST", "/graphql?query={version}", {}, 415),
        ("POST", "/report_asset_materialization/core/items", {}, 415),
        ("PUT", "/graphql", JSON, 405),
        ("OPTIONS", "/graphql", {}, 405),
    ],
)
def test_refused(client: TestClient, method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = client.request(method, path, headers=headers, content=QUERY if method == "POST" else None)
    assert answer.status_code == status
    if method != "HEAD":
        assert answer.text.startswith("refused: ")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_two_names_at_once(client: TestClient) -> None:
    assert client.get("/", headers=[("host", OWN), ("host", "evil.example")]).status_code == 403
    origins = [("origin", f"http://{OWN}"), ("origin", "http://evil.example")]
    assert client.get("/", headers=origins).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"origin": f"http://{OWN}"}])
def test_web_sockets_of_its_own_pages(client: TestClient, headers: dict[str, str]) -> None:
    with client.websocket_connect(f"ws://{OWN}/graphql", headers={"host": OWN} | SUBSCRIPTION | headers) as opened:
        opened.send_json({"type": "connection_init"})
        assert opened.receive_json() == {"type": "connection_ack"}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8888"},
        {"origin": "null"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_web_sockets_of_others(client: TestClient, headers: dict[str, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"ws://{OWN}/graphql", headers={"host": OWN} | SUBSCRIPTION | headers),
    ):
        pass


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/server_info", 200), ("/logs/run/none.out", 404)])
def test_no_answer_is_framed_or_guessed_at(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    policies = answer.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policies[-1]
    assert "img-src 'self' data: blob:" in policies[-1]
    assert len(policies) == (2 if path == "/" else 1), "Dagster's own stays"
