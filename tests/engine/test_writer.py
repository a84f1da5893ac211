"""The single writer on a real log: who waits, who is refused, and who cannot hurt whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from kernel.clock import ManualClock
from kernel.reasons import Reason, Refused
from mesh.config import load_settings
from mesh.redis import open_redis
from mesh.telemetry import SpanRecorder
from ops.embedded import EmbeddedValkey
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.service import Engine
from services.engine.submission import Outcome

ACCOUNT = 7


@pytest_asyncio.fixture
async def engine(short_dir: Path, valkey_server: EmbeddedValkey) -> AsyncIterator[Engine]:
    """An engine without listeners that takes at most 8 waiting commands."""
    settings = load_settings(data_dir=short_dir, redis_url=valkey_server.url, engine_queue_max=8)
    redis = open_redis(settings)
    recorder = SpanRecorder("engine", redis, settings)
    # A clock that stands still: no append is ever slow, so only the queue's limit speaks.
    engine = Engine(settings, redis, recorder, ManualClock(1_700_000_000 * 10**9))
    await engine.start()
    await engine.do("fund", c.Transfer(ACCOUNT, 1, 1, 10**15, k.TRANSFER_KIND_DEPOSIT), events_of)
    yield engine
    await engine.close(5)
    await recorder.close()
    await redis.aclose()


def events_of(events: Sequence[e.Event]) -> Sequence[e.Event]:
    return events


def order(name: str = "") -> c.PlaceOrder:
    return c.PlaceOrder(
        ACCOUNT,
        1,
        name,
        k.SIDE_BUY,
        k.ORDER_TYPE_LIMIT,
        k.TIME_IN_FORCE_GTC,
        10_000,
        10_000,
    )


def place(engine: Engine, name: str = "") -> asyncio.Task[Sequence[e.Event]]:
    return asyncio.create_task(engine.do("place", order(name), events_of))


async def settled() -> None:
    """Until what was submitted has reached the queue and the writer has taken its batch."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_full_queue_refuses_orders_and_still_takes_cancels(
    engine: Engine, valkey_server: EmbeddedValkey
) -> None:
    [placed] = await place(engine)
    assert isinstance(placed, e.OrderPlaced)
    await valkey_server.stop()
    in_flight = place(engine)
    await settled()
    waiting = [place(engine) for _ in range(8)]
    await settled()
    with pytest.raises(Refused) as caught:
        await place(engine)
    assert caught.value.reason is Reason.OVERLOADED
    cancel = engine.do("cancel", c.CancelOrder(ACCOUNT, placed.order_id), events_of)
    cancelling = asyncio.create_task(cancel)
    await settled()
    assert not cancelling.done() and engine.writer.queued == 9
    second = asyncio.create_task(
        engine.do("cancel", c.CancelAll(ACCOUNT, reason=Reason.CANCELLED_BY_USER), events_of)
    )
    await settled()
    with pytest.raises(Refused) as caught:
        await engine.do("cancel", c.CancelOrder(ACCOUNT, placed.order_id), events_of)
    assert caught.value.reason is Reason.OVERLOADED, "their reserve ends too"
    await valkey_server.start()
    await asyncio.wait_for(asyncio.gather(in_flight, *waiting, cancelling, second), 60)
    assert engine.projection.open_orders == 0


async def test_nobody_sees_what_is_not_in_the_log(
    engine: Engine, valkey_server: EmbeddedValkey
) -> None:
    await valkey_server.stop()
    placing = place(engine)
    await settled()
    assert not placing.done()
    assert engine.projection.open_orders_of(ACCOUNT) == []
    assert engine.projection.balances_of(ACCOUNT)[1].held_units == 0
    resting = asyncio.create_task(engine.at_rest(lambda exchange: exchange.open_order_count()))
    await settled()
    assert not resting.done(), "the core is ahead of the log"
    await valkey_server.start()
    await asyncio.wait_for(placing, 60)
    assert await resting == 1 and len(engine.projection.open_orders_of(ACCOUNT)) == 1


async def test_an_order_whose_caller_left_before_its_turn_is_dropped(
    engine: Engine, valkey_server: EmbeddedValkey
) -> None:
    await valkey_server.stop()
    first = place(engine, "first")
    await settled()
    gone, stays = place(engine, "gone"), place(engine, "stays")
    await settled()
    gone.cancel()
    await valkey_server.start()
    await asyncio.wait_for(asyncio.gather(first, stays), 60)
    names = [o.request.client_order_id for o in engine.projection.open_orders_of(ACCOUNT)]
    assert names == ["first", "stays"]


async def test_an_answer_that_fails_hurts_only_its_caller(engine: Engine) -> None:
    def broken(_: int, __: c.Command | None, ___: Outcome) -> None:
        raise ZeroDivisionError

    failing = engine.submit("broken", [order("a")], broken)
    other = place(engine, "b")
    with pytest.raises(ZeroDivisionError):
        await failing
    assert isinstance((await other)[0], e.OrderPlaced)
    assert len(engine.projection.open_orders_of(ACCOUNT)) == 2, "both are in the log"


async def test_what_waits_together_is_one_entry(engine: Engine) -> None:
    before = engine.projection.seq
    first = place(engine)
    await settled()
    await asyncio.gather(first, *(place(engine) for _ in range(8)))
    assert engine.projection.seq == before + 2
