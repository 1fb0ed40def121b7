"""Text from outside in the Markdown that Dagster's UI draws: no picture, link or HTML of a stranger may come of it."""

import re

from mmm4rec.printable import visible

__all__ = ["code"]


def code(text: object) -> str:
    """`text` as a code span on one line: nothing within one is a link, a picture, an address or HTML.

    Backslashes would not do: addresses are made links after they are taken away.
    """
    line = " ".join(visible(str(text)).split()) or "–"
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"
