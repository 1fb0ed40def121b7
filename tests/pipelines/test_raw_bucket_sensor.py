"""The sensor over raw files in a bucket: it lists, and builds each change once."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan
from pipelines.running import automation, occasions
from tests.pipelines.small import write_settings
from tests.pipelines.test_automation import Daemon, _ended, _taken, daemon, data
from tests.pipelines.test_raw_bucket import Shop
from tests.warehouse.stores import Place, bucket, server

pytestmark = pytest.mark.long

__all__ = ["bucket", "daemon", "data", "server"]


@pytest.fixture
def shop(tmp_path: Path, data: Path, bucket: Place) -> Shop:
    shop = Shop(tmp_path, bucket)
    assert shop.data == data
    shop.put("Toys")
    shop.settings()
    return shop


def test_a_look_lists_and_downloads_nothing(shop: Shop, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation, "requests", lambda *_: occasions.Requested([], []))
    shop.downloads()
    assert _taken(daemon) == []
    for _ in range(3):
        assert daemon.tick(automation.raw_files) == []
        assert daemon.said == "no new or changed raw files"
    assert shop.place.server
    seen = [said.split(" ")[0] for said in shop.place.server.tell()["seen"]]
    assert shop.downloads() == []
    assert len(seen) == 5 * 3, "the raw folder, and two folders in it where the publisher keeps files"


def test_each_change_is_built_once_and_so_is_the_way_back(shop: Shop, daemon: Daemon) -> None:
    names: set[str] = set()

    def tried() -> None:
        (request,) = _taken(daemon)
        names.add(request.tags[occasions.OCCASION_TAG])
        _ended(daemon, request)
        assert _taken(daemon) == []

    tried()
    for generation in (1, 0, 1):
        shop.put("Toys", generation)
        tried()
    write_settings(shop.data, raw_folder=shop.place.address, domains={"Toys": {"k": 4}})
    tried()
    assert len(names) == 5
    shop.put("Toys", 1)  # the same content again: the ETags are what they were
    assert _taken(daemon) == []
    assert daemon.said == "no new or changed raw files"


def test_a_file_that_is_replaced_between_two_looks_waits_for_the_next(shop: Shop, daemon: Daemon) -> None:
    for generation in (0, 1, 2):
        shop.put("Toys", generation)
        assert daemon.tick(automation.raw_files) == []
    assert len(daemon.tick(automation.raw_files)) == 1


def test_a_run_of_the_sensor_builds_what_was_put_there(shop: Shop, daemon: Daemon) -> None:
    (request,) = _taken(daemon)
    assert daemon.perform(request)
    daemon.finish()
    assert plan(DataFolder(shop.data), ["Toys"]) == []
    shop.put("Toys", 1)
    (request,) = _taken(daemon)
    assert daemon.perform(request)
    daemon.finish()
    assert plan(DataFolder(shop.data), ["Toys"]) == []
    assert _taken(daemon) == []


def test_a_bucket_that_does_not_answer_stops_no_tick_for_good(shop: Shop, daemon: Daemon) -> None:
    assert daemon.tick(automation.raw_files) == []
    assert shop.place.server
    cursor: Any = daemon.cursors["raw_files"]
    shop.place.server.tell(faults=[{"kind": 403, "left": 1000}])
    assert daemon.tick(automation.raw_files) == []
    assert "refuses" in daemon.said
    assert daemon.cursors["raw_files"] == cursor
    shop.place.server.tell(faults=[])
    assert len(daemon.tick(automation.raw_files)) == 1
