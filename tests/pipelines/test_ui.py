"""Dagster's UI as an engineer uses it: a headless Chromium finds the graph, builds a domain by clicking, and looks.

The README's pictures come from here: `MMM4REC_SCREENSHOTS=docs/images` takes them, over the demo's data in place of the
tiny sample's; MMM4REC_DEMO names a data folder where `make demo` has been run, so that it need not be run again.
"""

import contextlib
import http.client
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import NOT_MADE
from pipelines.planner.step import all_steps
from tests.conftest import REPOSITORY, Cli
from tests.pipelines.served import Served

STEPS = all_steps()

pytestmark = pytest.mark.long

CHROMIUM = shutil.which("chromium")
LAYERS = ["raw", "core", "features", "models", "reports", "warehouse"]
EXPANDED = "expanded=" + ",".join(f"global@global:{layer}" for layer in LAYERS)
"""What the page's address says when all groups are open."""
TARGET, SOURCE = "Sample_Toys", "Sample_Kitchen"
PER_DOMAIN = {key for key, step in STEPS.items() if step.per_domain} - {"models/baselines"}  # nobody asked for them
ONE_RUN = 'not (key:"models/pretrained" or group:"warehouse")'
"""What is made per domain, in the language of the UI's filter."""
PATIENCE = 120_000
"""Milliseconds until the browser gives up: a bound for what never comes."""
VOLATILE = re.compile(r"built|.*seconds.*|examples_per_second|encoded|reused|resumed_at")
"""Metadata that says how a build went, not what it made."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go."""
    named = os.environ.get("MMM4REC_SCREENSHOTS")
    return REPOSITORY / named if named else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def data(tiny: Cli, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `mmm4rec run` has built, but one domain, which is as if it had never been."""
    ready = os.environ.get("MMM4REC_DEMO")
    built = tiny
    if "MMM4REC_SCREENSHOTS" in os.environ:
        built = Cli(Path(ready)) if ready else request.getfixturevalue("demo")
    data = tmp_path_factory.mktemp("ui") / "data"
    shutil.copytree(built.data, data)
    for key in PER_DOMAIN:
        shutil.rmtree(DataFolder(data).store.folder(key, TARGET))
    return data


@pytest.fixture(scope="module")
def served(data: Path) -> Iterator[Served]:
    """`mmm4rec ui` over them; what should go on by itself stays off."""
    with Served(data) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; root has no sandbox to offer."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield page
    page.close()


def _graph(page: Page, served: Served, selection: str = "") -> None:
    """The lineage of all assets, or of some."""
    page.goto(f"http://127.0.0.1:{served.port}/asset-groups")
    page.get_by_role("button", name="Materialize all").wait_for()
    if selection:
        page.locator(".CodeMirror").click()
        page.keyboard.type(selection)
        page.keyboard.press("Enter")
        expect(page.get_by_text("warehouse", exact=True)).to_have_count(0)


def _materialise(page: Page, domain: str) -> str:
    """Click until a run of the assets shown has begun; its page is open then."""
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition").click()
    page.get_by_role("menuitem", name=domain).click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("View", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    return page.url.rpartition("/")[2].partition("?")[0]


@pytest.fixture(scope="module")
def run(served: Served, browser: Browser, pictures: Path) -> str:
    """The run that a person starts by clicking and watches until it succeeds; its id."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(PATIENCE)
    _graph(page, served, ONE_RUN)
    run = _materialise(page, TARGET)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=10 * PATIENCE)
    page.wait_for_timeout(1000)  # until the bars have their last lengths
    page.screenshot(path=pictures / "run.png")
    page.close()
    return run


@pytest.mark.soak
@needs_chromium
def test_a_domain_is_built_by_clicking(run: str, data: Path, served: Served) -> None:
    assert served.run(run).status == "SUCCESS"
    assert served.run(run).partition == TARGET
    data_folder = DataFolder(data)
    for key in PER_DOMAIN:
        assert data_folder.store.verify(data_folder.store.require(key, TARGET)) == []


@pytest.mark.soak
@needs_chromium
def test_the_ui_leaves_the_trace_of_the_command_line(run: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(REPOSITORY))
    monkeypatch.setenv("MMM4REC_DAGSTER", str(data / ".dagster"))
    with dg.DagsterInstance.get() as instance:
        for key in PER_DOMAIN:
            asset = dg.AssetKey(key.split("/"))
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[TARGET]), limit=2
            ).records
            assert len(records) == 2, key
            clicked, typed = (record.asset_materialization for record in records)
            assert clicked is not None
            assert typed is not None
            assert records[0].run_id == run
            assert list(clicked.metadata) == list(typed.metadata), key
            if key.split("/")[0] in ("raw", "core", "features"):  # trained on any number of threads, models differ
                assert _lasting(clicked, data) == _lasting(typed, data), key
                assert clicked.tags["dagster/data_version"] == typed.tags["dagster/data_version"]
        runs = {record.run_id for record in instance.get_runs(dg.RunsFilter(tags={"dagster/partition": TARGET}))}
        assert _checks(instance, {run}) == _checks(instance, runs - {run})


def _lasting(event: dg.AssetMaterialization, data: Path) -> dict[str, Any]:
    """The metadata of what was made, wherever the data lie."""
    home = re.compile(r"(file://)?/.*/(?=(raw|core|features)/)")
    return {
        name: home.sub("", str(value.value)) if name in ("path", "dagster/uri") else value
        for name, value in event.metadata.items()
        if not VOLATILE.fullmatch(name)
    }


def _checks(instance: dg.DagsterInstance, runs: set[str]) -> dict[tuple[str, str], bool]:
    """What the checks of some runs said of the target domain's assets."""
    logs = (
        entry.dagster_event.asset_check_evaluation_data
        for run in runs
        for entry in instance.all_logs(run, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if entry.dagster_event
    )
    return {("/".join(found.asset_key.path), found.check_name): found.passed for found in logs}


@pytest.mark.soak
@needs_chromium
def test_a_source_domain_says_what_it_does_not_have(run: str, served: Served) -> None:
    """Everything of a source domain can be asked for: what is for target domains only is left out, and said so."""
    asked = served.launch(SOURCE, "models/scratch", "models/finetuned", "reports/metrics")
    assert served.ended(asked) == "SUCCESS"
    answer = served.ask(
        """
        query ($key: AssetKeyInput!, $partition: String!) {
          assetOrError(assetKey: $key) { ... on Asset { assetMaterializations(limit: 1, partitions: [$partition]) {
            tags { key value } metadataEntries { label ... on TextMetadataEntry { text } }
          } } }
        }
        """,
        key={"path": ["models", "finetuned"]},
        partition=SOURCE,
    )
    (event,) = answer["assetOrError"]["assetMaterializations"]
    assert {"key": "dagster/data_version", "value": NOT_MADE} in event["tags"]
    assert any(f"not made for {SOURCE}" in entry.get("text", "") for entry in event["metadataEntries"])


@needs_chromium
def test_the_graph_reads_from_raw_to_warehouse(page: Page, served: Served) -> None:
    page.set_viewport_size({"width": 2000, "height": 1800})  # what is not in sight is not in the page
    _graph(page, served)
    titles = [page.get_by_text(layer, exact=True).last for layer in LAYERS]
    places = [_left(title) for title in titles]
    assert places == sorted(places)
    # By its address, all groups open; without the warehouse, whose catalogue reads everything.
    shown = quote('not group:"warehouse"')
    page.goto(f"http://127.0.0.1:{served.port}/asset-groups~{shown}?{EXPANDED}")
    for key in STEPS:
        if not key.startswith("warehouse/"):
            expect(page.get_by_text(key.split("/")[1], exact=True).last).to_be_attached()


@needs_chromium
def test_the_home_page_has_the_runs_of_the_command_line(page: Page, served: Served, pictures: Path) -> None:
    page.goto(f"http://127.0.0.1:{served.port}")
    for job in ("one_domain", "all_domains"):
        expect(page.get_by_role("link", name=job)).to_be_visible()
    expect(page.get_by_text("No runs", exact=False)).to_have_count(0)
    page.screenshot(path=pictures / "home.png")


@needs_chromium
@pytest.mark.skipif("MMM4REC_SCREENSHOTS" not in os.environ, reason="MMM4REC_SCREENSHOTS names no folder for pictures")
def test_the_readme_has_pictures(page: Page, served: Served, data: Path, pictures: Path) -> None:
    """To be read where they are shown some 1,000 pixels wide: the graph from top to bottom, the report's beginning."""
    take_graph(page, served.port, pictures / "graph.png")
    take_report(page, DataFolder(data).report, pictures / "report.png")


def take_graph(page: Page, port: int, picture: Path) -> None:
    """The assets of the demo, each with its state, its checks and its kinds."""
    page.set_viewport_size({"width": 3000, "height": 2800})  # so large that no node is drawn in short
    page.add_init_script("""localStorage.setItem("asset-graph-direction", '"vertical"')""")
    # The demo makes no baselines, and the catalogue reads everything.
    shown = quote('not (group:"warehouse" or key:"models/baselines")', safe="")
    page.goto(f"http://127.0.0.1:{port}/asset-groups~{shown}?{EXPANDED}")
    expect(page.get_by_text("partitions", exact=False).first).to_be_visible()
    expect(page.get_by_text("Loading", exact=False)).to_have_count(0)
    page.wait_for_timeout(3000)  # the layout moves
    left, top, right, bottom = page.evaluate("""() => {
        const boxes = [...document.querySelectorAll("svg foreignObject")].map(drawn => drawn.getBoundingClientRect())
        const over = (what, side) => what(...boxes.map(box => box[side]))
        return [over(Math.min, "left"), over(Math.min, "top"), over(Math.max, "right"), over(Math.max, "bottom")]
    }""")
    edge = 16
    clip = {"x": left - edge, "y": top - edge, "width": right - left + 2 * edge, "height": bottom - top + 2 * edge}
    page.screenshot(path=picture, clip=clip)


def take_report(page: Page, report: Path, picture: Path) -> None:
    """The beginning of the page."""
    page.set_viewport_size({"width": 1250, "height": 1200})  # as wide as its table
    page.goto(report.as_uri())
    page.screenshot(path=picture)


def _left(element: Locator) -> float:
    box = element.bounding_box()
    assert box
    return box["x"]


@needs_chromium
@pytest.mark.parametrize(
    ("key", "name", "picture"),
    [
        ("core/sequences", "popularity_plot", "popularity.png"),
        ("models/finetuned", "training_plot", "training.png"),
        ("features/item_images", "sheet", "items.png"),
        ("reports/recommendations", "shelves", "shelves.png"),
    ],
)
def test_what_there_is_to_look_at_is_shown(
    page: Page, served: Served, pictures: Path, key: str, name: str, picture: str
) -> None:
    page.goto(f"http://127.0.0.1:{served.port}/assets/{key}?view=partitions&partition={TARGET}")
    row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
    row.get_by_text("[Show Markdown]").click()
    drawn = page.get_by_role("dialog").locator("img")
    expect(drawn.first).to_be_visible()
    for image in drawn.all():
        assert image.evaluate("image => image.complete && image.naturalWidth") > 300
    page.wait_for_timeout(500)  # the dialog fades in
    page.screenshot(path=pictures / picture)


@needs_chromium
def test_numbers_are_plotted_over_the_domains(page: Page, served: Served, pictures: Path) -> None:
    page.goto(f"http://127.0.0.1:{served.port}/assets/reports/metrics")
    page.get_by_role("button", name="Plots").click()
    page.get_by_text("ndcg_10/popularity").first.scroll_into_view_if_needed()
    expect(page.locator("canvas").first).to_be_attached()
    page.wait_for_timeout(1500)  # the lines grow
    page.screenshot(path=pictures / "plots.png")


def test_the_ui_listens_on_loopback_alone(served: Served) -> None:
    """Bound to 127.0.0.1, it answers at no other address of this machine, the rest of loopback included."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10):
        pass
    for other in {"127.0.0.2", *socket.gethostbyname_ex(socket.gethostname())[2]} - {"127.0.0.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((other, served.port), timeout=10)


MUTATION = 'mutation { wipeAssets(assetPartitionRanges: {assetKey: {path: ["core", "items"]}}) { __typename } }'
WEB_SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


def test_pages_of_others_reach_nothing(served: Served) -> None:
    """The table of what is refused is in test_webserver.py; this is the server as it is started."""
    own, other = {"Origin": f"http://127.0.0.1:{served.port}"}, {"Origin": "http://evil.example"}
    by_get = "/graphql?query=" + quote(MUTATION)
    assert _status(served, by_get, {"Host": "evil.example", **other}) == 403
    assert _status(served, by_get, {}) == 405
    assert _status(served, "/graphql", WEB_SOCKET | other) == 403
    assert _status(served, "/graphql", WEB_SOCKET | own) == 101
    assert _status(served, "/", own) == 200
    assert served.ask(
        '{ assetOrError(assetKey: {path: ["core", "items"]}) { ... on Asset { assetMaterializations { runId } } } }'
    )["assetOrError"]["assetMaterializations"]


def _status(served: Served, path: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
