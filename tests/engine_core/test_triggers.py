"""The index of trigger prices against a list that is searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.engine.domain.triggers import Triggers

IDS = st.integers(1, 12)
PRICES = st.integers(1, 20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), IDS, PRICES),
        st.tuples(st.just("drop"), IDS, st.just(0)),
        st.tuples(st.just("reach"), st.just(0), PRICES),
    ),
    max_size=200,
)


@given(steps=STEPS, falling=st.booleans())
def test_a_price_finds_what_it_reaches_in_order(
    steps: list[tuple[str, int, int]], falling: bool
) -> None:
    triggers = Triggers(falling=falling)
    known: dict[int, int] = {}
    for what, trigger_id, price in steps:
        if what == "set":
            triggers.set(trigger_id, price)
            known[trigger_id] = price
        elif what == "drop":
            triggers.drop(trigger_id)
            known.pop(trigger_id, None)
        else:
            sign = -1 if falling else 1
            reached = sorted((at * sign, i) for i, at in known.items() if at * sign <= price * sign)
            for _, expected in reached:
                assert triggers.first_reached(price) == expected
                triggers.drop(expected)
                del known[expected]
            assert triggers.first_reached(price) == 0
        assert len(triggers) == len(known)


def test_moving_a_trigger_again_and_again_takes_no_more_room() -> None:
    triggers = Triggers(falling=False)
    for price in range(1, 10_000):
        triggers.set(1, price)
    assert len(triggers._heap) <= 66
    assert triggers.first_reached(9_998) == 0
    assert triggers.first_reached(9_999) == 1
