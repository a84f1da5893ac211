"""Events and views as JSON, in the units and words of the public messages.

Events go by the names of their fields, whose endings say the unit everywhere in the core, and by
the types that log.proto gives them: an event that is added there needs nothing here.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.engine.v1 import log_pb2

from services.engine.codec import MarketTexts
from services.engine.console.fields import camel
from services.engine.console.names import Names
from services.engine.domain import events as e
from services.engine.domain import position_events as pe
from services.engine.domain.record import Record, field_names
from services.engine.domain.views import LevelView
from services.engine.encode import Encoder
from services.engine.projection import OrderState, Projection
from services.engine.texts import MarketText

# Amounts whose names do not end in `_units`.
_AMOUNTS = {"quote_hold_taken", "hold_released", "hold_delta"}
# Of the asset that the event names, not of the market's quote.
_HELD = {"hold_units", "hold_released", "hold_delta"}
_INT64 = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


def json_of(message: Message) -> dict[str, Any]:
    """A public message as the HTTP gateway shows it too: fields that are zero included."""
    shown: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return shown


class Renderer:
    """Renders against one read model and the names of one script."""

    def __init__(self, projection: Projection, texts: MarketTexts, names: Names) -> None:
        self._projection = projection
        self._texts = texts
        self._names = names
        self._encoder = Encoder(projection, texts)

    def event(self, event: e.Event) -> dict[str, Any]:
        """One event, its kind under `event`."""
        kind = type(event).__name__
        descriptor = log_pb2.DESCRIPTOR.message_types_by_name[kind]
        return {"event": kind[0].lower() + kind[1:], **self._record(event, descriptor)}

    def order(self, order: OrderState) -> dict[str, Any]:
        """An order, with its name in the script if it has one."""
        return {**self._order_name(order.order_id), **json_of(self._encoder.order(order))}

    def levels(self, levels: tuple[LevelView, ...], text: MarketText) -> list[dict[str, Any]]:
        """One side of a book, best price first, each queue oldest first."""
        return [
            {
                "price": text.price(level.price_ticks),
                "quantity": text.quantity(level.quantity_lots),
                "orders": [
                    {
                        "orderId": str(order.order_id),
                        **self._order_name(order.order_id),
                        "account": self._account(order.account_id),
                        "quantity": text.quantity(order.quantity_lots),
                    }
                    for order in level.orders
                ],
            }
            for level in levels
        ]

    def _record(
        self, record: Record, descriptor: Descriptor, outer: Record | None = None
    ) -> dict[str, Any]:
        """A record; what is inside another one is of that one's market."""
        shown: dict[str, Any] = {}
        of = outer or record
        for name in field_names(type(record)):
            field = descriptor.fields_by_name[name]
            value = getattr(record, name)
            inner = field.message_type
            if inner is None:
                shown.update(self._value(name, value, field, of))
            elif isinstance(value, Record):
                shown[camel(name)] = self._record(value, inner, of)
            else:
                shown[camel(name)] = [self._record(item, inner, of) for item in value]
        return shown

    def _value(
        self, name: str, value: Any, field: FieldDescriptor, record: Record
    ) -> dict[str, Any]:
        """One field; nothing for a zero that stands for "none"."""
        stem, _, unit = name.rpartition("_")
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return {camel(name): known.name if known else value} if value else {}
        if unit == "id":
            return self._id(stem, value)
        if unit == "ns":
            return {camel(stem + "_time"): _time(value)} if value else {}
        if unit in ("ticks", "lots"):
            text = self._text(record)
            if unit == "lots":
                return {camel(stem): text.quantity(value)}
            return {camel(stem): text.price(value)} if value else {}
        if unit == "units" or name in _AMOUNTS:
            key = stem if unit == "units" else name
            return {camel(key): self._amount(name, value, record)}
        is_int64 = field.cpp_type in _INT64 and not isinstance(value, bool)
        return {camel(name): str(value) if is_int64 else value}

    def _id(self, stem: str, value: int) -> dict[str, Any]:
        if not value:
            return {}
        if stem == "market":
            return {"market": self._texts.by_id[value].market.name}
        if stem.endswith("account"):
            return {camel(stem): self._account(value)}
        if stem.endswith("asset"):
            return {camel(stem): self._projection.assets[value].code}
        shown = {camel(stem + "_id"): str(value)}
        if stem.endswith("order") and value in self._names.order_names:
            shown[camel(stem)] = self._names.order_names[value]
        return shown

    def _amount(self, name: str, units: int, record: Record) -> str:
        assets = self._projection.assets
        if name in _HELD:
            return assets[getattr(record, "hold_asset_id")].format(units)  # noqa: B009
        asset_id = getattr(record, "asset_id", 0)
        if asset_id:
            return assets[asset_id].format(units)
        market = self._text(record).market
        return (market.base if name == "base_units" else market.quote).format(units)

    def _text(self, record: Record) -> MarketText:
        if isinstance(record, pe.CfdTriggersChanged):
            return self._texts.by_id[self._projection.cfds.cfds[record.cfd_id].opened.market_id]
        return self._texts.by_id[getattr(record, "market_id")]  # noqa: B009

    def _account(self, account_id: int) -> str:
        return self._names.account_names.get(account_id, str(account_id))

    def _order_name(self, order_id: int) -> dict[str, str]:
        name = self._names.order_names.get(order_id)
        return {} if name is None else {"order": name}


def _time(ns: int) -> str:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(ns)
    return timestamp.ToJsonString()
