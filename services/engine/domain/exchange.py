"""The exchange: one command in, the events it caused out. Pure, deterministic, integers only."""

from __future__ import annotations

import hashlib

from kernel.reasons import Reason, Refused
from services.engine.domain import (
    amending,
    cfds,
    invariants,
    liquidation,
    margin_commands,
    oco,
    placing,
    risk,
    snapshot,
    stops,
    system,
)
from services.engine.domain.book import BookSide, Order
from services.engine.domain.commands import (
    AmendOrder,
    AssetConfig,
    BeginEpoch,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    Command,
    Configure,
    PlaceOco,
    PlaceOrder,
    PriceUpdate,
    SetMarketStatus,
    SetPrices,
    Tick,
    Transfer,
)
from services.engine.domain.constants import (
    ORDER_STATUS_OPEN,
    ORDER_STATUS_PARTIALLY_FILLED,
    ORDER_STATUS_UNTRIGGERED,
    ORDER_TYPE_MARKET,
)
from services.engine.domain.events import CommandRefused, Event, OrderAmended
from services.engine.domain.house import Cfd
from services.engine.domain.position_commands import (
    AddMargin,
    CloseCfd,
    OpenCfd,
    SetLeverage,
    UpdateCfdTriggers,
)
from services.engine.domain.position_events import CfdOpened
from services.engine.domain.positions import Position, leverage_of
from services.engine.domain.scope import Scope
from services.engine.domain.state import WINDOW_ENTRIES, State
from services.engine.domain.views import (
    BalanceView,
    BookView,
    CfdView,
    LevelView,
    MarketView,
    OrderView,
    Outlook,
    PositionView,
    RestingView,
    RiskView,
)


class Exchange:
    """Balances, books and everything else that decides what a command does.

    `window_entries` bounds how many client order ids of closed orders are remembered.
    """

    __slots__ = ("_state",)

    def __init__(self, window_entries: int = WINDOW_ENTRIES) -> None:
        self._state = State(window_entries)

    def apply(self, command: Command, now_ns: int) -> list[Event]:
        """Apply one command at a time (of the log entry, never decreasing).

        A refused command yields exactly one `CommandRefused` and changes nothing but
        `last_command_seq`.
        """
        state = self._state
        state.last_command_seq += 1
        try:
            # These four look for the first answer to a repetition before the deadline.
            if isinstance(command, PlaceOrder):
                if command.type > ORDER_TYPE_MARKET:
                    return stops.place(state, command, now_ns)
                events = placing.place(state, command, now_ns)
                if len(events) > 1:
                    self._after(command.market_id, now_ns, events)
                return events
            if isinstance(command, Transfer):
                return system.transfer(state, command, now_ns)
            if isinstance(command, OpenCfd):
                return cfds.open_cfd(state, command, now_ns)
            if isinstance(command, PlaceOco):
                events = oco.place(state, command, now_ns)
                if len(events) > 2:
                    self._after(command.first.market_id, now_ns, events)
                return events
            if 0 < command.deadline_ns < now_ns:
                raise Refused(Reason.DEADLINE_PASSED, field="deadline_ns")
            if isinstance(command, CancelOrder):
                return amending.cancel(state, command, now_ns)
            if isinstance(command, AmendOrder):
                events = amending.amend(state, command, now_ns)
                amended = events[0]
                if isinstance(amended, OrderAmended) and len(events) > 1:
                    self._after(amended.market_id, now_ns, events)
                return events
            if isinstance(command, CancelAll):
                return amending.cancel_all(state, command, now_ns)
            if isinstance(command, CancelAllAfter):
                return amending.cancel_all_after(state, command)
            if isinstance(command, SetPrices):
                events = system.set_prices(state, command, now_ns)
                for price in command.prices:
                    self._after(price.market_id, now_ns, events, priced=True)
                return events
            if isinstance(command, SetLeverage):
                return margin_commands.set_leverage(state, command)
            if isinstance(command, AddMargin):
                return margin_commands.add_margin(state, command)
            if isinstance(command, CloseCfd):
                return cfds.close_cfd(state, command, now_ns)
            if isinstance(command, UpdateCfdTriggers):
                return cfds.update_triggers(state, command)
            if isinstance(command, Tick):
                return system.tick(state, command, now_ns)
            if isinstance(command, SetMarketStatus):
                events = system.set_market_status(state, command)
                self._after(command.market_id, now_ns, events, resumed=True)
                return events
            if isinstance(command, BeginEpoch):
                return system.begin_epoch(state, command)
            if isinstance(command, Configure):
                return system.configure(state, command)
            raise Refused(Reason.UNSUPPORTED)
        except Refused as refused:
            return [CommandRefused(int(refused.reason), refused.field)]

    def _after(
        self,
        market_id: int,
        now_ns: int,
        events: list[Event],
        *,
        priced: bool = False,
        resumed: bool = False,
    ) -> None:
        """What trades or prices of a market set off: liquidations first, then stops, until neither
        finds anything more."""
        state = self._state
        book = state.books[market_id]
        seen = 0
        while True:
            if book.positions:
                liquidation.sweep(state, book, now_ns, events)
            before = len(events)
            if state.waiting:
                stops.cascade(
                    state, book, events, now_ns, seen=seen, priced=priced, resumed=resumed
                )
            seen = len(events)
            priced = resumed = False
            if seen == before or not book.positions:
                return

    # ------------------------------------------------------------ reading

    @property
    def last_command_seq(self) -> int:
        """How many commands were applied, refused ones included."""
        return self._state.last_command_seq

    @property
    def epoch(self) -> int:
        """Epoch of the newest writer; 0 before the first."""
        return self._state.epoch

    def order(self, order_id: int) -> OrderView | None:
        """A live order."""
        order = self._state.orders.get(order_id)
        return None if order is None else _order_view(order)

    def order_by_client_id(self, account_id: int, client_order_id: str) -> OrderView | None:
        """A live order by its owner's id."""
        account = self._state.accounts.get(account_id)
        known = None if account is None else account.client_ids.get(client_order_id)
        return None if known is None else self.order(known.order_id)

    def known_order_id(self, account_id: int, client_order_id: str, now_ns: int) -> int:
        """Order of a client id, live or inside the idempotency window; 0 if there is none."""
        known = self._state.remembered(account_id, client_order_id, now_ns)
        return 0 if known is None else known.order_id

    def known_request(
        self, account_id: int, client_order_id: str, now_ns: int
    ) -> PlaceOrder | None:
        """What a client id asked for, live or inside the idempotency window; not to be changed."""
        known = self._state.remembered(account_id, client_order_id, now_ns)
        return None if known is None else known.request

    def open_orders(self, account_id: int, market_id: int = 0) -> list[OrderView]:
        """Live orders of an account, oldest first; of all markets when `market_id` is 0."""
        account = self._state.accounts.get(account_id)
        if account is None:
            return []
        return [
            _order_view(order)
            for order in account.live_orders()
            if market_id == 0 or order.book.market_id == market_id
        ]

    def live_requests(self) -> dict[int, PlaceOrder]:
        """What every live order asked for, by order id; never to be changed."""
        return {order_id: order.request for order_id, order in self._state.orders.items()}

    def open_order_count(self) -> int:
        """Live orders of all accounts."""
        return len(self._state.orders)

    def account(self, account_id: int) -> dict[int, BalanceView]:
        """Asset id -> balance, for every asset the account has some of."""
        account = self._state.accounts.get(account_id)
        if account is None:
            return {}
        return {
            asset_id: BalanceView(balance.free, balance.held)
            for asset_id, balance in sorted(account.balances.items())
            if balance.free or balance.held
        }

    def accounts(self) -> list[int]:
        """Ids of the accounts that have money, ascending."""
        return sorted(
            account_id
            for account_id, account in self._state.accounts.items()
            if any(balance.free or balance.held for balance in account.balances.values())
        )

    def book(self, market_id: int) -> BookView:
        """Every resting order of a market. Raises `KeyError` for an unknown market."""
        book = self._state.books[market_id]
        return BookView(market_id, _levels(book.bids), _levels(book.asks))

    def cfds(self, account_id: int) -> list[CfdView]:
        """Open contracts of an account, oldest first."""
        return [_cfd_view(cfd) for cfd in self._state.house.of_account(account_id)]

    def open_cfds(self) -> list[CfdView]:
        """Open contracts of all accounts, by id."""
        return [_cfd_view(cfd) for _, cfd in sorted(self._state.house.cfds.items())]

    def external_prices(self) -> list[PriceUpdate]:
        """What the feed said last, by market; only of markets of which it said something."""
        return [
            PriceUpdate(
                market_id,
                book.external_bid_ticks,
                book.external_ask_ticks,
                book.index_ticks,
                book.external_ns,
            )
            for market_id, book in sorted(self._state.books.items())
            if book.external_ns
        ]

    def preview_cfd(self, command: OpenCfd, now_ns: int) -> CfdOpened:
        """What opening a contract would come to; changes nothing. Raises `Refused`."""
        return cfds.terms(self._state, command, now_ns)

    def house(self) -> dict[int, int]:
        """Asset id -> units that the house has won, negative for lost."""
        return dict(sorted(self._state.house.balances.items()))

    def exposure(self, market_id: int) -> int:
        """Notional of a market's long contracts minus that of its short ones, quote units."""
        desk = self._state.house.desks.get(market_id)
        return desk.net_units if desk is not None else 0

    def assets(self) -> list[AssetConfig]:
        """Assets by id."""
        return [asset for _, asset in sorted(self._state.assets.items())]

    def markets(self) -> list[MarketView]:
        """Markets by id."""
        return [
            MarketView(book.config, book.status, book.last_trade_id, book.last_price_ticks)
            for _, book in sorted(self._state.books.items())
        ]

    def fees(self) -> dict[int, int]:
        """Asset id -> units of fees taken so far."""
        return dict(sorted(self._state.fees.items()))

    def positions(self, account_id: int) -> list[PositionView]:
        """Open margin positions of an account, by market."""
        account = self._state.accounts.get(account_id)
        if account is None:
            return []
        return [_position_view(position) for _, position in sorted(account.positions.items())]

    def position(self, account_id: int, market_id: int) -> PositionView | None:
        """An account's open margin position in a market."""
        account = self._state.accounts.get(account_id)
        position = None if account is None else account.positions.get(market_id)
        return None if position is None else _position_view(position)

    def risk(
        self, account_id: int, now_ns: int, market_id: int = 0, price_ticks: int = 0
    ) -> RiskView:
        """How near an account is to liquidation; see `risk.risk`."""
        return risk.risk(self._state, account_id, now_ns, market_id, price_ticks)

    def outlook(self, account_id: int, market_id: int, order_id: int, now_ns: int) -> Outlook:
        """What a live order would make of its account's position; see `risk.outlook`."""
        state = self._state
        return risk.outlook(state, account_id, state.books[market_id], order_id, now_ns)

    def open_position_count(self) -> int:
        """Open margin positions of all accounts, the insurance fund's among them."""
        return sum(len(book.positions) for book in self._state.books.values())

    def leverage(self, account_id: int, market_id: int) -> int:
        """Leverage that an account has chosen on a market; 1 if it has not."""
        account = self._state.accounts.get(account_id)
        return 1 if account is None else leverage_of(account, market_id)

    def mark_price(self, market_id: int, now_ns: int) -> int:
        """Mark price in ticks; 0 for none. Raises `KeyError` for an unknown market."""
        return self._state.books[market_id].mark_price(now_ns)

    def clearing(self) -> dict[int, int]:
        """Asset id -> units owed to (or by) open margin positions; 0 while none is open."""
        return dict(sorted(self._state.clearing.items()))

    def external(self) -> dict[int, int]:
        """Asset id -> units that came in by transfers minus those that left."""
        return dict(sorted(self._state.external.items()))

    def next_due_ns(self) -> int:
        """When a `Tick` is due: an order expires or a dead man's switch fires; 0 for never."""
        return self._state.next_due_ns()

    # ------------------------------------------------------------ the whole state

    def state_hash(self) -> bytes:
        """sha-256 over everything that decides future behaviour, `last_command_seq` left out."""
        return hashlib.sha256(snapshot.dump_body(self._state)).digest()

    def snapshot(self) -> bytes:
        """Everything that decides future behaviour, in a versioned canonical form."""
        return snapshot.dump(self._state)

    @staticmethod
    def restore(data: bytes) -> Exchange:
        """The exchange that `snapshot` was taken of. Raises `ValueError` for anything else."""
        exchange = Exchange()
        exchange._state = snapshot.load(data)
        return exchange

    def copy_for(self, command: PlaceOrder) -> Exchange:
        """An exchange that does with this order what this one would, and forgets what it did.

        It has those orders only that matter for that: stops that its trades would fire are not
        among them. Client order ids are not known there. What it costs depends on how far the order
        reaches, not on how many orders there are.
        """
        return Exchange.restore(snapshot.dump_scope(self._state, Scope(self._state, command)))

    def check_invariants(self) -> None:
        """Raise `AssertionError` if money, holds or books are not what they must be."""
        invariants.check(self._state)


def _order_view(order: Order) -> OrderView:
    status = ORDER_STATUS_PARTIALLY_FILLED if order.filled else ORDER_STATUS_OPEN
    condition = order.condition
    partner = condition.partner if condition is not None else None
    return OrderView(
        order_id=order.order_id,
        account_id=order.account.account_id,
        market_id=order.book.market_id,
        side=order.side,
        status=ORDER_STATUS_UNTRIGGERED if order.waits() else status,
        price_ticks=order.price_ticks,
        quantity_lots=order.filled + order.remaining,
        filled_lots=order.filled,
        hold_asset_id=order.hold_asset_id(),
        hold_units=order.hold_units(),
        filled_notional_units=order.filled_notional,
        fees_units=order.fees,
        created_ns=order.created_ns,
        updated_ns=order.updated_ns,
        trigger_price_ticks=order.trigger_ticks(),
        oco_order_id=0 if partner is None else partner.order_id,
        request=order.request,
    )


def _position_view(position: Position) -> PositionView:
    return PositionView(
        account_id=position.account.account_id,
        market_id=position.book.market_id,
        quantity_lots=position.quantity,
        entry_notional_units=position.entry_notional,
        margin_units=position.margin,
        leverage=leverage_of(position.account, position.book.market_id),
        liquidation_ticks=position.liquidation_ticks,
        realised_pnl_units=position.realised_pnl,
        fees_units=position.fees,
        opened_ns=position.opened_ns,
    )


def _cfd_view(cfd: Cfd) -> CfdView:
    return CfdView(cfds.as_opened(cfd), cfd.opened_ns)


def _levels(side: BookSide) -> tuple[LevelView, ...]:
    levels = []
    for key in reversed(side.keys):
        level = side.levels[key]
        orders = []
        order = level.head
        while order is not None:
            orders.append(RestingView(order.order_id, order.account.account_id, order.shown()))
            order = order.next
        levels.append(LevelView(key * side.sign, level.quantity, tuple(orders)))
    return tuple(levels)
