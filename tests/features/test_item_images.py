import io
import os
import struct
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.download import Fetching
from features.item_images import STATUSES, collect_images, image_fingerprint
from features.pictures import decode
from features.shards import Place, read_bytes, read_shards
from tests.features.conftest import png


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels, in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("P", (20, 20), colour) for colour in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def grey16() -> bytes:
    buffer = io.BytesIO()
    Image.new("I;16", (20, 20), 0x8000).save(buffer, "PNG")
    return buffer.getvalue()


def turned() -> bytes:
    """A 40x60 JPEG whose EXIF says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return png("red", format="JPEG", exif=exif)


GOOD = {
    "cmyk": (png((0, 255, 255, 0), mode="CMYK", format="JPEG"), (255, 0, 0)),
    "16-bit": (grey16(), (128, 128, 128)),
    "animated": (animation(), (255, 0, 0)),
    "transparent": (png((255, 0, 0, 0), mode="RGBA"), (255, 255, 255)),
    "grey-alpha": (png((0, 255), mode="LA"), (0, 0, 0)),
    "bilevel": (png(1, mode="1"), (255, 255, 255)),
    "tiff": (png("blue", format="TIFF"), (0, 0, 255)),
    "webp": (png("lime", format="WEBP", lossless=True), (0, 255, 0)),
}
BAD = {
    "html": (b"<html><body>404 not found</body></html>", "not_an_image"),
    "empty": (b"", "not_an_image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n", "not_an_image"),
    "truncated jpeg": (png("red", (200, 200), format="JPEG")[:-100], "broken"),
    "truncated png": (png("red", (200, 200))[:-30], "broken"),
    "bomb": (bomb(10_000), "too_large"),
    "huge bomb": (bomb(60_000), "too_large"),
    "one pixel": (png(size=(1, 1)), "too_small"),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_mode_becomes_rgb(name: str) -> None:
    data, colour = GOOD[name]
    picture = decode(data)
    assert picture.mode == "RGB"
    assert all(abs(a - b) <= 2 for a, b in zip(picture.getpixel((5, 5)), colour, strict=True))


def test_orientation_is_applied() -> None:
    assert decode(turned()).size == (60, 40)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_item_gets_its_status(catalogue, folder) -> None:
    root, out = folder("images"), folder("out")
    for name, (data, _) in (GOOD | BAD).items():
        (root / f"{name}.jpg").write_bytes(data)
    (root / "big.jpg").write_bytes(png() + b"\0" * 33 * 2**20)
    (root / "a folder").mkdir()
    os.mkfifo(root / "pipe.jpg")
    outside = folder("secret") / "x.png"
    outside.write_bytes(png())
    (root / "escape.png").symlink_to(outside)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "inside.png").symlink_to(root / "webp.jpg")
    (folder("images-twin") / "x.png").write_bytes(png())
    wanted = dict.fromkeys(GOOD, "ok") | {name: status for name, (_, status) in BAD.items()}
    urls = {name: [f"{name}.jpg"] for name in wanted}
    for url, status in {
        "big.jpg": "too_large",
        "a folder": "unreachable",
        "pipe.jpg": "unreachable",
        "missing.jpg": "unreachable",
        "nul\0.jpg": "unreachable",
        "x" * 5000: "unreachable",
        "escape.png": "refused",
        "loop.png": "unreachable",
        "inside.png": "ok",
        "../secret/x.png": "refused",
        "../images-twin/x.png": "refused",
        "../images/webp.jpg": "ok",
        str(outside): "refused",
        outside.as_uri(): "refused",
        (root / "grey-alpha.jpg").as_uri(): "ok",
        f"file:///{root}/%2e%2e/secret/x.png": "refused",
        "file://elsewhere/x.png": "refused",
        "http://example.com/x.jpg": "unreachable",
        "pipe:touch pwned": "unreachable",
        "ftp://example.com/x.jpg": "refused",
    }.items():
        wanted[url.replace("\0", "0")] = status
        urls[url.replace("\0", "0")] = [url]
    wanted |= {"none": "no_url", "null": "no_url", "fallback": "ok", "hopeless": "not_an_image"}
    urls |= {
        "none": [],
        "null": None,
        "fallback": ["html.jpg", "webp.jpg"],
        "hopeless": ["html.jpg", "bomb.jpg"],
    }
    paths = catalogue([{"item_id": name, "image_urls": urls[name]} for name in wanted])
    seen = []
    summary = collect_images(
        *paths, root, out, fetching=Fetching(http=False), progress=lambda done, total: seen.append((done, total))
    )

    rows = {row["item_id"]: row for row in pq.read_table(out / "item_images.parquet").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == wanted
    assert set(wanted.values()) <= set(STATUSES)
    assert rows["http://example.com/x.jpg"]["detail"].endswith("http fetching is off")
    assert rows["fallback"]["url"] == "webp.jpg"
    assert "html.jpg: not_an_image" in rows["fallback"]["detail"]
    assert "bomb.jpg: too_large" in rows["hopeless"]["detail"]
    assert summary.items == len(wanted) == sum(summary.statuses.values())
    assert summary.fallbacks == 1
    assert seen[-1] == (len(wanted), len(wanted))
    samples = {sample.item_id: sample.data for sample in read_shards(out)}
    assert samples.keys() == {name for name, status in wanted.items() if status == "ok"}
    for item_id, data in samples.items():
        row = rows[item_id]
        assert read_bytes(out, Place(row["shard"], row["offset"]), row["bytes"]) == data
        assert decode(data).size == (row["width"], row["height"])
    assert not Path("pwned").exists()


def test_without_an_image_root_nothing_is_reachable(catalogue, folder) -> None:
    out = folder("out")
    summary = collect_images(*catalogue([{"item_id": "a", "image_urls": ["/etc/passwd"]}]), None, out)
    assert summary.statuses == {"unreachable": 1}
    assert summary.shards == 0


def test_fingerprint_follows_the_content(catalogue, folder) -> None:
    root = folder("root")
    (root / "a.png").write_bytes(png("red"))
    paths = catalogue([{"item_id": "a", "image_urls": ["a.png", "b.png", "http://x/c.png"]}])
    first = image_fingerprint(*paths, root)
    assert first == image_fingerprint(*paths, root)
    (root / "b.png").write_bytes(png("blue"))
    second = image_fingerprint(*paths, root)
    (root / "a.png").write_bytes(png("pink"))
    assert len({first, second, image_fingerprint(*paths, root), image_fingerprint(*paths, None)}) == 4


def test_posters_go_through(shared: Path, catalogue, folder) -> None:
    movies = shared / "data" / "movies"
    names = [f"images/Movies_Source/{path.name}" for path in (movies / "images/Movies_Source").iterdir()]
    paths = catalogue([{"item_id": Path(name).stem, "image_urls": [name]} for name in names])
    out, again = folder("out"), folder("again")
    summary = collect_images(*paths, movies, out, shard_bytes=2**20)
    assert summary.statuses == {"ok": 834}
    samples = list(read_shards(out))
    assert [sample.item_id for sample in samples] == sorted(Path(name).stem for name in names)
    assert all(sample.data == (movies / sample.meta["url"]).read_bytes() for sample in samples)
    collect_images(*paths, movies, again, shard_bytes=2**20)
    files = sorted(path.name for path in out.iterdir())
    assert len(files) == 1 + summary.shards > 3
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert all((out / name).stat().st_size <= 2**20 + 10_240 for name in files)
