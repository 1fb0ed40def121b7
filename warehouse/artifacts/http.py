"""The replies of web servers, interpreted in the same way for raw files and pictures."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["is_temporary", "retry_after"]


def is_temporary(status: int) -> bool:
    """Whether a later retry may succeed: the request was too early or too frequent, or the server had an error."""
    return status in (408, 425, 429) or status >= 500


def retry_after(header: str | None, longest: float) -> float:
    """The waiting time in seconds from the header Retry-After, from 0 to `longest`.

    The header contains seconds or a date. The result is 0 if the header is absent or invalid.
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
