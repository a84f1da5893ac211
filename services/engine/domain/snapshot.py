"""The state as bytes: canonical, versioned, checksummed.

Equal states give equal bytes, whatever way they came about, so the hash of the body is the state
hash. Layout: magic, version, `last_command_seq`, sha-256 of the body, body; numbers little-endian.
What can be derived (level totals, open order counts, heaps of expiries and triggers) is not
written.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Final

from services.engine.domain import snapshot_house, snapshot_margin
from services.engine.domain.accounts import Account, Remembered
from services.engine.domain.book import Book, BookSide, Condition, Order
from services.engine.domain.commands import AssetConfig, MarginTierConfig, MarketConfig, PlaceOrder
from services.engine.domain.scope import Scope
from services.engine.domain.state import State
from services.engine.domain.stops import wait

_MAGIC: Final = b"TIDEBOOK"
_VERSION: Final = 6

_HEADER: Final = Struct("<8sIQ32s")
_COUNT: Final = Struct("<Q")
_COUNTERS: Final = Struct("<QQQ")
_ASSET: Final = Struct("<IIIqq")
_MARKET: Final = Struct("<IIIIqqqqqqqqiiIIIqIqIQqqqqq")
_TIER: Final = Struct("<qII")
_PAIR: Final = Struct("<QQ")
_BALANCE: Final = Struct("<QIqq")
_REQUEST: Final = Struct("<IBBBBBBBIIqqqqqqQ")
_ORDER: Final = Struct("<QQqqqqqqiqqqqB")
_CONDITION: Final = Struct("<qqqQB")
_REMEMBERED: Final = Struct("<QQq")
# The counts of what `_dump_past` writes.
_NOTHING_PAST: Final = bytes(4 * _COUNT.size)


def dump(state: State) -> bytes:
    """The whole state, `last_command_seq` included."""
    body = dump_body(state)
    digest = hashlib.sha256(body).digest()
    return _HEADER.pack(_MAGIC, _VERSION, state.last_command_seq, digest) + body


def dump_scope(state: State, scope: Scope) -> bytes:
    """The state with the orders and balances of `scope` only, and nothing of what is closed."""
    body = dump_body(state, scope)
    digest = hashlib.sha256(body).digest()
    return _HEADER.pack(_MAGIC, _VERSION, state.last_command_seq, digest) + body


def dump_body(state: State, scope: Scope | None = None) -> bytes:
    """Everything but `last_command_seq`, which alone also counts refused commands."""
    parts = [_COUNTERS.pack(state.window_entries, state.epoch, state.last_order_id)]
    _dump_configuration(state, parts)
    transfers = state.transfers
    _dump_pairs(list(zip(transfers.starts, transfers.ends, strict=True)), parts)
    _dump_balances(state.accounts if scope is None else scope.accounts, parts)
    for market_id in sorted(state.books):
        book = state.books[market_id]
        if scope is None:
            _dump_side(book.bids, parts)
            _dump_side(book.asks, parts)
            _dump_waiting(state, book, parts)
        else:
            for orders in scope.of_market(book):
                _dump_orders(orders, parts)
    if scope is None:
        _dump_past(state, parts)
    else:
        parts.append(_NOTHING_PAST)
    snapshot_house.dump(state, parts)
    snapshot_margin.dump(state, state.accounts if scope is None else scope.accounts, parts)
    return b"".join(parts)


def _dump_past(state: State, parts: list[bytes]) -> None:
    """What is remembered of closed orders, and the switches."""
    parts.append(_COUNT.pack(len(state.window)))
    for known in state.window:
        parts.append(_REMEMBERED.pack(known.account.account_id, known.order_id, known.closed_ns))
        _dump_request(known.request, parts)
    _dump_pairs(list(state.closed_recently.items()), parts)
    _dump_pairs(list(state.closed_before.items()), parts)
    _dump_pairs(sorted(state.switches.items()), parts)


def load(data: bytes) -> State:
    """The state that `dump` wrote. Raises `ValueError` for anything else."""
    if len(data) < _HEADER.size:
        raise ValueError("not a snapshot: too short")
    magic, version, last_command_seq, digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("not a snapshot of this exchange")
    if version != _VERSION:
        raise ValueError(f"snapshot version {version}, this program reads {_VERSION}")
    body = data[_HEADER.size :]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("snapshot is damaged: its checksum is wrong")
    state = _Reader(body).state()
    state.last_command_seq = last_command_seq
    return state


# ---------------------------------------------------------------- writing


def _dump_text(text: str, parts: list[bytes]) -> None:
    encoded = text.encode()
    parts.append(_COUNT.pack(len(encoded)))
    parts.append(encoded)


def _dump_pairs(pairs: list[tuple[int, int]], parts: list[bytes]) -> None:
    parts.append(_COUNT.pack(len(pairs)))
    parts.extend([_PAIR.pack(first, second) for first, second in pairs])


def _dump_configuration(state: State, parts: list[bytes]) -> None:
    parts.append(_COUNT.pack(len(state.assets)))
    for asset_id in sorted(state.assets):
        asset = state.assets[asset_id]
        parts.append(
            _ASSET.pack(
                asset_id,
                asset.decimals,
                asset.transfer_decimals,
                state.fees[asset_id],
                state.external[asset_id],
            )
        )
        _dump_text(asset.code, parts)
    parts.append(_COUNT.pack(len(state.books)))
    for market_id in sorted(state.books):
        book = state.books[market_id]
        config = book.config
        parts.append(
            _MARKET.pack(
                market_id,
                config.kind,
                config.base_asset_id,
                config.quote_asset_id,
                config.tick_size_units,
                config.lot_size_units,
                config.units_per_tick_lot,
                config.min_quantity_lots,
                config.max_quantity_lots,
                config.min_notional_units,
                config.max_notional_units,
                config.max_price_ticks,
                config.maker_fee_bps,
                config.taker_fee_bps,
                config.max_open_orders,
                config.max_leverage,
                config.liquidation_fee_bps,
                config.price_stale_ns,
                config.price_band_bps,
                config.max_exposure_units,
                book.status,
                book.last_trade_id,
                book.last_price_ticks,
                book.external_bid_ticks,
                book.external_ask_ticks,
                book.index_ticks,
                book.external_ns,
            )
        )
        _dump_text(config.name, parts)
        parts.append(_COUNT.pack(len(config.margin_tiers)))
        for tier in config.margin_tiers:
            parts.append(
                _TIER.pack(tier.from_notional_units, tier.maintenance_bps, tier.max_leverage)
            )


def _dump_balances(accounts: dict[int, Account], parts: list[bytes]) -> None:
    """Balances that are not zero, by account, then asset."""
    rows = [
        _BALANCE.pack(account_id, asset_id, balance.free, balance.held)
        for account_id, account in sorted(accounts.items())
        for asset_id, balance in sorted(account.balances.items())
        if balance.free or balance.held
    ]
    parts.append(_COUNT.pack(len(rows)))
    parts.extend(rows)


def _dump_side(side: BookSide, parts: list[bytes]) -> None:
    """Orders of a side, best price first, oldest first: the order in which they are added again."""
    at = len(parts)
    count = 0
    for key in reversed(side.keys):
        order = side.levels[key].head
        while order is not None:
            _dump_order(order, parts)
            count += 1
            order = order.next
    parts.insert(at, _COUNT.pack(count))


def _dump_orders(orders: list[Order], parts: list[bytes]) -> None:
    parts.append(_COUNT.pack(len(orders)))
    for order in orders:
        _dump_order(order, parts)


def _dump_waiting(state: State, book: Book, parts: list[bytes]) -> None:
    """Stops that wait, by id; what they wait for is theirs."""
    found = [
        order_id
        for watch in (book.last_stops, book.mark_stops)
        for triggers in (watch.rising, watch.falling)
        for order_id in triggers.prices
    ]
    parts.append(_COUNT.pack(len(found)))
    for order_id in sorted(found):
        _dump_order(state.orders[order_id], parts)


def _dump_order(order: Order, parts: list[bytes]) -> None:
    condition = order.condition
    partner = condition.partner if condition is not None else None
    # Nothing is left of a condition that was met, once the order stands alone.
    ties = condition is not None and (condition.waits or partner is not None)
    parts.append(
        _ORDER.pack(
            order.order_id,
            order.account.account_id,
            order.price_ticks,
            order.remaining,
            order.hidden,
            order.uncovered,
            order.filled,
            order.hold_per_lot,
            order.maker_fee_bps,
            order.filled_notional,
            order.fees,
            order.created_ns,
            order.updated_ns,
            ties,
        )
    )
    if condition is not None and ties:
        parts.append(
            _CONDITION.pack(
                condition.trigger_ticks,
                condition.extreme_ticks,
                condition.own_hold,
                0 if partner is None else partner.order_id,
                condition.waits,
            )
        )
    _dump_request(order.request, parts)


def _dump_request(request: PlaceOrder, parts: list[bytes]) -> None:
    client_order_id = request.client_order_id.encode()
    parts.append(
        _REQUEST.pack(
            request.market_id,
            request.side,
            request.type,
            request.time_in_force,
            request.post_only + 2 * request.reduce_only,
            request.self_trade_prevention,
            request.trigger_source,
            len(client_order_id),
            request.max_slippage_bps,
            request.trailing_bps,
            request.price_ticks,
            request.quantity_lots,
            request.quote_amount_units,
            request.display_quantity_lots,
            request.expire_ns,
            request.trigger_price_ticks,
            request.stream_id,
        )
    )
    parts.append(client_order_id)


# ---------------------------------------------------------------- reading


class _Reader:
    """Takes the body apart in the order in which it was written."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        # The other order of each that is one of a pair.
        self._partners: dict[int, int] = {}

    def state(self) -> State:
        window_entries, epoch, last_order_id = self._take(_COUNTERS)
        state = State(window_entries)
        state.epoch = epoch
        state.last_order_id = last_order_id
        for _ in range(self._count()):
            self._load_asset(state)
        for _ in range(self._count()):
            self._load_market(state)
        for start, end in self._pairs():
            state.transfers.starts.append(start)
            state.transfers.ends.append(end)
        for _ in range(self._count()):
            account_id, asset_id, free, held = self._take(_BALANCE)
            balance = state.account(account_id).balance(asset_id)
            balance.free = free
            balance.held = held
        orders: list[Order] = []
        for market_id in sorted(state.books):
            book = state.books[market_id]
            self._load_side(state, book, book.bids, orders)
            self._load_side(state, book, book.asks, orders)
            orders += [self._load_order(state, book) for _ in range(self._count())]
        for _ in range(self._count()):
            account_id, order_id, closed_ns = self._take(_REMEMBERED)
            account = state.account(account_id)
            known = Remembered(account, order_id, self._request(account_id))
            known.closed_ns = closed_ns
            account.client_ids[known.request.client_order_id] = known
            state.window.append(known)
        self._register(state, orders)
        state.closed_recently = dict(self._pairs())
        state.closed_before = dict(self._pairs())
        for account_id, at_ns in self._pairs():
            state.set_switch(account_id, at_ns)
        self._at = snapshot_house.load(state, self._body, self._at)
        self._at = snapshot_margin.load(state, self._body, self._at)
        if self._at != len(self._body):
            raise ValueError("snapshot has bytes left over")
        return state

    def _take(self, layout: Struct) -> tuple[int, ...]:
        fields = layout.unpack_from(self._body, self._at)
        self._at += layout.size
        return fields

    def _count(self) -> int:
        return self._take(_COUNT)[0]

    def _pairs(self) -> list[tuple[int, int]]:
        size = self._count() * _PAIR.size
        end = self._at + size
        pairs = [(first, second) for first, second in _PAIR.iter_unpack(self._body[self._at : end])]
        self._at = end
        return pairs

    def _text(self, size: int) -> str:
        end = self._at + size
        text = self._body[self._at : end].decode()
        self._at = end
        return text

    def _load_asset(self, state: State) -> None:
        asset_id, decimals, transfer_decimals, fees, external = self._take(_ASSET)
        code = self._text(self._count())
        state.assets[asset_id] = AssetConfig(asset_id, code, decimals, transfer_decimals)
        state.fees[asset_id] = fees
        state.clearing[asset_id] = 0
        state.external[asset_id] = external

    def _load_market(self, state: State) -> None:
        fields = self._take(_MARKET)
        name = self._text(self._count())
        tiers = tuple([MarginTierConfig(*self._take(_TIER)) for _ in range(self._count())])
        market_id, kind, base_asset_id, quote_asset_id = fields[:4]
        config = MarketConfig(market_id, name, kind, base_asset_id, quote_asset_id)
        (
            config.tick_size_units,
            config.lot_size_units,
            config.units_per_tick_lot,
            config.min_quantity_lots,
            config.max_quantity_lots,
            config.min_notional_units,
            config.max_notional_units,
            config.max_price_ticks,
            config.maker_fee_bps,
            config.taker_fee_bps,
            config.max_open_orders,
        ) = fields[4:15]
        config.max_leverage, config.margin_tiers = fields[15], tiers
        config.liquidation_fee_bps, config.price_stale_ns = fields[16:18]
        config.price_band_bps, config.max_exposure_units = fields[18:20]
        book = Book(config)
        book.status, book.last_trade_id, book.last_price_ticks = fields[20:23]
        book.external_bid_ticks, book.external_ask_ticks = fields[23:25]
        book.index_ticks, book.external_ns = fields[25:]
        state.books[book.market_id] = book

    def _load_side(self, state: State, book: Book, side: BookSide, orders: list[Order]) -> None:
        for _ in range(self._count()):
            order = self._load_order(state, book)
            side.add(order)
            orders.append(order)

    def _load_order(self, state: State, book: Book) -> Order:
        fields = self._take(_ORDER)
        order_id, account_id, price_ticks, remaining, hidden, uncovered = fields[:6]
        filled, hold_per_lot = fields[6:8]
        condition = None
        if fields[13]:
            trigger_ticks, extreme_ticks, own_hold, partner_id, waits = self._take(_CONDITION)
            condition = Condition(trigger_ticks, extreme_ticks, own_hold, waits=bool(waits))
            if partner_id:
                self._partners[order_id] = partner_id
        account = state.account(account_id)
        request = self._request(account_id)
        order = Order(
            order_id,
            account,
            book,
            request,
            account.balance(book.hold_asset_id(request.side)),
            price_ticks,
            remaining,
            hold_per_lot,
            fields[11],
        )
        order.condition = condition
        order.hidden = hidden
        order.uncovered = uncovered
        order.filled = filled
        order.maker_fee_bps = fields[8]
        order.filled_notional = fields[9]
        order.fees = fields[10]
        order.updated_ns = fields[12]
        return order

    def _register(self, state: State, orders: list[Order]) -> None:
        """Index the live orders, oldest first, as they came into being."""
        orders.sort(key=lambda order: order.order_id)
        for order in orders:
            if order.waits():
                wait(state, order)
            else:
                state.register(order)
            request = order.request
            if request.client_order_id:
                order.account.client_ids[request.client_order_id] = Remembered(
                    order.account, order.order_id, request
                )

        for order_id, partner_id in self._partners.items():
            condition = state.orders[order_id].condition
            assert condition is not None
            condition.partner = state.orders[partner_id]

    def _request(self, account_id: int) -> PlaceOrder:
        # By position, and without `_take` and `_text`: there are millions of these.
        (
            market_id,
            side,
            kind,
            time_in_force,
            flags,
            prevention,
            source,
            size,
            slippage,
            trailing,
            price,
            quantity,
            amount,
            display,
            expire,
            trigger,
            stream,
        ) = _REQUEST.unpack_from(self._body, self._at)
        start = self._at + _REQUEST.size
        self._at = end = start + size
        return PlaceOrder(
            account_id,
            market_id,
            self._body[start:end].decode(),
            side,
            kind,
            time_in_force,
            price,
            quantity,
            amount,
            (flags & 1) != 0,
            (flags & 2) != 0,
            display,
            prevention,
            slippage,
            expire,
            trigger,
            source,
            trailing,
            stream,
        )
