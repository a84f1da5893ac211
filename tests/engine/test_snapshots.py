"""Snapshots: what is in them, which one is believed, and that nothing is lost between two."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from tidebook.engine.v1 import types_pb2 as t

from mesh.log import ChainBroken, LogReader, log_key
from mesh.redis import open_redis
from services.engine import snapshots
from services.engine.codec import MarketTexts
from services.engine.domain.exchange import Exchange
from services.engine.domain.record import field_names
from services.engine.encode import Encoder
from services.engine.projection import Projection
from services.engine.recovery import Replayer
from services.engine.snapshot import take_one
from services.engine.snapshots import Snapshot, SnapshotStore
from services.engine.watch import AccountFeeds
from tests.engine.test_recovery import read_log, trade_a_little
from tests.support import eventually
from tests.support.engine import EngineRig, engine_rig


class Model:
    """A core and its read models."""

    def __init__(self) -> None:
        self.projection = Projection()
        self.feeds = AccountFeeds(self.projection, Encoder(self.projection, MarketTexts()))
        self.replayer = Replayer(Exchange(), self.projection, self.feeds)

    @property
    def exchange(self) -> Exchange:
        return self.replayer.exchange


def plain(value: Any) -> Any:
    """Everything that can be reached from a value, to be compared; whatever is added to it later
    is compared too.
    """
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple, deque)):
        return [plain(one) for one in value]
    if isinstance(value, (int, str, bytes, type(None))):
        return value
    names = field_names(type(value)) or vars(value)
    return {name: plain(getattr(value, name)) for name in names if hasattr(value, name)}


async def replayed(rig: EngineRig) -> Model:
    """The model that the whole log gives."""
    model = Model()
    for record in await read_log(rig):
        model.replayer.apply(record)
    return model


def snapshot(seq: int, text: bytes = b"core") -> Snapshot:
    return Snapshot(seq, 1, bytes(32), text, b"readers")


async def test_what_is_restored_is_all_that_there_was(engine: EngineRig) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    await trade_a_little(alice, bob)
    await alice.place(side="buy", price="20", client_order_id="named", post_only=True)
    before = await replayed(engine)
    taken = snapshots.take(before.exchange, before.projection, before.feeds)
    after = Model()
    exchange = snapshots.restore(taken, after.projection, after.feeds)
    assert exchange.state_hash() == before.exchange.state_hash()
    exchange.check_invariants()
    ours, theirs = plain(after.projection), plain(before.projection)
    # What the last entry changed has been told already.
    ours.pop("_changes"), theirs.pop("_changes")
    assert ours == theirs
    assert after.feeds.positions() == before.feeds.positions()


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "new", keep=3)
    assert store.positions() == []
    for seq in (5, 10, 100, 1000):
        store.write(snapshot(seq))
    assert store.positions() == [10, 100, 1000]
    assert store.read(1000) == snapshot(1000)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
        lambda data: b"somethin" + data[8:],
        lambda data: data[:8] + bytes([9]) + data[9:],
    ],
    ids=["empty", "cut", "last bit", "position", "another file", "another version"],
)
def test_a_damaged_one_is_skipped_for_the_one_before_it(tmp_path: Path, damage: Any) -> None:
    store = SnapshotStore(tmp_path, keep=3)
    store.write(snapshot(1))
    path = store.write(snapshot(2))
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "half-written.part").write_bytes(b"x")
    assert [found.seq for found in store.newest_first()] == [1]


async def test_a_killed_engine_starts_from_its_snapshot(short_dir: Path, valkey_url: str) -> None:
    async with engine_rig(short_dir, valkey_url, snapshot_every_entries=25) as rig:
        await rig.spawn()
        alice, bob = await rig.funded(1), await rig.funded(2)
        named = await alice.place(price="20", client_order_id="named")
        await trade_a_little(alice, bob)
        await eventually(lambda: bool(SnapshotStore.of(rig.settings).positions()))
        late = await bob.place(price="21", client_order_id="late")
        orders, balances = await alice.open_orders(), await alice.balances()
        await rig.kill()
        await rig.spawn()
        assert "snapshot_restored" in rig.log_path.read_text()
        assert await alice.open_orders() == orders and await alice.balances() == balances
        again = await alice.place(price="20", client_order_id="named")
        assert again.repeated and again.order.order_id == named.order.order_id
        assert (await bob.order(late.order.order_id)).status == t.ORDER_STATUS_OPEN
        state = await rig.state()
        whole = await replayed(rig)
        assert whole.exchange.state_hash() == state.state_hash


async def test_private_streams_go_on_from_where_they_were(rig: EngineRig) -> None:
    await rig.start()
    alice = await rig.funded(1)
    call = alice.watch()
    last = await call.read()
    call.cancel()
    await rig.stop()
    await rig.start()
    call = alice.watch(resume_from_seq=last.seq)
    await alice.place()
    changed = await call.read()
    call.cancel()
    assert changed.prev_seq == last.seq and not changed.snapshot


async def test_a_clean_stop_leaves_nothing_to_replay(rig: EngineRig) -> None:
    await rig.start()
    await (await rig.funded(1)).place()
    state = await rig.state()
    await rig.stop()
    assert SnapshotStore.of(rig.settings).positions() == [state.log_seq]


async def test_snapshots_build_on_one_another_and_one_bad_file_costs_nothing(
    engine: EngineRig,
) -> None:
    alice, bob = await engine.funded(1), await engine.funded(2)
    store = SnapshotStore.of(engine.settings)
    await take_one(engine.settings)
    await trade_a_little(alice, bob)
    await take_one(engine.settings)
    await take_one(engine.settings)
    first, second = store.positions()
    path = next(iter(engine.settings.data_dir.glob(f"engine/snapshots/*{second}.snapshot")))
    path.write_bytes(path.read_bytes()[:-10])
    redis = open_redis(engine.settings)
    model = Model()
    recovered = await model.replayer.replay(LogReader(redis, 0), store)
    await redis.aclose()
    assert recovered.snapshot_seq == first and recovered.seq == second
    assert model.exchange.state_hash() == (await engine.state()).state_hash


async def test_a_snapshot_that_is_ahead_of_the_log_stops_the_engine(rig: EngineRig) -> None:
    await rig.start()
    await rig.funded(1)
    await rig.stop()
    redis = open_redis(rig.settings)
    await redis.delete(log_key(0))
    with pytest.raises(ChainBroken, match="the store lost entries"):
        await Model().replayer.replay(LogReader(redis, 0), SnapshotStore.of(rig.settings))
    process = await rig.launch()
    assert await process.wait() == 1
    assert "store lost entries" in rig.log_path.read_text()
    assert await redis.xlen(log_key(0)) == 0
    await redis.aclose()


async def test_a_snapshot_of_another_log_stops_the_engine(rig: EngineRig) -> None:
    await rig.start()
    await rig.funded(1)
    await rig.stop()
    store = SnapshotStore.of(rig.settings)
    [seq] = store.positions()
    good = store.read(seq)
    store.write(Snapshot(seq, good.epoch, bytes(32), good.core, good.readers))
    redis = open_redis(rig.settings)
    with pytest.raises(ChainBroken, match="another log"):
        await Model().replayer.replay(LogReader(redis, 0), store)
    await redis.aclose()
