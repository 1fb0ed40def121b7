"""Reads the price of a product: one amount or two, with or without a currency; or gives a reason why it cannot.

The product files come from a shop in the USA, so `$` is USD, and a comma before three digits separates thousands.
Nothing else is guessed: a number that can be read in two ways is left unread. `warehouse.tables` explains the reasons
at the column `price_unread`.
"""

import html
import re
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["Price", "read_price"]

_LONGEST: Final = 64
"""Characters. Longer texts are style sheets and scripts of the web page."""
_MOST: Final = 1e12

_CODES: Final = "USD CAD AUD NZD EUR GBP JPY CNY INR BRL MXN CHF SEK NOK DKK PLN KRW SGD HKD TRY"
_CURRENCIES: Final = {
    **{code: code for code in _CODES.split()},
    **{"$": "USD", "US$": "USD", "C$": "CAD", "CA$": "CAD", "CDN$": "CAD", "A$": "AUD", "AU$": "AUD", "R$": "BRL"},
    **{"€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "₩": "KRW"},
}
_SIGN: Final = r"[^\d\s.,'’(){}<>/+−–—-]{0,4}"
_ONE: Final = rf"([-−]?)\s*({_SIGN})\s*([-−]?)\s*(\d(?:[\d.,'’ ]*\d)?)\s*({_SIGN})"
_PRICE: Final = re.compile(rf"{_ONE}(?:\s*(?:[-–—]|to)\s*{_ONE})?", re.ASCII)
_PLAIN: Final = re.compile(r"[0-9]+([.,][0-9]{1,2})?|0\.[0-9]+|[0-9]+\.[0-9]{4,}")
_GROUPED: Final = re.compile(r"[1-9][0-9]{0,2}(?P<mark>[.,'’ ])[0-9]{3}(?:(?P=mark)[0-9]{3})*(?P<rest>[.,][0-9]{1,2})?")


class Price(NamedTuple):
    """What an item costs: the two ends of a range, or the same amount twice."""

    lowest: float
    highest: float
    currency: str | None
    """ISO 4217; None if the text names no currency."""


def read_price(text: str) -> Price | str | None:
    """The price that a text names; the reason why it cannot be read; None for an empty text.

    The time is linear in the length of the text, whatever the text is.
    """
    text = text.strip()
    return _read(text) if len(text) <= _LONGEST else "no_amount"


@lru_cache(4096)
def _read(text: str) -> Price | str | None:
    """The same as `read_price`, for a text that is not too long."""
    if not text:
        return None
    found = _PRICE.fullmatch(" ".join(html.unescape(text).split()))
    if found is None:
        return "no_amount"
    ends = [part for part in (found.groups()[:5], found.groups()[5:]) if part[3] is not None]
    if any(first or second for first, _, second, _, _ in ends):
        return "negative"
    amounts = [_amount(number) for _, _, _, number, _ in ends]
    signs = {sign for _, before, _, _, after in ends for sign in (before, after) if sign}
    currencies = {_CURRENCIES.get(sign.upper()) for sign in signs}
    if None in currencies:
        return "unknown_currency"
    if len(currencies) > 1:
        return "two_currencies"
    known = [amount for amount in amounts if amount is not None and amount < _MOST]
    if len(known) < len(amounts):
        return "unclear_number"
    return Price(min(known), max(known), next(iter(currencies), None))


def _amount(number: str) -> float | None:
    """The value of a number, whichever mark separates its thousands; None if the number is ambiguous."""
    if _PLAIN.fullmatch(number):
        return float(number.replace(",", "."))
    grouped = _GROUPED.fullmatch(number)
    if grouped is None:
        return None
    mark, rest = grouped["mark"], grouped["rest"] or ""
    whole = number.removesuffix(rest)
    if rest.startswith(mark) or (mark == "." and not rest and whole.count(".") == 1):
        return None
    return float(whole.replace(mark, "") + rest.replace(",", "."))
