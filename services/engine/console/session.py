"""One script at work: its exchange, its clock, its names, and the commands it can give."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from tidebook.engine.v1 import internal_pb2, order_pb2, position_pb2, types_pb2

from kernel.clock import ManualClock
from kernel.markets import DEFAULT_ASSETS, default_markets
from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from services.engine import codec, read_model
from services.engine.console.configuring import configure_command
from services.engine.console.fields import Fields, camel
from services.engine.console.names import Names
from services.engine.console.render import Renderer, json_of
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder, preview
from services.engine.encode_cfds import CfdEncoder
from services.engine.encode_positions import PositionEncoder
from services.engine.projection import Projection

# 2026-01-01T00:00:00Z
START_NS = 1_767_225_600 * 1_000_000_000
_SNAPSHOT_VERSION = 1
# Fields of the core's commands -> those a script writes.
_SAID = {"account_id": "account", "asset_id": "asset", "amount_units": "amount"}

Answer = dict[str, Any]


class Session:
    """The core behind the same codec and encoder as the service's RPCs, without log or network."""

    def __init__(self) -> None:
        self._clock = ManualClock(START_NS)
        self._exchange = Exchange()
        self._projection = Projection()
        self._names = Names()
        self._transfer_id = 0
        self._snapshots: dict[str, bytes] = {}
        self._commands: dict[str, Callable[[Fields], Answer]] = {
            "configure": self._configure,
            "deposit": self._deposit,
            "withdraw": self._withdraw,
            "place": self._place,
            "placeOco": self._place_oco,
            "preview": self._preview,
            "amend": self._amend,
            "cancel": self._cancel,
            "cancelAll": self._cancel_all,
            "cancelAllAfter": self._cancel_all_after,
            "batch": self._batch,
            "setMarketStatus": self._set_market_status,
            "setPrice": self._set_price,
            "setLeverage": self._set_leverage,
            "addMargin": self._add_margin,
            "closePosition": self._close_position,
            "positions": self._positions,
            "openCfd": self._open_cfd,
            "closeCfd": self._close_cfd,
            "updateCfdTriggers": self._update_cfd_triggers,
            "cfds": self._cfds,
            "tick": self._tick,
            "advance": self._advance,
            "book": self._book,
            "account": self._account,
            "orders": self._orders,
            "order": self._order,
            "markets": self._markets,
            "snapshot": self._snapshot,
            "restore": self._restore,
            "stateHash": self._state_hash,
            "help": self._help,
        }
        self._wire()
        self._apply(configuration(DEFAULT_ASSETS, default_markets()))

    def execute(self, data: dict[str, Any]) -> Answer:
        """Do one command and say what came of it. Raises `Refused`; nothing was changed then."""
        fields = Fields(data)
        name = fields.text("command")
        handler = self._commands.get(camel(name))
        if handler is None:
            raise Refused(Reason.INVALID_ARGUMENT, "is not a command; see help", field="command")
        answer = handler(fields)
        return {"ok": True, **answer}

    def _wire(self) -> None:
        """Everything that reads from the read model, for the one there is now."""
        self._texts = codec.MarketTexts()
        self._texts.replace(self._projection.markets)
        self._encoder = Encoder(self._projection, self._texts)
        self._renderer = Renderer(self._projection, self._texts, self._names)

    def _apply(self, command: c.Command, *order_names: str) -> Answer:
        """One command into the core and, unless it is refused, into the read model.

        `order_names` are those of the orders it places, in their order; empty for none.
        """
        now_ns = self._clock.now_ns()
        events = self._exchange.apply(command, now_ns)
        refused = self._encoder.refusal(command, events)
        if refused is not None:
            raise refused
        projection = self._projection
        projection.begin_entry(self._exchange.last_command_seq, now_ns)
        projection.apply(command, events)
        projection.end_entry(b"")
        if isinstance(command, c.Configure):
            self._texts.replace(projection.markets)
        for order_name, event in zip(order_names, events, strict=False):
            if order_name and isinstance(event, e.OrderPlaced | e.CommandRepeated):
                self._names.name_order(order_name, event.order_id)
        return {"events": [self._renderer.event(event) for event in events]}

    def _account_of(self, fields: Fields) -> int:
        return self._names.account(fields.text("account"))

    def _known_account(self, fields: Fields) -> int:
        """For views, which give out no ids; 0 for an account nobody has mentioned."""
        return self._names.account_ids.get(fields.text("account"), 0)

    def _with_order(self, fields: Fields) -> dict[str, Any]:
        """The id that `order` stands for: a name given when it was placed, else a client id."""
        name = fields.optional_text("order")
        if not name:
            return {}
        if fields.given("orderId") or fields.given("clientOrderId"):
            raise Refused(Reason.INVALID_ARGUMENT, "name it once only", field="order")
        order_id = self._names.order_ids.get(name)
        return {"client_order_id": name} if order_id is None else {"order_id": order_id}

    # ------------------------------------------------------------ money and rules

    def _configure(self, fields: Fields) -> Answer:
        assets, markets = fields.objects("assets"), fields.objects("markets")
        accounts = fields.objects("accounts")
        fields.end()
        command = configure_command(self._projection, assets, markets)
        # All or nothing, so a copy until the last refusal is behind us.
        names = Names.load(self._names.dump())
        for data in accounts:
            account = Fields(data)
            names.name_account(account.text("account"), account.number("accountId"))
            account.end()
        answer = self._apply(command)
        self._names = names
        self._wire()
        return answer

    def _deposit(self, fields: Fields) -> Answer:
        return self._transfer(fields, k.TRANSFER_KIND_DEPOSIT, 1)

    def _withdraw(self, fields: Fields) -> Answer:
        return self._transfer(fields, k.TRANSFER_KIND_WITHDRAWAL, -1)

    def _transfer(self, fields: Fields, kind: int, sign: int) -> Answer:
        account_id = self._account_of(fields)
        code, amount = fields.text("asset"), fields.text("amount")
        given = fields.given("transferId")
        transfer_id = fields.number("transferId") if given else self._transfer_id + 1
        fields.end()
        asset = next((a for a in self._projection.assets.values() if a.code == code), None)
        if asset is None:
            raise Refused(Reason.ASSET_NOT_FOUND, "no such asset", field="asset")
        units = sign * asset.parse(amount)
        answer = self._apply(c.Transfer(account_id, transfer_id, asset.asset_id, units, kind))
        self._transfer_id = max(self._transfer_id, transfer_id)
        return answer

    def _set_market_status(self, fields: Fields) -> Answer:
        request = fields.message(internal_pb2.SetMarketStatusRequest())
        market_id = self._texts.named(request.market).market.market_id
        return self._apply(c.SetMarketStatus(market_id=market_id, status=request.status))

    def _set_price(self, fields: Fields) -> Answer:
        text = self._texts.named(fields.text("market"))
        index = text.ticks(fields.text("price"), "price")
        bid = text.ticks(fields.optional_text("bid"), "bid")
        ask = text.ticks(fields.optional_text("ask"), "ask")
        fields.end()
        now_ns = self._clock.now_ns()
        price = c.PriceUpdate(text.market.market_id, bid, ask, index, now_ns)
        return self._apply(c.SetPrices(prices=(price,)))

    # ------------------------------------------------------------ orders

    def _place_command(self, fields: Fields) -> c.PlaceOrder:
        account_id = self._account_of(fields)
        request = fields.message(order_pb2.PlaceOrderRequest())
        return codec.place_command(request, self._texts, account_id)

    def _place(self, fields: Fields) -> Answer:
        name = fields.optional_text("order")
        return self._apply(self._place_command(fields), name)

    def _place_oco(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        names: list[str] = []
        pair = order_pb2.PlaceOcoRequest()
        for key, order in (("first", pair.first), ("second", pair.second)):
            leg = Fields(fields.object(key))
            names.append(leg.optional_text("order"))
            leg.message(order)
        fields.end()
        return self._apply(codec.oco_command(pair, self._texts, account_id), *names)

    def _preview(self, fields: Fields) -> Answer:
        command = self._place_command(fields)
        command.client_order_id = ""
        trial = self._exchange.copy_for(command)
        events = trial.apply(command, self._clock.now_ns())
        refused = self._encoder.refusal(command, events)
        if refused is not None:
            raise refused
        text = self._texts.by_id[command.market_id]
        return {"preview": json_of(preview(text, events))}

    def _amend(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        order = self._with_order(fields)
        request = fields.message(order_pb2.AmendOrderRequest(**order))
        command = codec.LateAmend(request, self._texts, account_id).resolve(self._exchange)
        if isinstance(command, Refused):
            raise command
        return self._apply(command)

    def _cancel(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        order = self._with_order(fields)
        request = fields.message(order_pb2.CancelOrderRequest(**order))
        return self._apply(codec.cancel_command(request, account_id))

    def _cancel_all(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(order_pb2.CancelAllOrdersRequest())
        return self._apply(codec.cancel_all_command(request, self._texts, account_id))

    def _cancel_all_after(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(order_pb2.CancelAllAfterRequest())
        return self._apply(
            codec.cancel_all_after_command(request, self._clock.now_ns(), account_id)
        )

    def _batch(self, fields: Fields) -> Answer:
        """Each item for itself: one that is refused does not stop the next."""
        account = fields.text("account")
        items = fields.objects("commands")
        fields.end()
        if not items:
            raise Refused(Reason.INVALID_ARGUMENT, "must not be empty", field="commands")
        return {"results": [self._batch_item(account, item) for item in items]}

    def _batch_item(self, account: str, item: dict[str, Any]) -> Answer:
        try:
            kinds = {"place", "amend", "cancel", "cancelAll"}
            name, data = next(iter(item.items()), ("", None))
            if len(item) != 1 or camel(name) not in kinds or not isinstance(data, dict):
                raise Refused(
                    Reason.INVALID_ARGUMENT,
                    "must have one of place, amend, cancel, cancelAll",
                    field="commands",
                )
            for field in ("account", "command"):
                if field in data:
                    raise Refused(Reason.INVALID_ARGUMENT, "is the batch's", field=field)
            return self.execute({"command": name, "account": account, **data})
        except Refused as refused:
            return refusal(refused)

    # ------------------------------------------------------------ margin positions

    def _set_leverage(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(position_pb2.SetLeverageRequest())
        return self._apply(codec.leverage_command(request, self._texts, account_id))

    def _add_margin(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(position_pb2.AddMarginRequest())
        return self._apply(codec.add_margin_command(request, self._texts, account_id))

    def _close_position(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(position_pb2.ClosePositionRequest())
        late = codec.LateClose(request, self._texts, account_id, self._clock.now_ns())
        command = late.resolve(self._exchange)
        if isinstance(command, Refused):
            raise command
        return self._apply(command)

    def _positions(self, fields: Fields) -> Answer:
        account_id = self._known_account(fields)
        request = fields.message(position_pb2.ListPositionsRequest())
        market_id = self._texts.id_of(request.market)
        encoder = PositionEncoder(self._projection, self._texts)
        risk = self._exchange.risk(account_id, self._clock.now_ns())
        found = [
            encoder.priced(account_id, one)
            for one in risk.positions
            if market_id in (0, one.market_id)
        ]
        return {"positions": [json_of(position) for position in found if position is not None]}

    # ------------------------------------------------------------ CFDs

    def _open_cfd(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(position_pb2.OpenCfdRequest())
        return self._apply(codec.open_cfd_command(request, self._texts, account_id))

    def _close_cfd(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(position_pb2.CloseCfdRequest())
        return self._apply(codec.close_cfd_command(request, account_id))

    def _update_cfd_triggers(self, fields: Fields) -> Answer:
        account_id = self._account_of(fields)
        request = fields.message(position_pb2.UpdateCfdTriggersRequest())
        cfd = self._projection.cfds.of(account_id, request.cfd_id)
        if cfd is None:
            raise Refused(Reason.CFD_NOT_FOUND, field="cfd_id")
        text = self._texts.by_id[cfd.opened.market_id]
        return self._apply(codec.cfd_triggers_command(request, text, account_id))

    def _cfds(self, fields: Fields) -> Answer:
        account_id = self._known_account(fields)
        request = fields.message(position_pb2.ListCfdsRequest())
        market_id = self._texts.id_of(request.market)
        encoder = CfdEncoder(self._projection, self._texts)
        found = self._projection.cfds.open_of(account_id, market_id)
        return {"cfds": [json_of(cfd) for cfd in encoder.cfds(found)]}

    # ------------------------------------------------------------ time

    def _tick(self, fields: Fields) -> Answer:
        if fields.names():
            self._move_clock(fields)
        fields.end()
        return self._apply(c.Tick())

    def _advance(self, fields: Fields) -> Answer:
        self._move_clock(fields)
        return {"time": self._time()}

    def _move_clock(self, fields: Fields) -> None:
        """Forward by `by`, or on to `to`."""
        now_ns = self._clock.now_ns()
        field = "by" if fields.given("by") else "to"
        by_ns = fields.duration_ns("by") if field == "by" else fields.time_ns("to") - now_ns
        fields.end()
        if by_ns < 0 or now_ns + by_ns > INT64_MAX:
            raise Refused(Reason.INVALID_ARGUMENT, "time only goes forward", field=field)
        self._clock.advance(by_ns)

    def _time(self) -> str:
        timestamp = order_pb2.Order().create_time
        codec.set_time(timestamp, self._clock.now_ns())
        return timestamp.ToJsonString()

    # ------------------------------------------------------------ views

    def _book(self, fields: Fields) -> Answer:
        text = self._texts.named(fields.text("market"))
        fields.end()
        market_id = text.market.market_id
        view = self._exchange.book(market_id)
        status = self._projection.market_status[market_id]
        return {
            "market": text.market.name,
            "status": types_pb2.MarketStatus.Name(types_pb2.MarketStatus.ValueType(status)),
            "bids": self._renderer.levels(view.bids, text),
            "asks": self._renderer.levels(view.asks, text),
        }

    def _account(self, fields: Fields) -> Answer:
        account_id = self._known_account(fields)
        fields.end()
        balances = self._projection.balances_of(account_id)
        return {
            "accountId": str(account_id),
            "balances": [json_of(b) for b in self._encoder.balances(balances, balances)],
        }

    def _orders(self, fields: Fields) -> Answer:
        account_id = self._known_account(fields)
        request = fields.message(order_pb2.ListOpenOrdersRequest())
        market_id = self._texts.id_of(request.market)
        orders = self._projection.open_orders_of(account_id, market_id)
        return {"orders": [self._renderer.order(order) for order in orders]}

    def _order(self, fields: Fields) -> Answer:
        account_id = self._known_account(fields)
        named = self._with_order(fields)
        request = fields.message(order_pb2.CancelOrderRequest(**named))
        command = codec.cancel_command(request, account_id)
        order_id = command.order_id or self._exchange.known_order_id(
            account_id, command.client_order_id, self._clock.now_ns()
        )
        order = self._projection.order_of(account_id, order_id)
        if order is None:
            raise Refused(Reason.ORDER_NOT_FOUND, "no such order of this account", field="order")
        return {"order": self._renderer.order(order)}

    def _markets(self, fields: Fields) -> Answer:
        fields.end()
        projection, encoder = self._projection, self._encoder
        return {
            "markets": [json_of(encoder.market(m)) for m in projection.markets.values()],
            "assets": [json_of(encoder.asset(a)) for a in projection.assets.values()],
        }

    def _state_hash(self, fields: Fields) -> Answer:
        fields.end()
        return {"stateHash": self._exchange.state_hash().hex()}

    def _help(self, fields: Fields) -> Answer:
        fields.end()
        return {"commands": list(self._commands), "format": "docs/console.md"}

    # ------------------------------------------------------------ the whole state

    def _snapshot(self, fields: Fields) -> Answer:
        name = fields.optional_text("name")
        fields.end()
        data = json.dumps(
            {
                "version": _SNAPSHOT_VERSION,
                "now_ns": self._clock.now_ns(),
                "transfer_id": self._transfer_id,
                "names": self._names.dump(),
                "core": base64.b64encode(self._exchange.snapshot()).decode(),
                "readers": base64.b64encode(read_model.dump(self._projection, {})).decode(),
            }
        ).encode()
        if name:
            self._snapshots[name] = data
            return {"name": name}
        return {"data": base64.b64encode(data).decode()}

    def _restore(self, fields: Fields) -> Answer:
        field = "name" if fields.given("name") else "data"
        text = fields.text(field)
        fields.end()
        if field == "name" and text not in self._snapshots:
            raise Refused(Reason.NOT_FOUND, "no snapshot has this name", field=field)
        try:
            data = json.loads(self._snapshots[text] if field == "name" else base64.b64decode(text))
            if data["version"] != _SNAPSHOT_VERSION:
                raise ValueError("another version")
            exchange = Exchange.restore(base64.b64decode(data["core"]))
            projection = Projection()
            read_model.load(base64.b64decode(data["readers"]), exchange, projection)
            exchange.check_invariants()
            names = Names.load(data["names"])
            clock, transfer_id = ManualClock(int(data["now_ns"])), int(data["transfer_id"])
        except Exception as error:
            # Bytes from outside that get past the checksums may break anywhere; nothing is taken
            # over before all of it is good.
            raise Refused(Reason.INVALID_ARGUMENT, "is not a snapshot", field=field) from error
        self._exchange, self._projection, self._names = exchange, projection, names
        self._clock, self._transfer_id = clock, transfer_id
        self._wire()
        return {"stateHash": exchange.state_hash().hex()}


def refusal(refused: Refused) -> Answer:
    """A refusal as the console says it."""
    answer: Answer = {"ok": False, "reason": refused.reason.name}
    if refused.field:
        answer["field"] = camel(_SAID.get(refused.field, refused.field))
    answer["message"] = refused.message
    if refused.details:
        answer["details"] = refused.details
    return answer
