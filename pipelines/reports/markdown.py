"""Text from outside in the Markdown of Dagster's UI: it must not become a picture, a link or HTML."""

import re

from mmm4rec.printable import visible

__all__ = ["code"]


def code(text: object) -> str:
    """`text` as a code span on one line: nothing in a code span becomes a link, a picture, an address or HTML.

    Backslashes would not be enough: they are removed before addresses become links.
    """
    line = " ".join(visible(str(text)).split()) or "–"
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"
