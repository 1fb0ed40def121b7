"""What web servers say: when to ask again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from warehouse.artifacts.http import is_temporary, retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("soon", 0),
        ("-3", 0),
        ("7", 7),
        (" 7 ", 7),
        ("9" * 400, 60),
        ("Thu, 01 Jan 1970 00:00:00", 0),
    ],
)
def test_seconds_that_a_server_asks_for(header: str | None, seconds: float) -> None:
    assert retry_after(header, longest=60) == seconds


def test_a_date_is_counted_from_now() -> None:
    later = datetime.now(UTC) + timedelta(seconds=40)
    assert 0 < retry_after(format_datetime(later, usegmt=True), longest=60) <= 40
    assert retry_after(format_datetime(later + timedelta(days=1), usegmt=True), longest=60) == 60


def test_which_refusals_may_be_over_soon() -> None:
    assert [status for status in (400, 403, 404, 408, 410, 425, 429, 500, 503) if is_temporary(status)] == [
        *(408, 425, 429, 500, 503)
    ]
