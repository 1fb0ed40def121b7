import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.pictures import fingerprint
from features.pictures.decode import PictureError, decode, measure
from features.pictures.fingerprint import image_fingerprint
from features.pictures.item_images import STATUSES, collect_images
from features.pictures.shards import Place, read_bytes, read_shards
from features.pictures.sources import read_source
from features.settings import Fetching
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


def webp(side: int) -> bytes:
    """A lossless WebP whose header promises side x side pixels."""
    header = b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little") + bytes(11)
    return b"RIFF" + struct.pack("<I", 12 + len(header)) + b"WEBPVP8L" + struct.pack("<I", len(header)) + header


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A grey TIFF of 20 x 20 pixels, with these entries (tag, type, count, value) in its directory."""
    usual = [(256, 4, 1, 20), (257, 4, 1, 20), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1), (277, 4, 1, 1)]
    entries = (*usual, *entries)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(500)


def many_scans() -> bytes:
    """A progressive JPEG that says its last scan 100 times more."""
    data = png("red", (200, 200), format="JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 100 * last + data[-2:]


GOOD = {
    "cmyk": (png((0, 255, 255, 0), mode="CMYK", format="JPEG"), (255, 0, 0)),
    "16-bit": (grey16(), (128, 128, 128)),
    "animated": (animation(), (255, 0, 0)),
    "transparent": (png((255, 0, 0, 0), mode="RGBA"), (255, 255, 255)),
    "grey-alpha": (png((0, 255), mode="LA"), (0, 0, 0)),
    "bilevel": (png(1, mode="1"), (255, 255, 255)),
    "tiff": (png("blue", format="TIFF"), (0, 0, 255)),
    "webp": (png("lime", format="WEBP", lossless=True), (0, 255, 0)),
    "avif": (png("blue", format="AVIF", quality=100), (0, 0, 255)),
    "unended-jpeg": (png("red", (200, 200), format="JPEG")[:-2], (254, 0, 0)),
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
    "webp bomb": (webp(4000), "too_large"),
    "jpeg of many scans": (many_scans(), "too_large"),
    "tiff of many strips": (tiff((273, 4, 70_000, 8)), "too_large"),
    "tiff of many tiles": (tiff((324, 4, 70_000, 8), (322, 4, 1, 1), (323, 4, 1, 1)), "too_large"),
    "tiff of a huge tile": (tiff((324, 4, 1, 200), (322, 3, 1, 16_384), (323, 4, 1, 16_384)), "too_large"),
    "big tiff": (b"II\x2b\0" + bytes(100), "not_an_image"),
    "tiff cut off": (b"II*\0\x08\0\0\0\xff\xff", "not_an_image"),
}


@pytest.mark.parametrize("name", GOOD)
def test_measuring_agrees_with_decoding(name: str) -> None:
    data, _ = GOOD[name]
    assert measure(data) == decode(data).size


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
def test_measuring_finds_the_same_faults(name: str) -> None:
    data, status = BAD[name]
    for judge in (measure, decode):
        with pytest.raises(PictureError) as problem:
            judge(data)
        assert problem.value.status == status


@pytest.mark.parametrize("how", [{}, {"optimize": True}, {"progressive": True}, {"subsampling": 0, "quality": 100}])
def test_a_jpeg_is_whole_without_its_end_marker_and_broken_without_more(how: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **how)
    data = buffer.getvalue()
    assert np.array_equal(decode(data[:-2]), decode(data))
    assert measure(data[:-2]) == (70, 60)
    for missing in (30, 200, len(data) // 4):
        for judge in (measure, decode):
            with pytest.raises(PictureError, match="broken: JPEG: image file is truncated"):
                judge(data[:-missing])


@pytest.mark.parametrize("name", GOOD)
def test_every_mode_becomes_rgb(name: str) -> None:
    data, colour = GOOD[name]
    picture = decode(data)
    assert picture.mode == "RGB"
    assert all(abs(a - b) <= 2 for a, b in zip(picture.getpixel((5, 5)), colour, strict=True))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK", "L"])
def test_a_picture_converted_in_bands_is_that_converted_whole(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 9, 4), np.uint8)
    picture = Image.fromarray(noise, "RGBA").convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    if mode == "P":
        picture.info["transparency"] = 7
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    picture = Image.open(buffer)
    whole = picture.convert("RGB")
    if mode == "I;16":
        whole = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    elif mode in ("RGBA", "LA", "P"):
        layer = picture.convert("RGBA")
        whole = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert decode(buffer.getvalue()).tobytes() == whole.tobytes()


def test_decoding_holds_two_copies_of_a_picture_at_most() -> None:
    """In a process of its own, as the highest memory use of a process never falls."""
    script = """
import io
from PIL import Image
from features.pictures.decode import decode

def highest():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

buffer = io.BytesIO()
exif = Image.Exif()
exif[0x0112] = 6
Image.new("RGBA", (2000, 2000), (255, 0, 0, 128)).save(buffer, "PNG", compress_level=1, exif=exif)
before = highest()  # with the picture itself, which is freed
decode(buffer.getvalue())
print(highest() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    one_copy = 2000 * 2000 * 4 / 1024
    assert int(done.stdout) < 1.5 * one_copy


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind: str) -> None:
    """Whatever EXIF says, the red corner comes out at the top left."""
    upright = Image.new("RGB", (40, 64))
    upright.paste("red", (0, 0, 16, 16))
    turned = Image.Transpose
    stored = [  # as a camera stores it that says 1, 2 ... 8
        None, turned.FLIP_LEFT_RIGHT, turned.ROTATE_180, turned.FLIP_TOP_BOTTOM,
        turned.TRANSPOSE, turned.ROTATE_90, turned.TRANSVERSE, turned.ROTATE_270,
    ]  # fmt: skip
    for orientation, turn in enumerate(stored, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        (upright if turn is None else upright.transpose(turn)).save(buffer, kind, exif=exif)
        found = decode(buffer.getvalue())
        assert found.size == (40, 64) == measure(buffer.getvalue()), orientation
        assert found.getpixel((4, 4))[0] > 200 > found.getpixel((35, 60))[0], orientation


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_orientation_does_not_cost_the_picture() -> None:
    data = turned()
    start = data.index(b"Exif\0\0") + 6
    for where, length in ((0, 8), (8, 14)):  # its header, its first entries
        damaged = bytearray(data)
        damaged[start + where : start + where + length] = b"\xff" * length
        assert decode(bytes(damaged)).size == measure(bytes(damaged)) == (40, 60)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
# Long, because it is one catalogue, and what is said of every kind of item in it.
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
        "data:image/png;base64,iVBORw0KGgo=": "refused",
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
    assert "it contains the picture itself (data:)" in rows["data:image/png;base64,iVBORw0KGgo="]["detail"]
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


def test_hashes_of_files_are_remembered_and_no_change_is_missed(catalogue, folder, tmp_path, monkeypatch) -> None:
    root, cache = folder("root"), folder("cache")
    names = ["a.png", "b.png", "sub/../c.png", str(root / "d.png"), (root / "e.png").as_uri()]
    for n, name in enumerate("abcde"):
        (root / f"{name}.png").write_bytes(png((n, n, n)))
    folder("root/sub")
    paths = catalogue([{"item_id": name, "image_urls": [name, "missing.png"]} for name in names])
    read: list[str] = []

    def counted(url: str, *more: Any) -> bytes:
        read.append(url)
        return read_source(url, *more)

    def mark() -> str:
        read.clear()
        found = image_fingerprint(*paths, root, cache)
        assert found == image_fingerprint(*paths, root)  # with nothing remembered
        return found

    monkeypatch.setattr(fingerprint, "read_source", counted)
    first = mark()
    assert mark() == first
    assert read.count("a.png") == 2  # written just now: it could change again without its times telling
    monkeypatch.setattr(fingerprint._FileHashes, "_SETTLED", -1)
    assert mark() == first
    assert mark() == first
    assert read.count("a.png") == read.count("sub/../c.png") == read.count(names[3]) == 1  # by the one without a cache
    assert read.count(names[4]) == 2

    marks = {first}
    before = (root / "a.png").stat()
    same_size = bytearray((root / "a.png").read_bytes())
    same_size[-1] ^= 1
    (root / "a.png").write_bytes(same_size)  # the same inode, size and time
    os.utime(root / "a.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    marks.add(mark())
    (root / "b.png").unlink()
    marks.add(mark())
    (root / "missing.png").write_bytes(png())
    marks.add(mark())
    assert len(marks) == 4
    remembered = next(cache.glob("files-*.parquet"))
    for damage in (b"", b"PAR1" * 9, remembered.read_bytes()[:-9]):
        remembered.write_bytes(damage)
        assert mark() in marks


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
