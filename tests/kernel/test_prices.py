"""Mark prices: medians of what is known, in whole numbers."""

from __future__ import annotations

import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.prices import mark_price, median_price, mid_price


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ((), 0),
        ((0, 0), 0),
        ((0, 7, 0), 7),
        ((100, 101), 100),
        ((101, 0, 100), 100),
        ((105, 90, 100), 100),
        ((1, 2, 3, 4), 2),
    ],
)
def test_the_median_of_what_is_known_rounds_down(prices: tuple[int, ...], expected: int) -> None:
    assert median_price(prices) == expected


@given(st.lists(st.integers(1, 10**12), min_size=1), st.integers(0, 3))
def test_the_median_is_the_textbooks_and_zeros_do_not_count(prices: list[int], zeros: int) -> None:
    exact = statistics.median(Fraction(price) for price in prices)
    assert median_price([0] * zeros + prices) == exact // 1


def test_a_book_with_an_empty_side_has_no_middle() -> None:
    assert (mid_price(0, 10), mid_price(10, 0), mid_price(10, 13)) == (0, 0, 11)


def test_one_bad_input_of_three_does_not_move_the_mark() -> None:
    # A wick in our own book: the last trade alone says 50.
    assert mark_price(100, 101, 103, 50) == 100
    # A feed that has gone: only our own two prices count.
    assert mark_price(0, 101, 103, 101) == 101
    # Nothing but the feed, as before the first order.
    assert mark_price(100, 0, 0, 0) == 100
