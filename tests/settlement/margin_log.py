"""A log of margin trades, CFDs and liquidations, with its own idea of what everybody has.

Made by hand from what log.proto says of each event, without the engine's core: the naive books here
are the expectation that settlement is held against.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tidebook.engine.v1 import log_pb2, types_pb2

from mesh.log import GENESIS_HASH, LogRecord, chain_hash
from services.settlement.domain.ledger import LedgerKind
from services.settlement.domain.rows import MarketKind

USDC, BTC = 1, 2
MARGIN, CFD = 11, 21
FUND, HOUSE = 1, 2
START_NS = 1_700_000_000_000_000_000


@dataclass
class Position:
    """Lots (negative for short), what they cost, and the margin behind them."""

    lots: int = 0
    entry: int = 0
    margin: int = 0
    realised: int = 0
    fees: int = 0


@dataclass
class MarginLog:
    """Writes entries, one a call, and keeps naive books beside them."""

    seq: int = 0
    hash: bytes = GENESIS_HASH
    command_seq: int = 0
    order_id: int = 0
    trade_id: int = 0
    cfd_id: int = 0
    liquidation_id: int = 0
    free: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    fees: int = 0
    house: int = 0
    clearing: int = 0
    external: int = 0
    positions: dict[int, Position] = field(default_factory=lambda: defaultdict(Position))
    cfds: dict[int, tuple[int, int]] = field(default_factory=dict)
    closed: list[tuple[int, int, int, bool]] = field(default_factory=list)
    time_ns: int = START_NS

    def begin(self, *accounts: int) -> LogRecord:
        """Assets, one margin and one CFD market, and money for the accounts and the fund."""
        command = log_pb2.LoggedCommand()
        for asset_id, code in ((USDC, "USDC"), (BTC, "BTC")):
            command.configure.assets.add(
                asset_id=asset_id, code=code, decimals=8, transfer_decimals=6
            )
        for market_id, name, kind in (
            (MARGIN, "BTC_USDC_MARGIN", MarketKind.MARGIN),
            (CFD, "BTC_USDC_CFD", MarketKind.CFD),
        ):
            command.configure.markets.add(
                market_id=market_id,
                name=name,
                kind=types_pb2.MarketKind.ValueType(kind),
                base_asset_id=BTC,
                quote_asset_id=USDC,
                tick_size_units=10**6,
                lot_size_units=1000,
            )
        command.events.add().configured.SetInParent()
        for number, account_id in enumerate((FUND, *accounts), start=1):
            event = command.events.add().transfer_applied
            event.transfer_id, event.account_id, event.asset_id = number, account_id, USDC
            event.amount_units, event.kind = 10**12, types_pb2.TRANSFER_KIND_DEPOSIT
            self.free[account_id] += 10**12
            self.external += 10**12
        return self._entry(command)

    def trade(self, buyer: int, seller: int, price: int, lots: int, fee: int = 7) -> LogRecord:
        """Two orders meet: both are placed with a hold, trade, and change two positions."""
        command = log_pb2.LoggedCommand(place_order=log_pb2.PlaceOrderCommand(market_id=MARGIN))
        orders = {}
        notional = price * lots
        for account_id, side in ((seller, types_pb2.SIDE_SELL), (buyer, types_pb2.SIDE_BUY)):
            self.order_id += 1
            orders[account_id] = self.order_id
            hold = notional + fee
            command.events.add().order_placed.MergeFrom(
                log_pb2.OrderPlaced(
                    order_id=self.order_id,
                    account_id=account_id,
                    market_id=MARGIN,
                    hold_asset_id=USDC,
                    hold_units=hold,
                    price_ticks=price,
                    side=side,
                    quantity_lots=lots,
                )
            )
            self.free[account_id] -= hold
            self.held[account_id] += hold
        self.trade_id += 1
        command.events.add().trade.MergeFrom(
            log_pb2.Trade(
                trade_id=self.trade_id,
                market_id=MARGIN,
                price_ticks=price,
                quantity_lots=lots,
                taker_side=types_pb2.SIDE_BUY,
                maker_order_id=orders[seller],
                maker_account_id=seller,
                taker_order_id=orders[buyer],
                taker_account_id=buyer,
                maker_fee_units=fee,
                taker_fee_units=fee,
                notional_units=notional,
            )
        )
        for account_id, delta in ((seller, -lots), (buyer, lots)):
            event = self._moved(account_id, delta, price, fee)
            event.trade_id, event.order_id = self.trade_id, orders[account_id]
            event.hold_released = notional + fee
            self.free[account_id] += event.hold_released
            self.held[account_id] -= event.hold_released
            command.events.add().position_changed.CopyFrom(event)
            command.events.add().order_closed.MergeFrom(
                log_pb2.OrderClosed(
                    order_id=orders[account_id],
                    account_id=account_id,
                    market_id=MARGIN,
                    status=types_pb2.ORDER_STATUS_FILLED,
                )
            )
        return self._entry(command)

    def add_margin(self, account_id: int, units: int) -> LogRecord:
        """More margin behind a position."""
        position = self.positions[account_id]
        position.margin += units
        self.free[account_id] -= units
        self.held[account_id] += units
        command = log_pb2.LoggedCommand(account_id=account_id)
        command.add_margin.SetInParent()
        command.events.add().position_changed.MergeFrom(
            log_pb2.PositionChanged(
                account_id=account_id,
                market_id=MARGIN,
                quantity_lots=position.lots,
                entry_notional_units=position.entry,
                margin_units=position.margin,
                margin_delta_units=units,
            )
        )
        return self._entry(command)

    def liquidate(self, account_id: int, price: int, surplus: int) -> LogRecord:
        """The fund takes a position over, and a surplus from what its owner has left."""
        position = self.positions[account_id]
        lots, entry, margin = position.lots, position.entry, position.margin
        command = log_pb2.LoggedCommand()
        command.set_prices.SetInParent()
        for of, delta in ((account_id, -lots), (FUND, lots)):
            command.events.add().position_changed.CopyFrom(
                self._moved(of, delta, price, 0, liquidated=of == account_id)
            )
        self.liquidation_id += 1
        receipt = log_pb2.Liquidated(
            liquidation_id=self.liquidation_id,
            account_id=account_id,
            market_id=MARGIN,
            formula_version=1,
            quantity_lots=lots,
            entry_notional_units=entry,
            margin_units=margin,
            mark_ticks=price,
            bankruptcy_ticks=price,
            fund_lots=abs(lots),
            fund_delta_units=surplus,
        )
        receipt.auto_deleverages.add(account_id=99, quantity_lots=2, price_ticks=price)
        command.events.add().liquidated.CopyFrom(receipt)
        self.free[account_id] -= surplus
        self.free[FUND] += surplus
        return self._entry(command)

    def open_cfd(self, account_id: int, margin: int, fee: int) -> LogRecord:
        """A contract against the house."""
        self.cfd_id += 1
        self.cfds[self.cfd_id] = (account_id, margin)
        self.free[account_id] -= margin + fee
        self.held[account_id] += margin
        self.fees += fee
        command = log_pb2.LoggedCommand(account_id=account_id)
        command.open_cfd.SetInParent()
        command.events.add().cfd_opened.MergeFrom(
            log_pb2.CfdOpened(
                cfd_id=self.cfd_id,
                account_id=account_id,
                market_id=CFD,
                side=types_pb2.SIDE_SELL,
                entry_ticks=23_595,
                margin_units=margin,
                notional_units=margin * 100,
                leverage=100,
                liquidation_ticks=23_830,
                stop_loss_ticks=23_700,
                fee_units=fee,
                client_cfd_id=f"c{self.cfd_id}",
            )
        )
        return self._entry(command)

    def set_triggers(self, cfd_id: int, stop_loss: int) -> LogRecord:
        """Another stop loss."""
        command = log_pb2.LoggedCommand()
        command.update_cfd_triggers.SetInParent()
        command.events.add().cfd_triggers_changed.MergeFrom(
            log_pb2.CfdTriggersChanged(
                cfd_id=cfd_id, account_id=self.cfds[cfd_id][0], stop_loss_ticks=stop_loss
            )
        )
        return self._entry(command)

    def close_cfd(self, cfd_id: int, pnl: int, fee: int) -> LogRecord:
        """It ends; a loss beyond the margin is the house's."""
        account_id, margin = self.cfds.pop(cfd_id)
        fee = min(fee, max(0, margin + pnl))
        returned = max(0, margin + pnl - fee)
        self.held[account_id] -= margin
        self.free[account_id] += returned
        self.fees += fee
        self.house += margin - returned - fee
        command = log_pb2.LoggedCommand(account_id=account_id)
        command.close_cfd.SetInParent()
        command.events.add().cfd_closed.MergeFrom(
            log_pb2.CfdClosed(
                cfd_id=cfd_id,
                account_id=account_id,
                market_id=CFD,
                close_ticks=23_574,
                pnl_units=pnl,
                returned_units=returned,
                reason=types_pb2.CFD_CLOSE_REASON_USER,
                margin_units=margin,
                fee_units=fee,
            )
        )
        return self._entry(command)

    def balances(self) -> dict[tuple[int, int, int], int]:
        """(account, asset, ledger kind) -> units of everybody but the outside, zeros left out."""
        found: dict[tuple[int, int, int], int] = defaultdict(int)
        for account_id in self.free.keys() | self.held.keys():
            free, held = self.free[account_id], self.held[account_id]
            if account_id == FUND:
                found[0, USDC, LedgerKind.INSURANCE] = free + held
            else:
                found[account_id, USDC, LedgerKind.CLIENT_FREE] = free
                found[account_id, USDC, LedgerKind.CLIENT_HELD] = held
        found[0, USDC, LedgerKind.FEES] = self.fees
        found[0, USDC, LedgerKind.HOUSE] = self.house
        found[0, USDC, LedgerKind.CLEARING] = self.clearing
        found[0, USDC, LedgerKind.DEPOSITS] = -self.external
        return {key: units for key, units in found.items() if units}

    def _moved(
        self, account_id: int, delta: int, price: int, fee: int, *, liquidated: bool = False
    ) -> log_pb2.PositionChanged:
        """Change a position by `delta` lots: what closes realises, what opens takes margin."""
        position = self.positions[account_id]
        closes = min(abs(delta), abs(position.lots)) if delta * position.lots < 0 else 0
        realised = margin_delta = 0
        if closes:
            sign = 1 if position.lots > 0 else -1
            basis = position.entry * closes // abs(position.lots)
            back = position.margin * closes // abs(position.lots)
            realised = sign * (closes * price - basis)
            position.entry -= basis
            margin_delta -= back
            position.lots -= sign * closes
        opens = abs(delta) - closes
        position.realised += realised
        position.fees += fee
        if closes and not position.lots:
            self.closed.append((account_id, position.realised, position.fees, liquidated))
            self.positions[account_id] = position = Position()
        else:
            position.margin += margin_delta
        if opens:
            own = 0 if account_id == FUND else opens * price // 10
            position.lots += opens if delta > 0 else -opens
            position.entry += opens * price
            position.margin += own
            margin_delta += own
        self.free[account_id] += realised - margin_delta - fee
        self.held[account_id] += margin_delta
        self.fees += fee
        self.clearing -= realised
        return log_pb2.PositionChanged(
            account_id=account_id,
            market_id=MARGIN,
            quantity_lots=position.lots,
            entry_notional_units=position.entry,
            margin_units=position.margin,
            realised_pnl_units=realised,
            margin_delta_units=margin_delta,
            fee_units=fee,
            delta_lots=delta,
            price_ticks=price,
        )

    def _entry(self, command: log_pb2.LoggedCommand) -> LogRecord:
        self.seq += 1
        self.command_seq += 1
        self.time_ns += 10**6
        entry = log_pb2.LogEntry(seq=self.seq, time_ns=self.time_ns)
        command.command_seq = self.command_seq
        entry.commands.append(command)
        payload = entry.SerializeToString()
        self.hash = chain_hash(self.hash, payload)
        return LogRecord(self.seq, payload, self.hash)
