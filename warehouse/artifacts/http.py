"""What web servers say, understood alike by all that fetch: raw files and pictures."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["is_temporary", "retry_after"]


def is_temporary(status: int) -> bool:
    """Whether a refusal may be over when the same is asked again: too early, too often, or the server's own fault."""
    return status in (408, 425, 429) or status >= 500


def retry_after(header: str | None, longest: float) -> float:
    """Seconds that a server asks to be left alone by its header Retry-After, from 0 to `longest`.

    It names them, or a date. 0 where the header is absent or is neither.
    """
    text = (header or "").strip()
    try:
        seconds = float(text[:9]) if text.isdecimal() else _until(text)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), longest)


def _until(date: str) -> float:
    """Seconds from now to an HTTP date; one without a zone is of UTC."""
    found = parsedate_to_datetime(date)
    return (found.replace(tzinfo=found.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
