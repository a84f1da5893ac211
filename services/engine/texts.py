"""Decimal strings of a market <-> ticks, lots and units, remembered. Compiled with the core."""

from __future__ import annotations

from typing import Final

from kernel.markets import Market
from kernel.reasons import Reason, Refused

_CACHE_MAX: Final = 50_000


class MarketText:
    """Decimal strings of one market <-> ticks and lots.

    The same few prices and sizes come again and again; a look-up costs a twentieth of parsing.
    """

    __slots__ = (
        "_amounts_text",
        "_lots",
        "_lots_text",
        "_ticks",
        "_ticks_text",
        "market",
        "name",
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self.name: str = market.name
        self._ticks: dict[str, int] = {}
        self._lots: dict[str, int] = {}
        self._ticks_text: dict[int, str] = {}
        self._lots_text: dict[int, str] = {}
        self._amounts_text: dict[int, str] = {}

    def ticks(self, text: str, field: str) -> int:
        """Price -> ticks, 0 for empty text. Raises `Refused`, also for a price of zero."""
        if not text:
            return 0
        ticks = self._ticks.get(text)
        if ticks is None:
            ticks = self.market.parse_price(text, field=field)
            if ticks == 0:
                # 0 means "none" from here on, and nobody who wrote a price meant that.
                raise Refused(Reason.PRICE_OUT_OF_RANGE, "must be above zero", field=field)
            if len(self._ticks) >= _CACHE_MAX:
                self._ticks.clear()
            self._ticks[text] = ticks
        return ticks

    def lots(self, text: str, field: str) -> int:
        """Quantity -> lots, 0 for empty text. Raises `Refused`, also for a quantity of zero."""
        if not text:
            return 0
        lots = self._lots.get(text)
        if lots is None:
            lots = self.market.parse_quantity(text, field=field)
            if lots == 0:
                raise Refused(Reason.QUANTITY_TOO_SMALL, "must be above zero", field=field)
            if len(self._lots) >= _CACHE_MAX:
                self._lots.clear()
            self._lots[text] = lots
        return lots

    def price(self, ticks: int) -> str:
        """Ticks -> price; empty for 0, which stands for none."""
        text = self._ticks_text.get(ticks)
        if text is None:
            text = self.market.format_price(ticks) if ticks else ""
            _remember(self._ticks_text, ticks, text)
        return text

    def quantity(self, lots: int) -> str:
        """Lots -> quantity."""
        text = self._lots_text.get(lots)
        if text is None:
            text = self.market.format_quantity(lots)
            _remember(self._lots_text, lots, text)
        return text

    def amount(self, units: int) -> str:
        """Units of the quote asset -> amount."""
        text = self._amounts_text.get(units)
        if text is None:
            text = self.market.quote.format(units)
            _remember(self._amounts_text, units, text)
        return text


def _remember(texts: dict[int, str], number: int, text: str) -> None:
    if len(texts) >= _CACHE_MAX:
        texts.clear()
    texts[number] = text
