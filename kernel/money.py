"""Exact money: decimal strings outside, integers inside, one conversion in between.

An amount is a count of the asset's smallest unit (`10 ** -decimals`), a price a count of ticks, a
quantity a count of lots. No float is ever involved.
"""

from __future__ import annotations

import re

from kernel.reasons import Reason, Refused

# Plain decimals only: no sign, exponent, spaces, underscores or digits of other scripts.
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,18})?", re.ASCII)
INT64_MAX = (1 << 63) - 1


def parse_units(text: str, decimals: int, *, field: str = "") -> int:
    """`"1.5"` with 8 decimals -> `150000000`.

    Raises `Refused(INVALID_ARGUMENT)` unless `text` is a plain non-negative decimal that is a whole
    number of units and fits an int64.
    """
    if not _DECIMAL.fullmatch(text):
        raise Refused(
            Reason.INVALID_ARGUMENT, "must be a plain decimal number such as 12.5", field=field
        )
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > decimals:
        raise Refused(
            Reason.AMOUNT_TOO_PRECISE,
            f"has more than {decimals} decimals",
            field=field,
            max_decimals=decimals,
        )
    units = int(whole + fraction.ljust(decimals, "0"))
    if units > INT64_MAX:
        raise Refused(Reason.INVALID_ARGUMENT, "is too large", field=field)
    return units


def format_units(units: int, decimals: int) -> str:
    """`150000000` with 8 decimals -> `"1.5"`. Trailing zeros are cut; the sign is kept."""
    if units < 0:
        return "-" + format_units(-units, decimals)
    digits = str(units)
    if decimals == 0 or units == 0:
        return digits
    digits = digits.rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0").rstrip(".")


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer division rounded towards plus infinity (`denominator > 0`)."""
    return -(-numerator // denominator)
