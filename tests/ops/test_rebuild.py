"""`tidebook rebuild`: when the log store is gone the archive gives the engine back, to the hash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from mesh.config import Settings
from mesh.log import LogReader
from mesh.redis import open_redis
from ops.errors import OpsError
from ops.migrate import migrate
from ops.rebuild import make_again, rebuild
from services.engine.codec import MarketTexts
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder
from services.engine.projection import Projection
from services.engine.recovery import Replayer
from services.engine.snapshots import Snapshot, SnapshotStore
from services.engine.watch import AccountFeeds
from services.settlement.store.sessions import open_store
from tests.builders import make_settings
from tests.settlement.support import LogMaker, Settlement, Wire, buy, sell


@pytest_asyncio.fixture
async def settings(tmp_path: Path, postgres_url: str, valkey_url: str) -> Settings:
    await migrate(postgres_url, ("settlement", "marketdata"))
    return make_settings(tmp_path, postgres_url=postgres_url, redis_url=valkey_url)


@pytest_asyncio.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = open_redis(settings)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def settled(settings: Settings, redis: Redis) -> AsyncIterator[tuple[Settlement, LogMaker]]:
    """A log of some trading, archived and in the ledger."""
    pool: Any = await open_store(settings)
    settlement, maker = Settlement(pool, redis), LogMaker()
    wire = Wire(redis)
    await wire.append(maker.begin(11, 12))
    for number in range(90):
        place = (buy, sell)[number % 2]
        await wire.append(maker.entry(place(11 + number % 2, str(50_000 + number % 7), "0.3")))
    await settlement.settle(maker)
    yield settlement, maker
    pool.terminate()


async def _recovered(settings: Settings, redis: Redis) -> Exchange:
    """The core of an engine that starts now."""
    projection = Projection()
    feeds = AccountFeeds(projection, Encoder(projection, MarketTexts()), remembered_items=0)
    replayer = Replayer(Exchange(), projection, feeds)
    reader = LogReader(redis, settings.shard)
    await replayer.replay(reader, SnapshotStore.of(settings), stop_at_tail=True)
    return replayer.exchange


async def test_a_lost_log_is_rebuilt_to_the_same_state_hash_and_goes_on(
    settings: Settings,
    redis: Redis,
    settled: tuple[Settlement, LogMaker],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settlement, maker = settled
    await redis.flushall()
    assert await rebuild(settings) == 0
    said = capsys.readouterr().out.split()
    assert maker.exchange.state_hash().hex() in said and maker.hash.hex() in said
    tail = await LogReader(redis, 0).tail()
    assert tail is not None and (tail.seq, tail.hash) == (maker.seq, maker.hash)
    core = await _recovered(settings, redis)
    assert core.state_hash() == maker.exchange.state_hash()
    # The log goes on where it ended, and so does the ledger.
    writer = Wire(redis, after=tail)
    await writer.append(maker.entry(buy(11, "50001", "0.2")))
    await settlement.settle(maker)
    await settlement.check_books(maker)


async def test_a_store_that_came_back_with_less_gets_the_rest(
    settings: Settings, redis: Redis, settled: tuple[Settlement, LogMaker]
) -> None:
    _, maker = settled
    reader = LogReader(redis, 0)
    kept = await reader.read(0, 60)
    await redis.flushall()
    await Wire(redis).append(*kept)
    done = await make_again(settings)
    assert (done.written, done.seq) == (maker.seq - 60, maker.seq)
    again = await make_again(settings)
    assert again.written == 0 and again.state_hash == maker.exchange.state_hash()


async def test_checking_writes_nothing(
    settings: Settings, redis: Redis, settled: tuple[Settlement, LogMaker]
) -> None:
    _, maker = settled
    await redis.flushall()
    done = await make_again(settings, check_only=True)
    assert done.state_hash == maker.exchange.state_hash()
    assert await LogReader(redis, 0).last_seq() == 0
    assert SnapshotStore.of(settings).positions() == []


async def test_snapshots_of_what_was_lost_are_set_aside(
    settings: Settings, redis: Redis, settled: tuple[Settlement, LogMaker]
) -> None:
    _, maker = settled
    store = SnapshotStore.of(settings)
    store.write(Snapshot(maker.seq + 5, 1, bytes(32), b"", b""))
    await redis.flushall()
    done = await make_again(settings)
    assert done.set_aside == (maker.seq + 5,)
    assert store.positions() == [maker.seq]


@pytest.mark.parametrize(
    ("tampering", "why"),
    [
        ("update archive set payload = payload || 'x' where seq = 3", "damaged"),
        ("update archive set hash = sha256('x') where seq = 2", "damaged"),
        ("delete from archive where seq = 2", "damaged"),
        ("delete from archive where seq > 40", "the ledger is at entry"),
    ],
)
async def test_a_damaged_archive_is_refused(
    settings: Settings,
    redis: Redis,
    settled: tuple[Settlement, LogMaker],
    tampering: str,
    why: str,
) -> None:
    settlement, _ = settled
    async with settlement.pool.acquire() as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute(tampering)
        await connection.execute("reset session_replication_role")
    await redis.flushall()
    with pytest.raises(OpsError, match=why):
        await make_again(settings)


async def test_a_log_of_another_exchange_is_not_written_to(
    settings: Settings, redis: Redis, settled: tuple[Settlement, LogMaker]
) -> None:
    await redis.flushall()
    other = LogMaker()
    await Wire(redis).append(other.begin(21))
    with pytest.raises(OpsError, match="another log"):
        await make_again(settings)
