"""Item text: the sentences that an encoder reads for an item. The encoder does the tokenisation."""

import hashlib
import html
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from features.parquet import read_catalogue, write_table
from features.tables import ITEM_TEXT

_SCRIPT = "getTime"
"""A title that contains this is script code of the web page, `var pageStart = (new Date()).getTime() ...`. The
published notebook for the 2018 data (https://nijianmo.github.io/amazon/) uses the same filter and drops such rows."""
_TAG = re.compile(r"<[^<>]*>|<[a-zA-Z/!][^<>]*$")


@dataclass(frozen=True)
class ItemTextSummary:
    """How many items have text, and how many have none."""

    items: int
    present: int
    missing: int
    script_titles: int
    """Items whose title is script code of a web page; the title is in neither text."""


def is_script(title: str | None) -> bool:
    """Whether a title is script code of a web page."""
    return title is not None and _SCRIPT in title


def _clean(text: str | None) -> str:
    """Plain text on one line, without tags (also one that is cut off at the end), entities and control characters."""
    plain = unicodedata.normalize("NFC", html.unescape(_TAG.sub(" ", text or "")))
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def item_texts(
    title: str | None, title_raw: str | None, brand: str | None, description: str | None
) -> tuple[str, str] | None:
    """Both texts of an item, or None for an item without any text.

    The published form is the template of the published recipe over the unchanged fields, including empty ones:
    ``Title: ... ; Brand: ... ; Description: ... ; ``. The clean form, for the default encoder, is what a person would
    read: title, brand (unless the title names it) and description, as sentences without markup. So a short query
    matches a title with the same words. Neither form contains a title that is script code.
    """
    if is_script(title) or is_script(title_raw):
        title = title_raw = None
    clean_title, clean_brand, clean_description = _clean(title), _clean(brand), _clean(description)
    if clean_brand and re.search(rf"(?<!\w){re.escape(clean_brand)}(?!\w)", clean_title, re.IGNORECASE):
        clean_brand = ""
    parts = [part.rstrip(" .") for part in (clean_title, clean_brand, clean_description)]
    clean = ". ".join(part for part in parts if part)
    if not clean:
        return None
    raw = title if title_raw is None else title_raw
    published = f"Title: {raw or ''} ; Brand: {brand or ''} ; Description: {description or ''} ; "
    return published, clean


def content_sha256(text: str) -> str:
    """The sha256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def build_item_text(items_parquet: Path, sequence_items_parquet: Path, out: Path) -> ItemTextSummary:
    """Write item_text.parquet (:data:`features.tables.ITEM_TEXT`) for the items of core/sequences.

    Raises:
        FeatureError: an input cannot be read.
    """
    catalogue = read_catalogue(items_parquet, sequence_items_parquet, ["title", "title_raw", "brand", "description"])
    texts = [
        item_texts(*fields) for fields in zip(*(column.to_pylist() for column in catalogue.columns[1:]), strict=True)
    ]
    columns = {
        "item_id": catalogue["item_id"],
        "text": [both and both[0] for both in texts],
        "text_clean": [both and both[1] for both in texts],
        "content_sha256": [both and content_sha256(both[1]) for both in texts],
        "present": [both is not None for both in texts],
    }
    write_table(pa.table(columns, schema=ITEM_TEXT), out / "item_text.parquet", ITEM_TEXT)
    present = sum(both is not None for both in texts)
    titles = zip(catalogue["title"].to_pylist(), catalogue["title_raw"].to_pylist(), strict=True)
    scripts = sum(any(map(is_script, both)) for both in titles)
    return ItemTextSummary(len(texts), present, len(texts) - present, scripts)
