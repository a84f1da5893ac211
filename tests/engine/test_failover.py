"""A leader and its follower: reads from both, orders at one, and nothing lost between them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, log_pb2, order_pb2
from tidebook.engine.v1 import types_pb2 as t

from kernel.reasons import Reason
from mesh.channel import open_channel
from mesh.config import ENGINE_READS
from ops.embedded import EmbeddedValkey
from services.engine.snapshots import SnapshotStore
from tests.engine.test_orders import refusal
from tests.engine.test_recovery import read_log, replayer, trade_a_little
from tests.support import eventually
from tests.support.engine import EngineRig, Trader, engine_rig, limit
from tests.support.ports import free_ports

LEASE_SECONDS = 1.0


class Pair:
    """A leading engine process and one that follows it, and the mesh's channel to both."""

    def __init__(self, rig: EngineRig) -> None:
        self.rig = rig
        self.follower_port = free_ports([0, 100])
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        rig = self.rig
        await rig.spawn()
        assert rig.process is not None
        self.leader = rig.process
        self.follower = await rig.launch(engine_port=self.follower_port, engine_followers=1)
        self.channel = await self._stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{self.follower_port}")
        )
        ports = (rig.settings.engine_port + 100, self.follower_port + 100)
        address = ",".join(f"127.0.0.1:{port}" for port in ports)
        settings = rig.settings.model_copy(update={"engine_address": address})
        channel = await self._stack.enter_async_context(
            open_channel(settings, "engine", caller="ops")
        )
        self.mesh = internal_pb2_grpc.EngineInternalServiceStub(channel)
        await eventually(lambda: self.healthy(ENGINE_READS))

    async def close(self) -> None:
        await self._stack.aclose()
        for process in (self.leader, self.follower):
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def healthy(self, part: str = "") -> bool:
        """What the follower answers to health checks."""
        request = health_pb2.HealthCheckRequest(service=part)
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=2)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def at_follower(self, trader: Trader) -> Trader:
        """The same account's way to the follower."""
        return Trader(self.channel, trader.token, trader.account_id)

    async def log(self) -> list[log_pb2.LogEntry]:
        """The whole log as the mesh gives it, proven by replay."""
        self.rig.internal = self.mesh
        fresh, exchange = replayer()
        records = await read_log(self.rig)
        for record in records:
            fresh.apply(record)
        exchange.check_invariants()
        return [log_pb2.LogEntry.FromString(record.payload) for record in records]


@pytest_asyncio.fixture
async def pair(short_dir: Path, valkey_server: EmbeddedValkey) -> AsyncIterator[Pair]:
    async with engine_rig(
        short_dir,
        valkey_server.url,
        lease_seconds=LEASE_SECONDS,
        snapshot_every_entries=20,
        engine_followers=1,
    ) as rig:
        pair = Pair(rig)
        try:
            await pair.open()
            yield pair
        finally:
            await pair.close()


def placed_names(entries: list[log_pb2.LogEntry]) -> list[str]:
    """Client order ids of every order that was ever placed."""
    return [
        logged.place_order.client_order_id
        for entry in entries
        for logged in entry.commands
        if logged.events[0].WhichOneof("event") == "order_placed"
    ]


async def test_a_follower_answers_reads_and_sends_orders_to_the_leader(pair: Pair) -> None:
    alice, bob = await pair.rig.funded(1), await pair.rig.funded(2)
    reading = pair.at_follower(alice)
    await eventually(lambda: reading.balances())
    call = reading.watch()
    assert (await call.read()).snapshot
    await trade_a_little(alice, bob)
    orders = await alice.open_orders()

    async def the_same() -> None:
        assert await reading.open_orders() == orders
        assert await reading.balances() == await alice.balances()

    await eventually(the_same)
    assert (await call.read()).prev_seq > 0, "private streams go on at a follower"
    call.cancel()
    refused = await refusal(reading.place())
    assert refused.reason is Reason.UNAVAILABLE
    assert refused.details["leader"] == f"127.0.0.1:{pair.rig.settings.engine_port}"
    assert not await pair.healthy() and await pair.healthy(ENGINE_READS)
    store = SnapshotStore.of(pair.rig.settings)
    await eventually(lambda: bool(store.positions()))


class Load:
    """A client of the mesh that sends orders until it is told to stop, and again whatever it got
    no answer to; it notes every acknowledgement.
    """

    def __init__(self, pair: Pair, trader: Trader) -> None:
        self.sent = 0
        self.acknowledged: list[str] = []
        self.answered_at: list[float] = []
        self.stop = asyncio.Event()
        self._stub = pair.mesh
        self._token = trader.token
        self._unanswered: dict[int, str] = {}

    async def run(self) -> None:
        while not self.stop.is_set() or self._unanswered:
            call = self._stub.SubmitCommands(wait_for_ready=True)
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._talk(call)
            call.cancel()

    async def _talk(self, call: Any) -> None:
        while True:
            while len(self._unanswered) < 50 and not self.stop.is_set():
                self.sent += 1
                self._unanswered[self.sent] = f"order-{self.sent}"
            if not self._unanswered:
                return
            request = internal_pb2.SubmitCommandsRequest()
            for number, name in self._unanswered.items():
                submitted = request.commands.add(access_token=self._token)
                submitted.command.request_id = number
                submitted.command.place.CopyFrom(
                    limit(
                        price="1",
                        quantity="1",
                        client_order_id=name,
                        time_in_force=t.TIME_IN_FORCE_IOC,
                    )
                )
            await call.write(request)
            response = await call.read()
            if response is grpc.aio.EOF:
                return
            for result in response.results:
                # What is refused was not done, and is tried again.
                if result.HasField("placed"):
                    self.acknowledged.append(self._unanswered.pop(result.request_id))
            self.answered_at.append(time.monotonic())


async def test_no_acknowledged_order_is_lost_or_done_twice_when_the_leader_is_killed(
    pair: Pair,
) -> None:
    alice = await pair.rig.funded(1)
    load = Load(pair, alice)
    running = asyncio.create_task(load.run())
    await eventually(lambda: len(load.acknowledged) > 500)
    killed_at = time.monotonic()
    pair.leader.kill()
    await pair.leader.wait()
    await eventually(lambda: load.answered_at[-1] > killed_at + 0.1, interval_s=0.005)
    first = next(at for at in load.answered_at if at > killed_at + 0.1)
    before = len(load.acknowledged)
    await eventually(lambda: len(load.acknowledged) > before + 500)
    load.stop.set()
    await running
    entries = await pair.log()
    placed = placed_names(entries)
    assert len(set(placed)) == len(placed), "an order was done twice"
    assert len(set(load.acknowledged)) == len(load.acknowledged) == load.sent
    assert set(load.acknowledged) == set(placed)
    assert entries[-1].epoch == 2
    assert first - killed_at < LEASE_SECONDS + 1.0, "a second after the lease ran out"


async def test_a_leader_that_was_paused_is_fenced_and_stops(pair: Pair) -> None:
    alice = await pair.rig.funded(1)
    await alice.place(client_order_id="before")
    pair.leader.send_signal(signal.SIGSTOP)
    # It reaches the old leader's socket, which will find it when it wakes up.
    late = asyncio.create_task(refusal(alice.place(client_order_id="late")))
    await eventually(pair.healthy)
    promoted = pair.at_follower(alice)
    await promoted.place(client_order_id="after")
    pair.leader.send_signal(signal.SIGCONT)
    assert (await late).reason in (Reason.FENCED, Reason.UNAVAILABLE)
    assert await asyncio.wait_for(pair.leader.wait(), 60) == 1
    assert "writer_fenced" in pair.rig.log_path.read_text()
    await promoted.place(client_order_id="later")
    assert placed_names(await pair.log()) == ["before", "after", "later"]


async def test_a_leader_that_stops_in_order_hands_over_at_once(pair: Pair) -> None:
    alice = await pair.rig.funded(1)
    order: order_pb2.Order = (await alice.place()).order
    pair.leader.terminate()
    await pair.leader.wait()
    await eventually(pair.healthy)
    cancelled = await pair.at_follower(alice).cancel(order.order_id)
    assert cancelled.status == t.ORDER_STATUS_CANCELLED
