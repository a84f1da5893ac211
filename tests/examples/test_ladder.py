"""Where the liquidity bot puts its orders."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from examples.ladder import BUY, OFFSETS_BPS, SELL, Ladder, Rules, Slot

BTC = Rules("BTC_USDC", "BTC", "USDC", Decimal("0.01"), Decimal("0.00001"), Decimal(1))
DOGE = Rules("DOGE_USDC", "DOGE", "USDC", Decimal("0.00001"), Decimal(1), Decimal(1))
FUNDS = Decimal(10_000)


def requote(ladder: Ladder, price: str, *, funds: Decimal = FUNDS) -> tuple[int, int]:
    """Apply what the ladder asks for; returns how many orders were cancelled and placed."""
    changes = ladder.changes(Decimal(price), bid_funds=funds, ask_funds=funds, rng=random.Random(1))
    for slot in changes.cancel:
        del ladder.quotes[slot]
    ladder.quotes.update(changes.place)
    return len(changes.cancel), len(changes.place)


@pytest.mark.parametrize(("rules", "price"), [(BTC, "64000.01"), (DOGE, "0.12471")])
def test_a_new_ladder_has_every_level_on_both_sides_on_ticks_and_lots_within_its_funds(
    rules: Rules, price: str
) -> None:
    ladder = Ladder(rules)
    assert requote(ladder, price) == (0, 2 * len(OFFSETS_BPS))
    for side in (BUY, SELL):
        quotes = [ladder.quotes[Slot(side, level)] for level in range(len(OFFSETS_BPS))]
        assert sum(quote.price * quote.quantity for quote in quotes) <= FUNDS
        for quote in quotes:
            assert quote.price % rules.tick == 0
            assert quote.quantity % rules.lot == 0
            assert (quote.price < Decimal(price)) == (side == BUY)
        prices = [quote.price for quote in quotes]
        assert prices == sorted(prices, reverse=side == BUY)


def test_a_price_that_hardly_moved_moves_nothing() -> None:
    ladder = Ladder(BTC)
    requote(ladder, "64000")
    assert requote(ladder, "64001") == (0, 0)


def test_a_small_move_moves_the_near_levels_only() -> None:
    ladder = Ladder(BTC)
    requote(ladder, "64000")
    far = ladder.quotes[Slot(BUY, len(OFFSETS_BPS) - 1)]
    cancelled, placed = requote(ladder, "64016")  # 2.5 basis points
    assert 0 < cancelled == placed < 2 * len(OFFSETS_BPS)
    assert ladder.quotes[Slot(BUY, len(OFFSETS_BPS) - 1)] is far


def test_a_large_move_moves_everything() -> None:
    ladder = Ladder(BTC)
    requote(ladder, "64000")
    assert requote(ladder, "65000") == (2 * len(OFFSETS_BPS), 2 * len(OFFSETS_BPS))


def test_a_level_that_was_traded_comes_back() -> None:
    ladder = Ladder(BTC)
    requote(ladder, "64000")
    del ladder.quotes[Slot(SELL, 0)]
    assert requote(ladder, "64000") == (0, 1)


def test_nothing_is_placed_below_the_smallest_notional() -> None:
    ladder = Ladder(BTC)
    assert requote(ladder, "64000", funds=Decimal(3)) == (0, 0)
    assert BTC.quantity_for(Decimal("0.99"), Decimal(64_000)) == 0


def test_the_same_seed_gives_the_same_ladder() -> None:
    first, second = Ladder(BTC), Ladder(BTC)
    requote(first, "64000")
    requote(second, "64000")
    assert first == second
