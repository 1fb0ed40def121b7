"""Picture sheets: as a picture, and as a page that shows what it is given and nothing else."""

import base64
import io
import random
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from features.errors import FeatureError
from features.lookup.search import Hit
from features.lookup.sheets import contact_sheet, write_sheet
from tests.features.conftest import png

EVIL = '<script>alert(1)</script>" onerror="x &amp; \u202e ключ'


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_is_whole_and_shows_titles_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "sheet.html"
    pictures = [png("red", (900, 300)), png("blue", mode="P"), None, b"not a picture"]
    samples = [(Hit(f"{EVIL}{n}", 0.5 + n / 10), f"{EVIL} {n}", data) for n, data in enumerate(pictures)]
    write_sheet(samples, path, f"Toys: {EVIL}")
    page = Page(path)
    assert page.open == []
    assert {tag for tag, _ in page.tags} == {
        *["html", "head", "meta", "title", "style", "body", "h1", "ol", "li", "img", "div", "b", "br", "small"]
    }
    assert [text for text in page.text if text.startswith("0.")] == ["0.500", "0.600", "0.700", "0.800"]
    for n in range(4):
        assert f" {EVIL} {n}" in page.text
        assert f"{EVIL}{n}" in page.text
    assert page.text.count(f"Toys: {EVIL}") == 2
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(set(attributes) == {"alt", "src"} for attributes in images)
    sizes, colours = [], []
    for attributes in images:
        head, data = (attributes["src"] or "").split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            sizes.append(picture.size)
            colours.append(picture.getpixel((5, 5)))
    assert sizes == [(320, 107), (40, 60)]
    assert [max(range(3), key=colour.__getitem__) for colour in colours] == [0, 2]
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not [a for _, a in page.tags if {"href", "srcset", "style"} & set(a)]


def test_a_page_in_a_browser(tmp_path: Path) -> None:
    """Pictures show in their places, and nothing in a title runs."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; the test above reads the page with Python's own parser")
    evil = "<script>document.body.style.background = 'lime'</script><img src=x onerror=\"document.body.remove()\">"
    pictures = [png("red", (200, 200)), None, png("blue", (200, 200))]
    samples = [(Hit(evil, 0.5), evil, data) for data in pictures]
    write_sheet(samples, tmp_path / "a sheet.html", evil)
    shot = tmp_path / "shot.png"
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",  # which root cannot have
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=800,1200",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={shot}",
            (tmp_path / "a sheet.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as opened:
        shown = opened.convert("RGB")
    assert shown.getpixel((5, 1195)) == shown.getpixel((795, 5)) == (255, 255, 255)
    counts = {colour: count for count, colour in shown.getcolors(1 << 24) or []}
    side = 160 * 160
    for bright in ((254, 0, 0), (0, 0, 254)):  # what JPEG makes of red and blue
        assert 0.95 * side < counts[bright] <= side
    assert counts[204, 204, 204] >= 4 * 159  # the empty frame


def test_a_picture_of_anything_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    samples = [
        (Hit("a", 1.0), "a very long label " * 9, png()),
        (Hit("b", 0.5), "", None),
        (Hit("c", 0.25), "x" * 200, b"not a picture"),
        (Hit("d", -0.125), "ключ", png("blue")),
    ]
    for name in ("one.png", "two.PNG"):
        write_sheet(iter(samples), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.PNG").read_bytes()
    with Image.open(tmp_path / "one.png") as sheet:
        assert sheet.getpixel((88, 88)) == (255, 0, 0)
        assert sheet.getpixel((88 + 3 * 168, 88)) == (0, 0, 255)


@pytest.mark.parametrize("name", ["none.png", "none.html"])
def test_a_sheet_of_nothing(name: str, tmp_path: Path) -> None:
    write_sheet([], tmp_path / name)
    assert (tmp_path / name).stat().st_size > 100


def test_a_name_that_says_nothing_and_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"give a name that ends with \.png or \.html"):
        write_sheet([], tmp_path / "sheet.doc")
    for name in ("sheet.png", "sheet.html"):
        with pytest.raises(FeatureError, match="cannot be written"):
            write_sheet([], tmp_path / "nowhere" / name)


def test_a_contact_sheet_gives_up_quality_for_size() -> None:
    """Of noise, which no format makes small."""
    noise = Image.frombytes("RGB", (80, 80), random.Random(0).randbytes(3 * 80 * 80))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    samples = [("noise", buffer.getvalue())] * 6
    fine, small = (contact_sheet(samples, 3, 80, size) for size in (10**6, 20_000))
    assert len(fine) > 20_000 >= len(small)
    assert Image.open(io.BytesIO(small)).size == Image.open(io.BytesIO(fine)).size
