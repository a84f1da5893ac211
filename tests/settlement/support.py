"""A log written by the real core, for settlement to follow, and settlement's parts around it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from tidebook.engine.v1 import log_pb2

from kernel.markets import DEFAULT_ASSETS, Market, default_markets
from mesh.aio import cancel_and_wait
from mesh.config import Settings, environment_of
from mesh.log import GENESIS_HASH, LogReader, LogRecord, LogWriter, chain_hash
from services.engine import logcodec
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from services.settlement.domain.ledger import LedgerKind
from services.settlement.follower import Applier, Archiver
from services.settlement.halts import Halts
from services.settlement.store.applying import read_progress
from services.settlement.store.transfers import TransferRequest, add_transfer
from tests.settlement.margin_log import MarginLog
from tests.support import eventually

_ROOT = Path(__file__).resolve().parents[2]
USDC, BTC = 1, 2
BTC_USDC = 1
START_NS = 1_700_000_000_000_000_000
MARKETS = {market.market_id: market for market in default_markets()}


def configure() -> c.Configure:
    """The default assets and markets as a command."""
    return c.Configure(
        assets=tuple(
            c.AssetConfig(a.asset_id, a.code, a.decimals, a.transfer_decimals)
            for a in DEFAULT_ASSETS
        ),
        markets=tuple(_market_config(market) for market in MARKETS.values()),
    )


def _market_config(market: Market) -> c.MarketConfig:
    return c.MarketConfig(
        market_id=market.market_id,
        name=market.name,
        kind=k.MARKET_KIND_SPOT,
        base_asset_id=market.base.asset_id,
        quote_asset_id=market.quote.asset_id,
        tick_size_units=market.tick_size_units,
        lot_size_units=market.lot_size_units,
        units_per_tick_lot=market.units_per_tick_lot,
        min_quantity_lots=market.min_quantity_lots,
        max_quantity_lots=market.max_quantity_lots,
        min_notional_units=market.min_notional_units,
        max_notional_units=market.max_notional_units,
        max_price_ticks=market.max_price_ticks,
        maker_fee_bps=market.maker_fee_bps,
        taker_fee_bps=market.taker_fee_bps,
        max_open_orders=market.max_open_orders,
    )


def limit(
    account_id: int, side: int, price: str, quantity: str, market_id: int = BTC_USDC, **fields: Any
) -> c.PlaceOrder:
    """A limit order in decimals."""
    market = MARKETS[market_id]
    return c.PlaceOrder(
        account_id,
        market_id,
        side=side,
        type=k.ORDER_TYPE_LIMIT,
        price_ticks=market.parse_price(price),
        quantity_lots=market.parse_quantity(quantity),
        **fields,
    )


def buy(account_id: int, price: str, quantity: str, **fields: Any) -> c.PlaceOrder:
    return limit(account_id, k.SIDE_BUY, price, quantity, **fields)


def sell(account_id: int, price: str, quantity: str, **fields: Any) -> c.PlaceOrder:
    return limit(account_id, k.SIDE_SELL, price, quantity, **fields)


def trading(maker: LogMaker, entries: int, seed: int = 1) -> list[LogRecord]:
    """A log of random orders and cancels of four accounts around one price."""
    return list(itertools.islice(endless_trading(maker, seed), entries + 1))


def endless_trading(maker: LogMaker, seed: int = 1) -> Iterator[LogRecord]:
    """The same without an end, each entry made when it is asked for."""
    yield maker.begin(11, 12, 13, 14)
    yield from endless_orders(maker, seed)


def endless_orders(maker: LogMaker, seed: int = 1) -> Iterator[LogRecord]:
    """The same once the accounts have their money."""
    chance = random.Random(seed)
    while True:
        commands: list[c.Command] = []
        for _ in range(chance.randint(1, 8)):
            account, place = chance.randint(11, 14), chance.choice((buy, sell))
            price, lots = chance.randint(49_990, 50_010), chance.randint(10, 5000)
            commands.append(place(account, str(price), f"0.{lots:05}"))
            if chance.random() < 0.3:
                commands.append(c.CancelOrder(account, chance.randint(1, 8 * maker.seq)))
        yield maker.entry(*commands)


class LogMaker:
    """The engine without its process: a core, and the entries that it would have written."""

    def __init__(self, shard: int = 0) -> None:
        self.exchange = Exchange()
        self.shard = shard
        self.seq = 0
        self.hash = GENESIS_HASH
        self.now_ns = START_NS
        self.transfer_ids = 10_000
        self.configuration = configure()

    def transfer(
        self, account_id: int, asset_id: int, units: int, transfer_id: int = 0
    ) -> c.Transfer:
        """A deposit, or a withdrawal when negative, that no client asked settlement for."""
        self.transfer_ids += 1
        kind = k.TRANSFER_KIND_DEPOSIT if units > 0 else k.TRANSFER_KIND_WITHDRAWAL
        return c.Transfer(account_id, transfer_id or self.transfer_ids, asset_id, units, kind)

    def entry(self, *commands: c.Command, trace: tuple[bytes, bytes] = (b"", b"")) -> LogRecord:
        """Apply commands as one entry; `events` has what each of them caused."""
        self.now_ns += 1_000_000
        self.seq += 1
        entry = log_pb2.LogEntry(
            seq=self.seq, shard=self.shard, epoch=1, time_ns=self.now_ns, taken_ns=self.now_ns
        )
        self.events: list[list[e.Event]] = []
        for command in commands:
            events = self.exchange.apply(command, self.now_ns)
            self.events.append(events)
            logcodec.add_command(
                entry,
                command,
                events,
                command_seq=self.exchange.last_command_seq,
                received_ns=self.now_ns,
                trace_id=trace[0],
                span_id=trace[1],
            )
        payload = entry.SerializeToString()
        self.hash = chain_hash(self.hash, payload)
        return LogRecord(self.seq, payload, self.hash)

    def begin(self, *accounts: int) -> LogRecord:
        """The first entry: configuration, and plenty of USDC and BTC for the accounts."""
        funds = [
            self.transfer(account, asset_id, 10**15)
            for account in accounts
            for asset_id in (USDC, BTC)
        ]
        return self.entry(self.configuration, c.BeginEpoch(epoch=1, writer="test"), *funds)

    def balances(self) -> dict[tuple[int, int, int], int]:
        """(account, asset, ledger kind) -> units, zeros left out."""
        found = {}
        for account_id in self.exchange.accounts():
            for asset_id, balance in self.exchange.account(account_id).items():
                found[account_id, asset_id, int(LedgerKind.CLIENT_FREE)] = balance.free_units
                found[account_id, asset_id, int(LedgerKind.CLIENT_HELD)] = balance.held_units
        return {key: units for key, units in found.items() if units}


async def settlement_process(settings: Settings) -> asyncio.subprocess.Process:
    """The whole service as a process of its own, on the port of the settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
    environment |= environment_of(settings, {"settlement_port": settings.settlement_port})
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.settlement"),
        env=environment,
        cwd=_ROOT,
        stdout=asyncio.subprocess.DEVNULL,
    )


class Wire:
    """Appends entries to the real log."""

    def __init__(self, redis: Redis, shard: int = 0, *, after: LogRecord | None = None) -> None:
        self._writer = LogWriter(redis, shard)
        if after is not None:
            self._writer.next_seq, self._writer.last_hash = after.seq + 1, after.hash

    async def append(self, *records: LogRecord) -> None:
        for record in records:
            written = await self._writer.append(record.payload)
            assert written == record


@dataclass
class Settlement:
    """Archive and ledger jobs on real stores."""

    pool: asyncpg.Pool
    redis: Redis
    shard: int = 0
    halts: Halts = field(default_factory=Halts)

    def applier(self, **parts: Any) -> Applier:
        return Applier(
            self.pool, LogReader(self.redis, self.shard), self.shard, self.halts, **parts
        )

    def archiver(self) -> Archiver:
        return Archiver(self.pool, LogReader(self.redis, self.shard), self.shard, self.halts)

    @contextlib.asynccontextmanager
    async def following(self, **parts: Any) -> AsyncIterator[None]:
        """Both jobs in the background; a crash of one is raised at the end."""
        tasks = [
            asyncio.create_task(self.archiver().run()),
            asyncio.create_task(self.applier(**parts).run()),
        ]
        try:
            yield
        finally:
            # A job that crashed says more than whatever the test was waiting for.
            for task in tasks:
                if task.done():
                    task.result()
            await cancel_and_wait(*tasks)

    async def caught_up(self, maker: LogMaker | MarginLog, *, timeout_s: float = 30.0) -> None:
        """Wait until archive and ledger have all that the maker has made."""

        async def done() -> bool:
            # What has halted will never be done.
            assert not self.halts, self.halts.summary()
            archived = await self.count("archive")
            return archived == await self.applied_seq() == maker.seq

        await eventually(done, timeout_s=timeout_s)

    async def settle(self, maker: LogMaker | MarginLog, *, timeout_s: float = 30.0) -> None:
        """Let both jobs run until they have all that the maker has made, and end them."""
        async with self.following():
            await self.caught_up(maker, timeout_s=timeout_s)

    async def ask(self, request: TransferRequest, now_ns: int) -> int:
        """Write down that a transfer is wanted, as a call does; its id."""
        async with self.pool.acquire() as connection, connection.transaction():
            row = await add_transfer(connection, request, traceparent="", now_ns=now_ns)
        return int(row["transfer_id"])

    async def applied_seq(self) -> int:
        async with self.pool.acquire() as connection:
            return (await read_progress(connection, self.shard)).seq

    async def balances(self) -> dict[tuple[int, int, int], int]:
        """Client balances of the ledger as `LogMaker.balances` has them."""
        rows = await self.pool.fetch(
            "select account_id, asset_id, kind, balance from ledger_accounts"
            " where shard = $1 and account_id > 0 and balance <> 0",
            self.shard,
        )
        return {(row[0], row[1], row[2]): int(row[3]) for row in rows}

    async def count(self, table: str) -> int:
        found: int = await self.pool.fetchval(f"select count(*) from {table}")
        return found

    async def check_books(self, maker: LogMaker) -> None:
        """The ledger says what the core says, and its entries say what its balances say."""
        assert await self.balances() == maker.balances()
        wrong: Sequence[Any] = await self.pool.fetch(
            "select account_id, asset_id, kind, balance, total from ledger_accounts l full join"
            " (select shard, account_id, asset_id, ledger_kind as kind, sum(amount) as total"
            "  from ledger_entries group by 1, 2, 3, 4) e using (shard, account_id, asset_id, kind)"
            " where balance is distinct from total"
        )
        assert not wrong
        fees = await self.pool.fetch(
            "select asset_id, balance from ledger_accounts where kind = $1 and balance <> 0",
            LedgerKind.FEES,
        )
        expected = {asset: units for asset, units in maker.exchange.fees().items() if units}
        assert {row[0]: int(row[1]) for row in fees} == expected
