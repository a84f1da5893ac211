"""The log against a real Valkey: fencing, lost answers, tampering, resuming."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from mesh.config import load_settings
from mesh.log import (
    GENESIS_HASH,
    ChainBroken,
    Fenced,
    LogReader,
    LogRecord,
    LogTrimmed,
    LogWriter,
    log_key,
    verify_chain,
)
from mesh.redis import open_redis
from ops.embedded import EmbeddedValkey
from tests.mesh.proxy import LossyProxy
from tests.support import eventually

SHARD = 3


async def fill(redis: Redis, count: int) -> list[LogRecord]:
    writer = LogWriter(redis, SHARD)
    return [await writer.append(b"entry %d" % number) for number in range(1, count + 1)]


async def rewrite(redis: Redis, change: dict[bytes, dict[bytes, bytes] | None]) -> None:
    """Store the log anew with some entries changed, or left out where the change is None."""
    rows: Any = await redis.xrange(log_key(SHARD))
    await redis.delete(log_key(SHARD))
    for entry_id, fields in rows:
        changed = change.get(entry_id, fields)
        if changed is not None:
            await redis.xadd(log_key(SHARD), fields | changed, id=entry_id)


class Follower:
    """Follows in the background and keeps what it got."""

    def __init__(self, reader: LogReader, after_seq: int = 0, **options: Any) -> None:
        self.records: list[LogRecord] = []
        self.task = asyncio.create_task(self._run(reader, after_seq, options))

    async def _run(self, reader: LogReader, after_seq: int, options: dict[str, Any]) -> None:
        async for batch in reader.follow(after_seq, block_ms=100, **options):
            self.records += batch

    @property
    def seqs(self) -> list[int]:
        return [record.seq for record in self.records]

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@pytest_asyncio.fixture
async def proxy(valkey_url: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(valkey_url) as running:
        yield running


@pytest_asyncio.fixture
async def through_proxy(proxy: LossyProxy) -> AsyncIterator[Redis]:
    client = open_redis(load_settings(redis_url=proxy.url))
    yield client
    await client.aclose()


async def test_an_empty_log_has_no_tail(redis: Redis) -> None:
    reader = LogReader(redis, SHARD)
    assert await reader.tail() is None
    assert await reader.last_seq() == 0
    assert await reader.read(0, 10) == []


async def test_what_is_appended_is_read_in_order_and_chained(redis: Redis) -> None:
    written = await fill(redis, 5)
    reader = LogReader(redis, SHARD)
    assert await reader.read(0, 10) == written
    assert await reader.read(2, 2) == written[2:4]
    assert await reader.tail() == written[-1]
    expected = GENESIS_HASH
    for record in written:
        expected = hashlib.sha256(expected + record.payload).digest()
        assert record.hash == expected


async def test_a_writer_goes_on_where_the_log_ends(redis: Redis) -> None:
    last = (await fill(redis, 3))[-1]
    writer = LogWriter(redis, SHARD, next_seq=last.seq + 1, last_hash=last.hash)
    await writer.append(b"next")
    records = await LogReader(redis, SHARD).read(0, 10)
    assert verify_chain(records, after_seq=0, after_hash=GENESIS_HASH) == writer.last_hash


async def test_of_two_writers_one_is_fenced(redis: Redis) -> None:
    first, second = LogWriter(redis, SHARD), LogWriter(redis, SHARD)
    await first.append(b"by the first")
    with pytest.raises(Fenced):
        await second.append(b"by the second")
    await first.append(b"the first goes on")
    with pytest.raises(Fenced):
        await second.append(b"and the second stays fenced")
    payloads = [record.payload for record in await LogReader(redis, SHARD).read(0, 10)]
    assert payloads == [b"by the first", b"the first goes on"]


async def test_an_old_leader_is_fenced_by_its_successors_first_entry(redis: Redis) -> None:
    old = LogWriter(redis, SHARD)
    await old.append(b"old 1")
    new = LogWriter(redis, SHARD, next_seq=2, last_hash=old.last_hash)
    await new.append(b"new 2")
    with pytest.raises(Fenced):
        await old.append(b"old 2")


async def test_racing_writers_never_share_a_position(redis: Redis) -> None:
    writers = [LogWriter(redis, SHARD) for _ in range(5)]
    results = await asyncio.gather(
        *(writer.append(b"from %d" % number) for number, writer in enumerate(writers)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Fenced"] * 4 + ["LogRecord"]
    assert len(await LogReader(redis, SHARD).read(0, 10)) == 1


async def test_a_lost_answer_is_cleared_up_by_reading_back(
    redis: Redis, proxy: LossyProxy, through_proxy: Redis
) -> None:
    writer = LogWriter(through_proxy, SHARD)
    await writer.append(b"one")
    proxy.lose_answer_to("XADD")
    record = await writer.append(b"two")
    await writer.append(b"three")
    assert proxy.lost == 1
    records = await LogReader(redis, SHARD).read(0, 10)
    assert [entry.payload for entry in records] == [b"one", b"two", b"three"]
    assert records[1] == record


async def test_a_lost_answer_and_another_writer_meanwhile_is_fenced(
    redis: Redis, proxy: LossyProxy, through_proxy: Redis
) -> None:
    ours = LogWriter(through_proxy, SHARD)
    first = await ours.append(b"one")
    theirs = LogWriter(redis, SHARD, next_seq=2, last_hash=first.hash)
    await theirs.append(b"theirs")
    proxy.lose_answer_to("XADD")
    with pytest.raises(Fenced):
        await ours.append(b"ours")


async def test_an_append_waits_for_a_store_that_is_away(valkey_server: EmbeddedValkey) -> None:
    redis = open_redis(load_settings(redis_url=valkey_server.url))
    try:
        writer = LogWriter(redis, SHARD)
        await writer.append(b"before")
        await valkey_server.stop()
        append = asyncio.create_task(writer.append(b"while it was away"))
        done, _ = await asyncio.wait({append}, timeout=0.3)
        assert not done
        await valkey_server.start()
        await append
        records = await LogReader(redis, SHARD).read(0, 10)
        assert [record.payload for record in records] == [b"before", b"while it was away"]
    finally:
        await redis.aclose()


async def test_an_append_to_a_store_that_stalls_is_done_once(
    valkey_server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = open_redis(load_settings(redis_url=valkey_server.url))
    pid = valkey_server.pid
    assert pid is not None
    try:
        writer = LogWriter(redis, SHARD)
        await writer.append(b"before")
        monkeypatch.setattr("mesh.redis.SOCKET_TIMEOUT_SECONDS", 0.1)
        os.kill(pid, signal.SIGSTOP)
        append = asyncio.create_task(writer.append(b"stalled"))
        done, _ = await asyncio.wait({append}, timeout=0.5)
        assert not done
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        await append
        await writer.append(b"after")
        records = await LogReader(redis, SHARD).read(0, 10)
        assert [record.payload for record in records] == [b"before", b"stalled", b"after"]
    finally:
        os.kill(pid, signal.SIGCONT)
        await redis.aclose()


async def test_a_store_that_lost_entries_is_not_written_to(redis: Redis) -> None:
    records = await fill(redis, 3)
    await rewrite(redis, {b"3-0": None})
    writer = LogWriter(redis, SHARD, next_seq=4, last_hash=records[-1].hash)
    with pytest.raises(ChainBroken, match="lost entries"):
        await writer.append(b"four")


async def test_a_writer_with_a_wrong_past_is_fenced(redis: Redis) -> None:
    await fill(redis, 2)
    with pytest.raises(Fenced):
        await LogWriter(redis, SHARD, next_seq=3, last_hash=b"x" * 32).append(b"three")


async def test_a_tampered_payload_is_found_by_reader_and_follower(redis: Redis) -> None:
    await fill(redis, 5)
    await rewrite(redis, {b"3-0": {b"p": b"entry 3, but richer"}})
    reader = LogReader(redis, SHARD)
    with pytest.raises(ChainBroken, match="entry 3"):
        await reader.read(0, 10)
    follower = Follower(reader)
    with pytest.raises(ChainBroken, match="entry 3"):
        await asyncio.wait_for(follower.task, 60)


async def test_a_missing_entry_is_found(redis: Redis) -> None:
    await fill(redis, 5)
    await redis.xdel(log_key(SHARD), "3-0")
    with pytest.raises(ChainBroken, match="entry 3 is missing"):
        await LogReader(redis, SHARD).read(0, 10)


async def test_an_entry_no_engine_wrote_is_found(redis: Redis) -> None:
    await fill(redis, 1)
    await redis.xadd(log_key(SHARD), {"p": "x"}, id="2-1")
    with pytest.raises(ChainBroken):
        await LogReader(redis, SHARD).read(0, 10)


async def test_a_trimmed_position_is_said_and_numbers_go_on(redis: Redis) -> None:
    records = await fill(redis, 300)
    writer = LogWriter(redis, SHARD, next_seq=301, last_hash=records[-1].hash)
    assert await writer.trim(before_seq=250) > 0
    reader = LogReader(redis, SHARD)
    with pytest.raises(LogTrimmed):
        await reader.read(0, 10)
    with pytest.raises(LogTrimmed):
        await asyncio.wait_for(Follower(reader).task, 60)
    assert [record.seq for record in await reader.read(250, 2)] == [251, 252]
    assert (await writer.append(b"next")).seq == 301
    # Also a log without any entry left remembers where it ended.
    await redis.xtrim(log_key(SHARD), maxlen=0, approximate=False)
    assert await reader.last_seq() == 301
    assert (await writer.append(b"next")).seq == 302


async def test_a_follower_gets_what_was_there_and_what_comes(redis: Redis) -> None:
    records = await fill(redis, 7)
    follower = Follower(LogReader(redis, SHARD), batch=3)
    await eventually(lambda: follower.records == records)
    writer = LogWriter(redis, SHARD, next_seq=8, last_hash=records[-1].hash)
    await writer.append(b"new")
    await eventually(lambda: follower.seqs == list(range(1, 9)))
    await follower.stop()


async def test_a_follower_resumes_from_its_position(redis: Redis) -> None:
    records = await fill(redis, 5)
    follower = Follower(LogReader(redis, SHARD), 3, after_hash=records[2].hash)
    await eventually(lambda: follower.records == records[3:])
    await follower.stop()


async def test_a_follower_with_another_past_is_told(redis: Redis) -> None:
    await fill(redis, 5)
    follower = Follower(LogReader(redis, SHARD), 3, after_hash=b"x" * 32)
    with pytest.raises(ChainBroken):
        await asyncio.wait_for(follower.task, 60)


async def test_a_follower_outlives_a_dropped_connection(
    redis: Redis, proxy: LossyProxy, through_proxy: Redis
) -> None:
    writer = LogWriter(redis, SHARD)
    await writer.append(b"one")
    follower = Follower(LogReader(through_proxy, SHARD))
    await eventually(lambda: follower.seqs == [1])
    proxy.cut()
    await writer.append(b"two")
    await eventually(lambda: follower.seqs == [1, 2])
    proxy.lose_answer_to("XREAD")
    await writer.append(b"three")
    await eventually(lambda: follower.seqs == [1, 2, 3])
    await follower.stop()


async def test_a_follower_outlives_a_restart_of_the_store(valkey_server: EmbeddedValkey) -> None:
    redis = open_redis(load_settings(redis_url=valkey_server.url))
    try:
        writer = LogWriter(redis, SHARD)
        await writer.append(b"one")
        follower = Follower(LogReader(redis, SHARD))
        await eventually(lambda: follower.seqs == [1])
        await valkey_server.stop()
        await valkey_server.start()
        await writer.append(b"two")
        await eventually(lambda: follower.seqs == [1, 2])
        await follower.stop()
    finally:
        await redis.aclose()


async def test_a_follower_ahead_of_a_store_that_lost_entries_stops(redis: Redis) -> None:
    records = await fill(redis, 3)
    await rewrite(redis, {b"3-0": None})
    follower = Follower(LogReader(redis, SHARD), 3, after_hash=records[2].hash)
    with pytest.raises(ChainBroken, match="lost entries"):
        await asyncio.wait_for(follower.task, 60)
